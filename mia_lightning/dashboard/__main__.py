"""`python -m mia_lightning.dashboard` is `mia-dashboard`."""

from mia_lightning.terminal.entry import entry

main = entry("mia-dashboard", "mia_lightning.dashboard.command")

if __name__ == "__main__":
    main()
