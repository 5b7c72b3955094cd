"""Shared by the small commands: an argument parser and messages on stderr."""

import argparse
import sys
from typing import Any, NoReturn

from mia_lightning.terminal.exit_codes import BAD_INPUT


class Parser(argparse.ArgumentParser):
    """Refuses arguments in one sentence instead of argparse's usage text."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        if self.add_help:
            self.add_argument("--version", action=_Version, nargs=0, help="print the version")

    def error(self, message: str) -> NoReturn:
        tell(self.prog.partition(" ")[0], f"{message}; see {self.prog} --help.")
        sys.exit(BAD_INPUT)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from mia_lightning import __version__

        print(f"{parser.prog.partition(' ')[0]} {__version__}")
        sys.exit(0)


def tell(program: str, sentence: str) -> None:
    """Print a sentence to stderr; stdout stays empty."""
    print(f"{program}: {sentence}", file=sys.stderr, flush=True)
