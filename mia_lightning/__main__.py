"""`python -m mia_lightning` is `mia-lightning`."""

from mia_lightning.command.main import main

main()
