"""`dataset=text`: tables and folders of texts, their tokens, and what is refused."""

import gzip
import hashlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mia_lightning.datasets.population import Population
from mia_lightning.datasets.text import load_text
from mia_lightning.datasets.tokens import Hashed
from mia_lightning.errors import DataNotThereError, InputError
from mia_lightning.tasks import Classification, Multilabel, Regression

TEXTS = ["The dog, it barks!", "a cat", "A cat sleeps.", "naïve eels swim"]
LABELS = ["dog", "cat", "cat", "eel"]


def id_of(word: str, size: int = 4096) -> int:
    """By its definition, in another way."""
    digest = hashlib.blake2b(word.encode("utf-8"), digest_size=8).hexdigest()
    return int("".join(reversed(re.findall("..", digest))), 16) % (size - 1) + 1


def rows(texts: Sequence[Any] = TEXTS, labels: Sequence[Any] = LABELS, **others: Sequence[Any]) -> list[dict[str, Any]]:
    columns = {"text": texts, "label": labels, **others}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def json_lines(folder: Path, objects: Sequence[Any], name: str = "texts.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(each) + "\n" for each in objects))
    return path


def class_folders(folder: Path, texts: Sequence[str] = TEXTS, **options: Any) -> Path:
    for i, (text, label) in enumerate(zip(texts, LABELS, strict=True)):
        (folder / "all" / label).mkdir(parents=True, exist_ok=True)
        (folder / "all" / label / f"{i}.txt").write_text(text, **options)
    return folder / "all"


def words_of(population: Population) -> list[set[int]]:
    return [set(row) - {0} for row in population.x_N.tolist()]


def test_hashed_words_are_those_of_the_definition(tmp_path: Path) -> None:
    population = load_text(path=json_lines(tmp_path, rows()), max_tokens=6)
    assert population.x_N.tolist() == [
        [id_of("the"), id_of("dog"), id_of(","), id_of("it"), id_of("barks"), id_of("!")],
        [id_of("a"), id_of("cat"), 0, 0, 0, 0],
        [id_of("a"), id_of("cat"), id_of("sleeps"), id_of("."), 0, 0],
        [id_of("naïve"), id_of("eels"), id_of("swim"), 0, 0, 0],
    ]
    assert (population.name, population.class_names) == ("texts", ("cat", "dog", "eel"))
    assert population.label_N.tolist() == [1, 0, 0, 2]
    assert population.remarks == ()
    assert population.form is not None
    (field,) = population.form.fields
    assert (field.kind, field.name, field.shape, field.padding, field.sizes) == ("tokens", "", (6,), 0, (4096,))


def test_a_hash_is_the_same_everywhere() -> None:
    ((ids, length),) = Hashed(1000).encoded(["Hello, world"], 9)
    assert (ids, length) == ([706, 369, 703], 3)


@given(st.lists(st.text(), max_size=4), st.integers(2, 300), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_hashed_ids_are_in_the_vocabulary_and_none_is_the_padding(texts: list[str], size: int, most: int) -> None:
    for ids, length in Hashed(size).encoded(texts, most):
        assert all(0 < each < size for each in ids)
        assert len(ids) == min(length, most)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(256, torch.uint8), (257, torch.int16), (2**15, torch.int16), (2**15 + 1, torch.int32)],
)
def test_ids_are_of_the_smallest_type_that_holds_them(tmp_path: Path, size: int, dtype: torch.dtype) -> None:
    population = load_text(path=json_lines(tmp_path, rows()), vocabulary_size=size)
    assert population.x_N.dtype == dtype
    assert int(population.x_N[0, 0]) == id_of("the", size)
    seen = population.records(torch.tensor([0]))
    assert isinstance(seen, torch.Tensor)
    assert seen.dtype == torch.int64
    assert torch.equal(seen[0], population.x_N[0].long())


def parquet(folder: Path) -> Path:
    path = folder / "texts"
    pq.write_table(pa.Table.from_pylist(rows()), path)
    return path


def csv(folder: Path, **options: Any) -> Path:
    path = folder / "texts.csv"
    lines = [f'"{text}",{label}' for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text("\n".join(["text,label", *lines]), **options)
    return path


def packed(folder: Path) -> Path:
    path = folder / "texts.jsonl.gz"
    path.write_bytes(gzip.compress(json_lines(folder, rows()).read_bytes()))
    return path


def gaps(folder: Path) -> Path:
    path = json_lines(folder, rows(note=[1, 2.5, None, True]))
    path.write_text(path.read_text().replace("\n", "\n\n").replace(', "note": null', ""))
    return path


FORMS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "csv": (csv, {}),
    "csv in latin-1": (lambda folder: csv(folder, encoding="latin-1"), {"encoding": "latin-1"}),
    "csv in utf-16": (lambda folder: csv(folder, encoding="utf-16"), {}),
    "csv with a mark in the encoding that is said": (lambda f: csv(f, encoding="utf-8-sig"), {"encoding": "utf-8"}),
    "csv in utf-16 as its half is called": (lambda f: csv(f, encoding="utf-16"), {"encoding": "utf-16-le"}),
    "parquet": (parquet, {}),
    "packed json lines": (packed, {}),
    "json lines with gaps": (gaps, {}),
    "folder": (class_folders, {}),
    "folder in latin-1": (lambda folder: class_folders(folder, encoding="latin-1"), {"encoding": "latin-1"}),
    "folder in utf-16": (lambda folder: class_folders(folder, encoding="utf-16"), {}),
    "folder with marks": (lambda f: class_folders(f, encoding="utf-8-sig"), {"encoding": "UTF8"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_same_texts(tmp_path: Path, form: str) -> None:
    make, options = FORMS[form]
    (tmp_path / "plain").mkdir()
    plain = load_text(path=json_lines(tmp_path / "plain", rows()), max_tokens=8)
    population = load_text(path=make(tmp_path), max_tokens=8, **options)
    assert population.class_names == plain.class_names
    # Those of a folder are in the order of their paths.
    assert sorted(zip(population.label_N.tolist(), population.x_N.tolist(), strict=True)) == sorted(
        zip(plain.label_N.tolist(), plain.x_N.tolist(), strict=True)
    )


def test_a_folder_names_its_records_and_skips_what_is_hidden(tmp_path: Path) -> None:
    folder = class_folders(tmp_path)
    (folder / ".git").mkdir()
    (folder / ".git" / "a").write_text("x")
    (folder / "cat" / ".hidden").write_text("x")
    population = load_text(path=folder)
    assert population.record_names == ("cat/1.txt", "cat/2.txt", "dog/0.txt", "eel/3.txt")
    (folder / "cat" / "README").write_text("about cats")
    assert len(load_text(path=folder)) == 5
    assert len(load_text(path=folder, files="*.txt")) == 4


def test_columns_of_members_groups_and_names(tmp_path: Path) -> None:
    others = {"seen": [True, False, 1, 0], "author": ["x", "y", "x", "y"], "key": ["k0", "k1", "k2", 3]}
    objects = [{("words" if key == "text" else key): each for key, each in row.items()} for row in rows(**others)]
    population = load_text(
        path=json_lines(tmp_path, objects),
        text_column="words",
        member_column="seen",
        group_column="author",
        id_column="key",
        name="mails",
    )
    assert population.name == "mails"
    assert population.member_N is not None
    assert population.member_N.tolist() == [True, False, True, False]
    assert population.group_N is not None
    assert (population.group_N.tolist(), population.group_names) == ([0, 1, 0, 1], ("x", "y"))
    assert population.record_names == ("k0", "k1", "k2", "3")


def test_longer_texts_are_cut_and_counted(tmp_path: Path) -> None:
    population = load_text(path=json_lines(tmp_path, rows()), max_tokens=3)
    assert population.x_N.tolist()[0] == [id_of("the"), id_of("dog"), id_of(",")]
    assert population.remarks == ("2 of 4 texts have more than 3 tokens and were cut (dataset.max_tokens).",)


@pytest.mark.parametrize("is_longer", [False, True])
def test_it_is_said_whether_members_were_cut_more_often(tmp_path: Path, is_longer: bool) -> None:
    texts = ["a b c" if (i % 2 if is_longer else i % 4 < 2) else "a" for i in range(40)]
    table = rows(texts, ["x", "x", "y", "y"] * 10, member=[i % 2 for i in range(40)])
    (remark,) = load_text(path=json_lines(tmp_path, table), max_tokens=2, member_column="member").remarks
    assert "20 of 40 texts" in remark
    shares = ("100.0 %", "0.0 %") if is_longer else ("50.0 %", "50.0 %")
    assert "{} of the members and {} of the non-members".format(*shares) in remark
    assert ("more than chance explains" in remark) == is_longer


def test_which_texts_were_cut_is_kept(tmp_path: Path) -> None:
    (mark,) = load_text(path=json_lines(tmp_path, rows(["a b c", "a", "b", "a b c"])), max_tokens=2).marks
    assert (mark.what, mark.has_N.tolist()) == (
        "texts of more than 2 tokens, which were cut",
        [True, False, False, True],
    )
    assert load_text(path=json_lines(tmp_path, rows(["a b c", "a", "b", "a b c"])), max_tokens=3).marks == ()


def test_texts_without_a_word_are_refused_or_left_out(tmp_path: Path) -> None:
    table = rows(["", " \t", None, *TEXTS], ["cat"] * 3 + LABELS, id=list("abcdefg"), member=[1, 0] * 3 + [1])
    path = json_lines(tmp_path, table)
    with pytest.raises(InputError, match=r"3 of 7 texts of .* have no word \(row 0, row 1, row 2\).*empty=leave_out"):
        load_text(path=path)
    population = load_text(path=path, empty="leave_out", id_column="id", member_column="member")
    assert words_of(population) == words_of(load_text(path=json_lines(tmp_path, rows())))
    assert population.record_names == tuple("defg")
    assert population.member_N is not None
    assert population.member_N.tolist() == [False, True, False, True]
    (remark,) = population.remarks
    assert "3 of 7 texts have no word and were left out (row 0, row 1, row 2)" in remark


def made_tokenizer(path: Path, padding: str | None = "[PAD]", ids: Sequence[int] = (0, 1, 2, 7)) -> Path:
    words = dict(zip([padding or "the", "[UNK]", "cat", "dog"], ids, strict=True))
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(path))
    return path


def test_a_tokenizer_file(tmp_path: Path) -> None:
    path, table = made_tokenizer(tmp_path / "tokenizer.json"), json_lines(tmp_path, rows())
    population = load_text(path=table, tokenizer=path, max_tokens=3)
    assert population.x_N.tolist() == [[1, 7, 1], [1, 2, 0], [1, 2, 1], [1, 1, 1]]
    assert population.form is not None
    assert (population.form.fields[0].sizes, population.form.fields[0].padding) == ((8,), 0)
    cut, public = population.remarks
    assert "2 of 4 texts have more than 3 tokens" in cut
    assert "'tokenizer.json' is taken for public" in public


def test_a_tokenizer_keeps_its_last_token_where_a_text_is_cut(tmp_path: Path) -> None:
    path = made_tokenizer(tmp_path / "tokenizer.json", ids=(0, 1, 2, 3))
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(["[END]"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A [END]", special_tokens=[("[END]", 4)]
    )
    tokenizer.enable_truncation(100)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(path))
    population = load_text(path=json_lines(tmp_path, rows()), tokenizer=path, max_tokens=3)
    assert population.x_N.tolist() == [[1, 3, 4], [1, 2, 4], [1, 2, 4], [1, 1, 4]]


@pytest.mark.parametrize(("padding", "expected"), [("<pad>", 0), (None, 8)])
def test_the_padding_of_a_tokenizer(tmp_path: Path, padding: str | None, expected: int) -> None:
    """A tokenizer without one has a further id for it."""
    path = made_tokenizer(tmp_path / "tokenizer.json", padding)
    population = load_text(path=json_lines(tmp_path, rows()), tokenizer=path, max_tokens=4)
    assert population.form is not None
    (field,) = population.form.fields
    assert (field.padding, field.sizes) == (expected, (max(8, expected + 1),))
    assert population.x_N.tolist()[1][2:] == [expected, expected]


def broken(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


REFUSED: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str]] = {
    "no such column": (lambda f: json_lines(f, rows()), {"text_column": "txt"}, r"'txt'.*near it: 'text'.*text_column"),
    "no such label": (csv, {"label_column": "Label"}, r"no column 'Label'.*'label'"),
    "a label is missing": (lambda f: json_lines(f, rows(labels=["a", "b", None, "c"])), {}, r"line 3 of .*''.*'label'"),
    "a label is missing in parquet": (
        lambda f: pq.write_table(pa.Table.from_pylist(rows(labels=["a", None, "b", "c"])), f / "t") or f / "t",
        {},
        "row 1 of .* has '' in column 'label'",
    ),
    "one class": (lambda f: json_lines(f, rows(labels=["a"] * 4)), {}, "of one class alone, 'a'"),
    "a name twice": (
        lambda f: json_lines(f, rows(k=["a", "b", "a", "c"])),
        {"id_column": "k"},
        "line 3 of .* has 'a' in column 'k': .*line 1",
    ),
    "no name": (
        lambda f: json_lines(f, rows(k=["a", "", "d", "c"])),
        {"id_column": "k"},
        "line 2 of .* has '' in column 'k': records without id",
    ),
    "a list": (
        lambda f: json_lines(f, rows([["a"], "b", "c", "d"])),
        {},
        "line 1 of .* has a list or an object in 'text'",
    ),
    "a list in parquet": (
        lambda f: pq.write_table(pa.Table.from_pylist(rows([["a"]] * 4)), f / "t") or f / "t",
        {},
        "column 'text' of .* holds list<",
    ),
    "no character": (lambda f: json_lines(f, rows(["\ud800", "b", "c", "d"])), {}, "'text'.* no file can hold"),
    "no JSON": (lambda f: broken(f, "t.jsonl", b'{"text": "a"\n'), {}, "line 1 of .* is no JSON"),
    "no object": (lambda f: json_lines(f, [{"text": "a"}, [1]]), {}, "line 2 of .* is a list and no object"),
    "nothing": (lambda f: broken(f, "t.jsonl", b"\n"), {}, "is empty"),
    "JSON lines in latin-1": (
        lambda f: broken(f, "t.jsonl", b'{"text": "\xe4"}'),
        {},
        "cannot be read as text in UTF-8.*dataset.encoding",
    ),
    "csv in latin-1": (lambda f: csv(f, encoding="latin-1"), {}, "cannot be read as CSV in UTF-8.*dataset.encoding"),
    "csv in another encoding": (csv, {"encoding": "ascii"}, "cannot be read as CSV in ascii.*dataset.encoding"),
    "damaged parquet": (lambda f: broken(f, "t.csv", b"PAR1 and no more"), {}, "cannot be read as a parquet file"),
    "a column twice": (
        lambda f: pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), f / "t") or f / "t",
        {},
        "column 'text' of .* appears twice",
    ),
    "an unknown encoding": (csv, {"encoding": "utf9"}, "`dataset.encoding` is 'utf9'.*encoding"),
    "an encoding of bytes": (csv, {"encoding": "hex"}, "`dataset.encoding` is 'hex'.*encoding"),
    "folder in latin-1": (
        lambda f: class_folders(f, encoding="latin-1"),
        {},
        "'eel/3.txt' in .* is no text in UTF-8.*dataset.encoding",
    ),
    "no text": (lambda f: class_folders(f, ["a\0", *TEXTS[1:]]), {}, "'dog/0.txt' in .* NUL"),
    "one class folder": (class_folders, {"files": "1.txt"}, "of one class alone, 'cat'"),
    "no class folder": (lambda f: class_folders(f) / "cat", {}, "'1.txt' in .* lies in no class folder"),
    "no file of that name": (class_folders, {"files": "*.md"}, r"no texts whose name fits '\*.md' \(dataset.files\)"),
    "members of a folder": (class_folders, {"member_column": "in"}, r"`dataset.member_column` is set, but .* a folder"),
    "files of a table": (csv, {"files": "*.txt"}, "`dataset.files` is set, but .* is a table"),
    "no record": (lambda f: broken(f, "t.csv", b"text,label\n"), {}, "has no records"),
    "no file": (lambda f: f, {}, "has no texts:"),
    "nothing but empty texts": (
        lambda f: json_lines(f, rows(["a", "", "", ""])),
        {"empty": "leave_out"},
        "in fewer than two classes",
    ),
    "a tokenizer that is none": (
        lambda f: json_lines(f, rows()),
        {"tokenizer": __file__},
        r"test_text.py' is no tokenizer \(.*\).*dataset.tokenizer",
    ),
    "more ids than said": (
        lambda f: made_tokenizer(f / "t.json") and json_lines(f, rows()),
        {"tokenizer": "t.json", "vocabulary_size": 7},
        "dataset.vocabulary_size is 7, but .* has ids up to 7",
    ),
    "a vocabulary of nothing": (csv, {"vocabulary_size": 1}, "`dataset.vocabulary_size` is 1; .* at least 2"),
    "a vocabulary beyond 32 bits": (
        csv,
        {"vocabulary_size": 2**31 + 1},
        "dataset.vocabulary_size is 2147483649.*32 bits",
    ),
    "no tokens": (csv, {"max_tokens": 0}, "`dataset.max_tokens` is 0; .* at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, options, part = REFUSED[case]
    path = make(tmp_path)
    with pytest.raises(InputError, match=part):
        load_text(path=path, **options)


def test_a_tokenizer_that_fails_on_a_text(tmp_path: Path) -> None:
    words = tokenizers.models.WordLevel({"cat": 0}, unk_token="missing")
    tokenizers.Tokenizer(words).save(str(tmp_path / "t.json"))
    with pytest.raises(InputError, match=r"the tokenizer '.*t.json' fails on these texts"):
        load_text(path=json_lines(tmp_path, rows()), tokenizer=tmp_path / "t.json")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataNotThereError, match=r"mails' is not there: set dataset.path"):
        load_text(path=tmp_path / "mails")
    with pytest.raises(DataNotThereError, match=r"t.json' is not a file: set dataset.tokenizer"):
        load_text(path=json_lines(tmp_path, rows()), tokenizer=tmp_path / "t.json")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    folder = class_folders(tmp_path)
    (folder / "cat" / "1.txt").unlink()
    (folder / "cat" / "1.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"'cat/1.txt' in .* cannot be read"):
        load_text(path=folder)


def test_without_the_package_a_tokenizer_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made_tokenizer(tmp_path / "tokenizer.json")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"needs the package tokenizers: pip install"):
        load_text(path=json_lines(tmp_path, rows()), tokenizer=path)


def test_the_labels_of_a_regression_are_the_numbers_of_a_column(tmp_path: Path) -> None:
    place = json_lines(tmp_path, rows(labels=[2.5, -1, 30, 4], k=["a", "b", "c", "d"]))
    population = load_text(path=place, id_column="k", task=Regression(likelihood="laplace"))
    assert population.label_N.dtype == torch.float32
    assert population.label_N.tolist() == [2.5, -1, 30, 4]
    assert population.class_names == ("label",)
    assert population.record_names == ("a", "b", "c", "d")
    assert population.task == Regression(likelihood="laplace")
    assert torch.equal(population.x_N, load_text(path=place).x_N)


def test_texts_without_a_word_leave_their_numbers_out(tmp_path: Path) -> None:
    place = json_lines(tmp_path, rows([TEXTS[0], "", *TEXTS[2:]], [1, 2, 2, 2.5]))
    population = load_text(path=place, empty="leave_out", task=Regression())
    assert population.label_N.tolist() == [1, 2, 2.5]


@pytest.mark.parametrize(
    ("labels", "task", "named"),
    [
        (["a", "b", "c", "d"], Regression(), "line 1 of .* has 'a' in column 'label'"),
        ([7, 7, 7, 7], Regression(), "label 'label' .* is 7 for all records"),
        ([0, 1, 0, 1], Multilabel(), "task=multilabel takes"),
    ],
)
def test_columns_that_are_none_of_the_task(tmp_path: Path, labels: list[Any], task: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        load_text(path=json_lines(tmp_path, rows(labels=labels)), task=task)


def test_a_folder_has_classes_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder of classes.*task=regression.*dataset\.label_column"):
        load_text(path=class_folders(tmp_path), task=Regression())
    assert load_text(path=class_folders(tmp_path), task=Classification()).class_names == ("cat", "dog", "eel")
