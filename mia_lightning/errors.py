"""The one exception that means "the input is at fault, not the program", and its kinds."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

_ADVICE = re.compile(r"weights_only|allow_pickle|unpickl", re.IGNORECASE)
_JOINERS = "\u200c\u200d"  # without shape, but needed by some scripts, and by emoji
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class InputError(ValueError):
    """A value that the caller gave cannot be used.

    The message is one sentence that names the value, where it came from and the mend. The command line
    prints it and exits with 2; any other exception is a bug and keeps its traceback. A value may come from anywhere, so
    the message is made one line that a terminal only shows.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class DataNotThereError(InputError):
    """A data set is neither on disk nor to be had from the network; in a comparison what needs it is left out."""


class SettingError(InputError):
    """A setting that is missing, unknown, of another type, or out of its range.

    Attributes:
        section: of the configuration, such as `shadow`; "" for what stands in none.
        name: of the setting within it.
        rest: what is wrong with it and what it must be: the end of the sentence.
    """

    def __init__(self, section: str, name: str, rest: str) -> None:
        super().__init__(f"`{section}.{name}` {rest}" if section else f"`{name}` {rest}")
        self.section, self.name, self.rest = section, name, rest

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.section, self.name, self.rest)

    def at(self, place: str) -> "SettingError":
        """The same of a section that stands elsewhere in the configuration, such as `training` at `guess.training`."""
        last = place.rpartition(".")[2]
        if self.section != last and not self.section.startswith(f"{last}."):
            return self
        return type(self)(place + self.section[len(last) :], self.name, self.rest)


def one_line(text: str) -> str:
    """The text in one line that a terminal only shows: blanks for line breaks, escapes for what has no shape."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in _JOINERS else " " if each.isspace() else _escaped(each) for each in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def nearest(word: str, words: Iterable[str]) -> str:
    """ " (did you mean `...`?)" where one of `words` is close, else nothing."""
    found = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean `{found[0]}`?)" if found else ""


def listed(names: Sequence[str]) -> str:
    """The first five names, quoted."""
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop; the name of its class where the message is empty.

    A message that advises to load objects, whose code would run, is not repeated.
    """
    if _ADVICE.search(str(error)):
        return "it is damaged, or holds objects, which are never loaded since their code would run"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


@contextmanager
def usable_files() -> Iterator[None]:
    """Within the context a file that the system refuses is the fault of the input, and not of the program.

    Raises:
        InputError: naming the file, and why it is refused.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        raise InputError(
            f"{str(error.filename)!r} cannot be used ({error.strerror}); give another path, or the right to this one."
        ) from error


def is_storable(text: str) -> bool:
    """Whether the text can be encoded, and is none that the system would cut at a NUL."""
    return _UNSTORABLE.search(text) is None
