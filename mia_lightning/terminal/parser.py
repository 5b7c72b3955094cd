"""What the small commands share: sentences on stderr, and how their processes end."""

import argparse
import sys
from typing import NoReturn

from mia_lightning.terminal.exit_codes import BAD_INPUT


class Parser(argparse.ArgumentParser):
    """Refuses arguments in one sentence, where argparse would print its usage."""

    def error(self, message: str) -> NoReturn:
        tell(self.prog.partition(" ")[0], f"{message}; see {self.prog} --help.")
        sys.exit(BAD_INPUT)


def tell(program: str, sentence: str) -> None:
    """To the person at the terminal; stdout stays empty."""
    print(f"{program}: {sentence}", file=sys.stderr, flush=True)
