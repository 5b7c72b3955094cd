"""What servers may answer instead of an answer: hypothesis strategies, and the sentence that must come of it."""

import json
from typing import Any

from hypothesis import strategies as st

SECRET = "s3cr3t-token-of-the-test"
_LONGEST_SENTENCE = 1500

_texts = st.sampled_from(
    [
        "",
        "a",
        "0",
        "1.0",
        "nan",
        "\x1b[31mred\x07\r\n",
        "\x9b2J",
        "\u202e",
        "\ud800",
        SECRET,
        f"Bearer {SECRET}",
        "é" * 300,
    ]
) | st.text(max_size=8)
_numbers = (
    st.sampled_from([0, 1, -1, 2, 0.5, 1e308, 10**19, 10**400, -(10**400), float("nan"), float("inf"), float("-inf")])
    | st.integers()
    | st.floats()
)
_scalars = st.none() | st.booleans() | _numbers | _texts
values: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def _written(draw: st.DrawFn, value: st.SearchStrategy[Any]) -> bytes:
    """As JSON in some encoding, perhaps cut, repeated within lists, or with a byte changed."""
    content = json.dumps(draw(value), ensure_ascii=draw(st.booleans())).encode(
        draw(st.sampled_from(["utf-8"] * 8 + ["utf-16", "utf-32"])), errors="surrogatepass"
    )
    how = draw(st.integers(0, 15))
    if how == 0:
        content = content[: draw(st.integers(0, len(content)))]
    elif how == 1:
        depth = draw(st.sampled_from([1, 30, 40, 900, 50_000]))
        content = b"[" * depth + content + b"]" * depth
    elif how == 2 and content:
        place = draw(st.integers(0, len(content) - 1))
        content = content[:place] + draw(st.binary(min_size=1, max_size=1)) + content[place + 1 :]
    return content


def _bent(value: Any) -> st.SearchStrategy[Any]:
    """The value, in most places as it is."""
    if isinstance(value, dict):
        whole: st.SearchStrategy[Any] = st.fixed_dictionaries(
            {}, optional={name: _bent(each) for name, each in value.items()}
        ) | st.fixed_dictionaries({name: _bent(each) for name, each in value.items()})
    elif isinstance(value, list):
        whole = st.tuples(*map(_bent, value)).map(list) | st.lists(st.one_of(*map(_bent, value or [0])), max_size=6)
    else:
        whole = st.just(value)
    return st.integers(0, 11).flatmap(lambda place: values if place == 0 else whole)


def near(*answers: Any) -> st.SearchStrategy[bytes]:
    """The bodies of answers that are nearly these."""
    return _written(st.one_of(*map(_bent, answers)))


junk: st.SearchStrategy[bytes] = _written(values) | st.binary(max_size=60)


def is_one_sentence(text: str) -> bool:
    """Whether it may be shown: one line, nothing that a terminal obeys, no part of the secret."""
    return text.isprintable() and text.endswith(".") and len(text) < _LONGEST_SENTENCE and SECRET[:8] not in text
