"""What this package wrote as JSON is read back as it was, or does not count."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel

from mia_lightning.store.documents import EXACT, DamagedError, read, sealed, understood, unsealed

CONTENT = {"name": "é", "count": 3, "share": 0.1, "of": {"1": [True, None]}}


class Form(BaseModel):
    model_config = EXACT

    name: str
    count: int
    share: float
    of: dict[str, tuple[bool | None, ...]]


@dataclass(frozen=True)
class Plain:
    """The same as a dataclass."""

    __pydantic_config__ = EXACT

    name: str
    count: int
    share: float
    of: dict[str, tuple[bool | None, ...]]


@pytest.mark.parametrize("form", [Form, Plain])
def test_a_document_comes_back_by_its_form(form: type, tmp_path: Path) -> None:
    assert read(tmp_path / "absent.json", form) is None
    (tmp_path / "plain.json").write_text(json.dumps(CONTENT))
    (tmp_path / "sealed.json").write_bytes(sealed(CONTENT, "here"))
    expected = form(name="é", count=3, share=0.1, of={"1": (True, None)})
    assert read(tmp_path / "plain.json", form) == expected
    assert read(tmp_path / "sealed.json", form, seal="here") == expected


@pytest.mark.parametrize("form", [Form, Plain])
@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"count": "3"}, "count"),
        ({"count": 3.0}, "count"),
        ({"count": True}, "count"),
        ({"share": "0.1"}, "share"),
        ({"name": None}, "name"),
        ({"of": {"1": [3]}}, "of.1.0"),
        ({"of": []}, "of"),
        ({"more": 1}, "more"),
    ],
)
def test_another_type_or_name_is_damage(form: type, change: dict[str, object], names: str, tmp_path: Path) -> None:
    (tmp_path / "plain.json").write_text(json.dumps(CONTENT | change))
    with pytest.raises(DamagedError) as raised:
        read(tmp_path / "plain.json", form)
    assert f"`{names}`" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000, b'{"check": 1}'],
)
@pytest.mark.parametrize("seal", [None, "here"])
def test_what_is_no_such_document_is_damage(content: bytes, seal: str | None, tmp_path: Path) -> None:
    (tmp_path / "document.json").write_bytes(content)
    with pytest.raises(DamagedError):
        read(tmp_path / "document.json", Form, seal=seal)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_number_of_a_document_is_infinite(text: str) -> None:
    with pytest.raises(DamagedError, match="share"):
        understood(json.dumps(CONTENT).replace("0.1", text).encode(), Form)


def test_what_cannot_be_read_is_damage(tmp_path: Path) -> None:
    (tmp_path / "document.json").mkdir()
    with pytest.raises(DamagedError, match="cannot be read"):
        read(tmp_path / "document.json", Form)


def test_a_seal_is_of_every_character_and_of_its_place() -> None:
    whole = sealed(CONTENT, "here")
    assert unsealed(whole, "here") == CONTENT
    with pytest.raises(DamagedError, match="does not match its checksum"):
        unsealed(whole, "there")
    numbers = random.Random(0)
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << numbers.randrange(8)
        try:
            assert unsealed(bytes(content), "here") == CONTENT  # another space
        except DamagedError:
            continue


@pytest.mark.parametrize("edit", [lambda kept: kept | {"count": 4}, lambda kept: {**kept, "check": None}, lambda _: {}])
def test_an_edited_document_has_no_seal(edit: Callable[[dict[str, object]], dict[str, object]]) -> None:
    edited = json.dumps(edit(json.loads(sealed(CONTENT, "here")))).encode()
    with pytest.raises(DamagedError):
        unsealed(edited, "here")
