"""What the small commands share: one sentence on stderr for what is wrong, and how their processes end."""

import argparse
import sys
from typing import NoReturn

BAD_INPUT, INTERRUPTED, CLOSED = 2, 130, 141


class Parser(argparse.ArgumentParser):
    """Refuses arguments in one sentence, where argparse would print its usage."""

    def error(self, message: str) -> NoReturn:
        complain(self.prog.partition(" ")[0], f"{message}; see {self.prog} --help.")
        sys.exit(BAD_INPUT)


def complain(program: str, sentence: str) -> None:
    print(f"{program}: {sentence}", file=sys.stderr, flush=True)
