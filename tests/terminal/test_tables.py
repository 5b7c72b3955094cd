"""Tables on any width: nothing is cut, no word is broken."""

import io
import itertools

import pytest
from rich.console import Console

from mia_lightning.terminal.tables import Columns, Sentence, printer, wrapped

HEADS = ["run", "attack", "AUC", "TPR\nat 1 %"]
ROWS = [
    ["0: model=logistic_regression seed=0", "quantile_regression", "0.500\n[.4,.6]", "–"],
    ["", "loss", "0.750", "0.125"],
    ["1: model=日本語 seed=1", "quantile_regression-adaptive", "1.000", "0.000"],
]
WORDS = sorted(word for row in [HEADS, *ROWS] for cell in row for word in cell.split())


def printed(what: object, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(what, crop=False)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [1_000_000, 120, 80, 60, 40, 20, 1])
def test_every_word_stands_whole_at_any_width(width: int) -> None:
    lines = printed(Columns(HEADS, ROWS, 2), width)
    words = sorted(word.rstrip(",") for line in lines for word in line.split())
    assert words == WORDS
    if width >= 60:
        assert max(map(len, lines)) <= width


def test_a_wide_table_is_aligned_and_has_a_line_for_each_line_of_a_row() -> None:
    lines = printed(Columns(HEADS, ROWS, 2), 200)
    assert len(lines) == 2 + 2 + 1 + 1
    ends = {line.rstrip()[-1] for line in lines[2:]}
    assert ends == {"–", "]", "5", "0"}
    start = lines[1].index("attack")
    assert [lines[place][start:].split()[0] for place in (2, 4)] == ["quantile_regression", "loss"]
    assert lines[5][start - 3 :].split()[0] == "quantile_regression-adaptive"  # its name before has wide characters
    assert lines[1].endswith("at 1 %")
    assert lines[1].rindex("AUC") + 3 == lines[2].index("0.500") + 5  # on the right


def test_names_stand_apart_only_where_the_table_is_wider_than_its_place() -> None:
    widths = {n: max(map(len, printed(Columns(HEADS, ROWS[:2], 2), n))) for n in (200, 60, 45)}
    assert widths[200] > 60
    assert ["run" in line and "attack" in line for line in printed(Columns(HEADS, ROWS[:2], 2), 200)][1]
    apart = printed(Columns(HEADS, ROWS[:2], 2), 60)
    assert apart[0] == "run"
    assert ROWS[0][0] in apart
    assert not any(line.strip() == "" for line in apart)


@pytest.mark.parametrize("text", ["a path /with/very/long/parts/that/no/line/holds and more", "one", ""])
@pytest.mark.parametrize("width", [5, 20, 1000])
def test_a_sentence_breaks_between_words_alone(text: str, width: int) -> None:
    lines = printed(Sentence(text), width)
    assert " ".join(lines).split() == text.split()
    assert all(len(line.rstrip()) <= width or " " not in line.strip() for line in lines)


def test_no_line_could_take_the_word_behind_it() -> None:
    lines = wrapped("six words of text in lines", 10)
    assert all(len(f"{one} {other.split()[0]}") > 10 for one, other in itertools.pairwise(lines))


def test_a_file_is_as_wide_as_its_content(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    printer().print(Columns(HEADS, ROWS, 2), crop=False)
    out = capsys.readouterr().out.splitlines()
    assert out == Columns(HEADS, ROWS, 2).lines(1_000_000)
