"""`python -m mia_lightning` is `mia-lightning`."""

from typing import NoReturn

from mia_lightning.terminal.entry import hold_back, let_through, run


def main() -> NoReturn:
    """The command, which answers a signal before it imports anything: as soon as the folder of the run is known."""
    hold_back()  # before `run` answers, so that no signal is answered without that folder
    run("mia-lightning", _held_back)


def _held_back() -> NoReturn:
    try:
        from mia_lightning.command.main import main

        main()
    finally:
        let_through()


if __name__ == "__main__":
    main()
