"""`python -m mia_lightning.serve` is `mia-serve`."""

from mia_lightning.terminal.entry import entry

main = entry("mia-serve", "mia_lightning.serve.command", loss=" before it served anything")

if __name__ == "__main__":
    main()
