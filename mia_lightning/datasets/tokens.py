"""Texts as token ids: hashed words, or a tokenizer that somebody trained."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mia_lightning.errors import DataNotThereError, InputError, first_line

HASHED = "hashed"
HASHED_SIZE = 4096  # of a vocabulary, where none is said
_WORD = re.compile(r"\w+|[^\w\s]")
_MOST_IDS = 2**31
_BLOCK = 1024  # texts at once: bounds memory, not results
_PADDINGS = ("[PAD]", "<pad>", "<|pad|>", "<PAD>")


class Tokenizer(Protocol):
    """What makes ids of texts.

    Attributes:
        size: number of ids, that of the padding included.
        padding: the id that fills up short texts.
    """

    @property
    def size(self) -> int: ...

    @property
    def padding(self) -> int: ...

    def encoded(self, texts: Sequence[str], most: int) -> Iterator[tuple[list[int], int]]:
        """Of each text the ids of its first `most` tokens, and how many tokens it has in all."""
        ...


@dataclass(frozen=True)
class Hashed:
    """Words by a hash, a public constant for which nothing is fitted and nothing is downloaded.

    A word is a run of letters, digits and underscores in lower case; every other character but blanks is a word of its
    own. Its id is 1 + h mod (size - 1), where h is BLAKE2b of the word in UTF-8, 8 bytes, little-endian. It is the same
    on every machine; two words may share one.

    Attributes:
        size: number of ids; 0 is the padding.
    """

    size: int = HASHED_SIZE
    padding: int = 0

    def encoded(self, texts: Sequence[str], most: int) -> Iterator[tuple[list[int], int]]:
        id_of: dict[str, int] = {}
        for text in texts:
            words = _WORD.findall(text.lower())
            for word in words[:most]:
                if word not in id_of:
                    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
                    id_of[word] = 1 + int.from_bytes(digest, "little") % (self.size - 1)
            yield [id_of[word] for word in words[:most]], len(words)


@dataclass(frozen=True)
class FromFile:
    """The tokenizer of a JSON file of Hugging Face's package `tokenizers`, with the tokens that it adds at the ends.

    Attributes:
        file: which is there.
    """

    file: Path

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            import tokenizers
        except ImportError as error:
            raise InputError(
                f"dataset.tokenizer is '{self.file}', which needs the package tokenizers: pip install "
                '"mia-lightning[text]", or leave it `hashed`'
            ) from error
        try:
            read = tokenizers.Tokenizer.from_file(str(self.file))
        except Exception as error:  # the package raises plain exceptions
            raise InputError(
                f"'{self.file.absolute()}' is no tokenizer ({first_line(error)}): set dataset.tokenizer to a "
                "tokenizer.json that the package tokenizers wrote, or leave it `hashed`"
            ) from error
        return read

    @cached_property
    def _known(self) -> int:
        """The number of ids."""
        return 1 + max(self._tokenizer.get_vocab().values(), default=-1)

    @cached_property
    def padding(self) -> int:
        """Its own; a further id for a tokenizer that has none."""
        if self._tokenizer.padding is not None:
            return int(self._tokenizer.padding["pad_id"])
        own = [self._tokenizer.token_to_id(each) for each in _PADDINGS]
        return next((each for each in own if each is not None), self._known)

    @property
    def size(self) -> int:
        return max(self._known, self.padding + 1)

    def encoded(self, texts: Sequence[str], most: int) -> Iterator[tuple[list[int], int]]:
        plain, cutting = (type(self._tokenizer).from_str(self._tokenizer.to_str()) for _ in range(2))
        for each in (plain, cutting):
            each.no_padding()
            each.no_truncation()
        try:
            cutting.enable_truncation(most)
            for start in range(0, len(texts), _BLOCK):
                block = list(texts[start : start + _BLOCK])
                for text, found in zip(block, plain.encode_batch_fast(block), strict=True):
                    ids = found.ids
                    yield (ids if len(ids) <= most else cutting.encode(text).ids), len(ids)
        except Exception as error:  # the package raises plain exceptions
            raise InputError(
                f"the tokenizer '{self.file.absolute()}' fails on these texts with dataset.max_tokens={most} "
                f"({first_line(error)}): give more tokens, or another tokenizer"
            ) from error


def tokenizer_of(choice: str | Path, vocabulary_size: int | None) -> Tokenizer:
    """The tokenizer of a setting: `hashed`, or the path of a file.

    Raises:
        InputError: the file is not there, is no tokenizer, or has more ids than `vocabulary_size`, or that is too many.
    """
    if vocabulary_size is not None and vocabulary_size > _MOST_IDS:
        raise InputError(
            f"dataset.vocabulary_size is {vocabulary_size}, and ids are held in 32 bits: give at most {_MOST_IDS}"
        )
    if str(choice) == HASHED:
        return Hashed(HASHED_SIZE if vocabulary_size is None else vocabulary_size)
    file = Path(choice).expanduser()
    if not file.is_file():
        raise DataNotThereError(
            f"'{file.absolute()}' is not a file: set dataset.tokenizer to a tokenizer.json, or to `hashed`"
        )
    read = FromFile(file)
    if vocabulary_size is not None and vocabulary_size < read.size:
        raise InputError(
            f"dataset.vocabulary_size is {vocabulary_size}, but the tokenizer '{file.absolute()}' has ids up to "
            f"{read.size - 1}: leave it null"
        )
    return read


def padded(
    tokenizer: Tokenizer, texts: Sequence[str], most: int, size: int
) -> tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]:
    """Ids `[N, most]` in the smallest integer type that holds `size` of them, and the tokens of each text, `[N]`."""
    dtype = np.uint8 if size <= 2**8 else np.int16 if size <= 2**15 else np.int32
    id_NL = np.full((len(texts), most), tokenizer.padding, dtype)
    length_N = np.zeros(len(texts), np.int64)
    for i, (ids, length) in enumerate(tokenizer.encoded(texts, most)):
        id_NL[i, : len(ids)] = ids
        length_N[i] = length
    return id_NL, length_N
