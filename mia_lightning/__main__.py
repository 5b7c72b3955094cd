"""`python -m mia_lightning` is `mia-lightning`."""

from mia_lightning.cli import main

main()
