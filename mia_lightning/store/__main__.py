"""`python -m mia_lightning.store` is `mia-store`."""

from mia_lightning.terminal.entry import entry

main = entry("mia-store", "mia_lightning.store.command")

if __name__ == "__main__":
    main()
