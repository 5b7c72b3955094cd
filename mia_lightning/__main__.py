"""`python -m mia_lightning` is `mia-lightning`."""

from typing import NoReturn

from mia_lightning.terminal.entry import held_back, run


def main() -> NoReturn:
    """The command, which answers a signal before it imports anything: as soon as the folder of the run is known."""
    run("mia-lightning", _held_back)


def _held_back() -> NoReturn:
    with held_back():
        from mia_lightning.command.main import main

        main()


if __name__ == "__main__":
    main()
