import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mia_lightning.datasets.published import Form, Table, read_published
from mia_lightning.errors import InputError

FORM = Form(num_records=4, num_features=3, num_classes=2)
CONTENT = b"1,0,1,0\n2,1,1,1\n2,0,0,0\n1,0,0,1\n"
BITS = [[0, 1, 0], [1, 1, 1], [0, 0, 0], [0, 0, 1]]
LABELS = [0, 1, 1, 0]
ARCHIVE, MEMBER = "set.tgz", "folder/set"
NOWHERE = "http://127.0.0.1:9/never-asked"


def member(content: bytes, name: str = MEMBER, kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    return info, content


def tgz(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def read(root: Path, url: str = NOWHERE, checksum: str | None = None) -> Table:
    return read_published(root=root, archive=ARCHIVE, url=url, checksum=checksum, forms={MEMBER: FORM})[MEMBER]


def extracted(root: Path, content: bytes) -> Path:
    path = root / MEMBER
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def check(table: Table) -> None:
    assert table.bit_NF.dtype == np.uint8
    assert table.bit_NF.tolist() == BITS
    assert table.label_N.dtype == np.int64
    assert table.label_N.tolist() == LABELS


@pytest.mark.parametrize(
    "content",
    [
        CONTENT,
        CONTENT.removesuffix(b"\n"),
        CONTENT + b"\n",
        CONTENT.replace(b"\n", b"\r\n"),
        CONTENT.replace(b"2,", b'"2",'),
        CONTENT.replace(b"0,1", b'"0","1"'),
    ],
    ids=["published", "no last line end", "blank line behind", "CRLF", "class in quotes", "cells in quotes"],
)
def test_every_cell(tmp_path: Path, content: bytes) -> None:
    extracted(tmp_path, content)
    check(read(tmp_path))
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / ARCHIVE).write_bytes(tgz(member(content)))
    check(read(tmp_path / "packed"))
    assert [path.name for path in (tmp_path / "packed").iterdir()] == [ARCHIVE]


def test_archive_goes_before_the_extracted_file(tmp_path: Path) -> None:
    extracted(tmp_path, b"something else")
    (tmp_path / ARCHIVE).write_bytes(tgz(member(CONTENT)))
    check(read(tmp_path))


def test_member_is_found_behind_others_and_under_a_dot(tmp_path: Path) -> None:
    others = [member(b"", "folder", tarfile.DIRTYPE), member(b"?", "../../outside"), member(b"?", "/absolute")]
    (tmp_path / ARCHIVE).write_bytes(tgz(*others, member(CONTENT, f"./{MEMBER}"), member(b"?", "folder/._set")))
    check(read(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


def test_several_files_in_any_order(tmp_path: Path) -> None:
    forms = {
        "x": Form(num_records=2, num_features=3, num_classes=0),
        "label": Form(num_records=2, num_features=0, num_classes=2),
    }
    (tmp_path / ARCHIVE).write_bytes(tgz(member(b"2\n1\n", "label"), member(b"0,1,1\n1,0,0\n", "x")))
    tables = read_published(root=tmp_path, archive=ARCHIVE, url=NOWHERE, checksum=None, forms=forms)
    assert tables["x"].bit_NF.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert tables["label"].label_N.tolist() == [1, 0]


WHAT = r"is not the published file of 4 records of a class from 1 to 2 and 3 binary features"
OF_ANOTHER_FORM: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it has 0 records"),
    "fewer records": (CONTENT[:-8], "it has 3 records"),
    "more records": (CONTENT + b"1,0,1,0\n", "it has over 4 records"),
    "broken off": (CONTENT[:-3], "line 4 has 3 columns"),
    "blank line between": (CONTENT.replace(b"\n2,1", b"\n\n2,1"), "line 2 has 1 columns"),
    "fewer columns": (CONTENT.replace(b"2,1,1,1", b"2,1,1"), "line 2 has 3 columns"),
    "more columns": (CONTENT.replace(b"2,1,1,1", b"2,1,1,1,1"), "line 2 has 5 columns"),
    "longer line": (CONTENT.replace(b"2,1,1,1", b"2,1,1,1" + b"1" * 50), "line 2 has over 28 bytes"),
    "2 as a feature": (CONTENT.replace(b"2,1,1,1", b"2,1,2,1"), "line 2, column 3 has '2', not 0 or 1"),
    "below the digits": (CONTENT.replace(b"2,1,1,1", b"2,1,/,1"), "line 2, column 3 has '/', not 0 or 1"),
    "a word": (CONTENT.replace(b"1,0,0,1", b"1,0,yes,1"), "line 4, column 3 has 'yes', not 0 or 1"),
    "missing feature": (CONTENT.replace(b"1,0,0,1", b"1,0,,1"), "line 4, column 3 has '', not 0 or 1"),
    "only a quote": (CONTENT.replace(b"1,0,0,1", b'1,0,0,"1'), "line 4, column 4 has '\"1', not 0 or 1"),
    "no ASCII": (CONTENT.replace(b"1,0,0,1", b"1,0,0,\xff"), "line 4, column 4 has '\ufffd', not 0 or 1"),
    "fraction": (CONTENT.replace(b"1,0,0,1", b"1,0,0.5,1"), "line 4, column 3 has '0.5', not 0 or 1"),
    "class 0": (CONTENT.replace(b"2,1", b"0,1"), "line 2, column 1 has '0', not a class from 1 to 2"),
    "class 3": (CONTENT.replace(b"2,1", b"3,1"), "line 2, column 1 has '3', not a class from 1 to 2"),
    "class -1": (CONTENT.replace(b"2,1", b"-1,1"), "line 2, column 1 has '-1', not a class from 1 to 2"),
    "no class": (CONTENT.replace(b"2,1", b",1"), "line 2, column 1 has '', not a class from 1 to 2"),
    "a class without records": (CONTENT.replace(b"2,", b"1,"), "class 2 has no record"),
}


@pytest.mark.parametrize("case", OF_ANOTHER_FORM)
def test_file_of_another_form(case: str, tmp_path: Path) -> None:
    content, found = OF_ANOTHER_FORM[case]
    path = extracted(tmp_path, content)
    with pytest.raises(InputError) as refusal:
        read(tmp_path)
    what = WHAT.replace("\\", "")
    assert str(refusal.value) == f"'{path}' {what} ({found}): delete it so that {ARCHIVE} is downloaded again"
    archive = tmp_path / ARCHIVE
    archive.write_bytes(tgz(member(content)))
    with pytest.raises(InputError) as refusal:
        read(tmp_path)
    mend = "delete the archive so that it is downloaded again"
    if case not in ("longer line", "more records"):  # where the size may already tell
        assert str(refusal.value) == f"'{MEMBER}' in '{archive}' {what} ({found}): {mend}"
    assert archive.exists()


def damaged(content: bytes) -> bytes:
    """The same compressed bytes, with another checksum behind them."""
    return content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]


LARGE = np.random.default_rng(0).bytes(50_000)
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", r"is truncated or altered \(empty file\)"),
    "no gzip": (lambda: b"<html>sign in</html>", r"is truncated or altered \(Not a gzipped file .*\)"),
    "no tar": (lambda: gzip.compress(CONTENT), r"is truncated or altered \(.*\)"),
    "truncated": (lambda: tgz(member(CONTENT))[:-20], r"is truncated or altered \(.*\)"),
    "truncated in the header": (lambda: tgz(member(CONTENT))[:60], r"is truncated or altered \(.*\)"),
    "last bytes cut off": (lambda: tgz(member(CONTENT))[:-4], r"is truncated or altered \(.*\)"),
    "altered": (lambda: damaged(tgz(member(CONTENT))), r"is truncated or altered \(CRC check failed .*\)"),
    "no member": (
        lambda: tgz(member(CONTENT, "set")),
        r"is not the published archive \(it holds no file 'folder/set'\)",
    ),
    "link": (lambda: tgz(linked(tarfile.SYMTYPE)), r"\('folder/set' in it is a link or a folder, not a file\)"),
    "hard link": (lambda: tgz(linked(tarfile.LNKTYPE)), r"\('folder/set' in it is a link or a folder, not a file\)"),
    "folder": (lambda: tgz(member(b"", MEMBER, tarfile.DIRTYPE)), r"is a link or a folder, not a file\)"),
    "device": (lambda: tgz(member(b"", MEMBER, tarfile.CHRTYPE)), r"is a link or a folder, not a file\)"),
    "large member": (lambda: tgz(member(CONTENT * 4)), r"\('folder/set' in it has 128 bytes\)"),
    "large other member": (lambda: tgz(member(LARGE, "x"), member(CONTENT)), r"\('x' in it has 50,000 bytes\)"),
    "large rest": (
        lambda: tgz(member(CONTENT)) + gzip.compress(bytes(20_000_000)),
        r"\(it goes on after the end of the tar format\)",
    ),
}


def linked(kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info, content = member(b"", MEMBER, kind)
    info.linkname = "/etc/hostname"
    return info, content


@pytest.mark.parametrize("case", REFUSED)
def test_archive_that_is_refused(case: str, tmp_path: Path) -> None:
    make, found = REFUSED[case]
    archive = tmp_path / ARCHIVE
    archive.write_bytes(make())
    with pytest.raises(
        InputError, match=rf"^'{archive}' .*{found}: delete the archive so that it is downloaded again$"
    ):
        read(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


@pytest.mark.parametrize("case", REFUSED)
def test_download_that_is_refused_is_not_kept(case: str, tmp_path: Path) -> None:
    source, root = tmp_path / "mirror.tgz", tmp_path / "root"
    source.write_bytes(REFUSED[case][0]())
    mend = rf"the download from {source.as_uri()} was deleted, so set dataset.url .* into '{root}' by hand$"
    with pytest.raises(InputError, match=f"{REFUSED[case][1]}: {mend}"):
        read(root, source.as_uri())
    assert list(root.iterdir()) == []
    source.write_bytes(tgz(member(CONTENT)))
    check(read(root, source.as_uri()))


def test_checksum_of_an_archive_that_lies_there(tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(tgz(member(CONTENT)))
    with pytest.raises(InputError, match=r"is truncated or altered \(MD5 .*, expected 0{32}\): delete it"):
        read(tmp_path, checksum="md5:" + "0" * 32)


def test_archive_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).mkdir()
    with pytest.raises(InputError, match=r"set.tgz' cannot be read \(.*directory.*\): make it a readable file"):
        read(tmp_path)


def test_extracted_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = extracted(tmp_path, CONTENT)

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=rf"^'{path}' cannot be read \(.*denied\): make it readable$"):
        read(tmp_path)
