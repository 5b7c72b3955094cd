"""Shared by the small commands: an argument parser and messages on stderr."""

import argparse
import sys
from typing import NoReturn

from mia_lightning.terminal.exit_codes import BAD_INPUT


class Parser(argparse.ArgumentParser):
    """Refuses arguments in one sentence instead of argparse's usage text."""

    def error(self, message: str) -> NoReturn:
        tell(self.prog.partition(" ")[0], f"{message}; see {self.prog} --help.")
        sys.exit(BAD_INPUT)


def tell(program: str, sentence: str) -> None:
    """Print a sentence to stderr; stdout stays empty."""
    print(f"{program}: {sentence}", file=sys.stderr, flush=True)
