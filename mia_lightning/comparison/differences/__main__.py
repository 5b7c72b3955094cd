"""`python -m mia_lightning.comparison.differences` is `mia-compare`."""

from mia_lightning.terminal.entry import entry

main = entry("mia-compare", "mia_lightning.comparison.differences.command")

if __name__ == "__main__":
    main()
