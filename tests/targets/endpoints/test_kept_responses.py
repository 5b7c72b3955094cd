"""Answers that are kept for good, by processes that share a file."""

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.responses import VERSION, Responses

IDENTITY = {"protocol": "scripted", "place": "here"}
ANSWERS = [[0.1, 0.7, 0.2], "cat", 3, {"a": 0.1 + 0.2}]
KEYS = [bytes([number]) * 20 for number in range(4)]


@pytest.mark.parametrize("is_on_disk", [True, False])
def test_answers_come_back_as_they_were(is_on_disk: bool, tmp_path: Path) -> None:
    responses = Responses(tmp_path / "new" / "folder" if is_on_disk else None, IDENTITY)
    responses.keep(KEYS, ANSWERS)
    responses.keep(KEYS[:1], ["another"])
    assert responses.kept([*KEYS, b"other"]) == dict(zip(KEYS, ANSWERS, strict=True))
    assert responses.are_kept([b"other", KEYS[2]]) == {KEYS[2]}
    many = [number.to_bytes(19, "big") for number in range(1200)]
    responses.keep(many, range(1200))
    assert responses.kept(many) == {key: number for number, key in enumerate(many)}
    responses.close()


def test_the_budget_is_reserved_before_it_is_spent() -> None:
    responses = Responses(None, IDENTITY)
    assert responses.reserve(6, 10)
    assert not responses.reserve(5, 10)
    assert responses.reserve(4, 10)
    responses.give_back(3)
    assert responses.asked == 7
    assert responses.reserve(100, None)
    responses.close()


def test_threads_and_connections_never_pass_the_budget_together(tmp_path: Path) -> None:
    many = [Responses(tmp_path, IDENTITY) for _ in range(3)]
    granted: list[bool] = []

    def reserve(responses: Responses) -> None:
        granted.extend([responses.reserve(7, 60) for _ in range(5)])

    threads = [threading.Thread(target=reserve, args=(each,)) for each in many for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 8
    assert many[0].asked == 56
    for each in many:
        each.close()


@pytest.mark.parametrize("damage", ["no database", "truncated", "no tables"])
def test_a_damaged_file_is_said_set_aside_and_begun_anew(damage: str, tmp_path: Path) -> None:
    responses = Responses(tmp_path, IDENTITY)
    path = responses.path
    assert path is not None
    responses.keep([number.to_bytes(20, "big") for number in range(2000)], ["some answer"] * 2000)
    responses.close()
    if damage == "no database":
        path.write_bytes(b"this is no database, but text" * 100)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        with sqlite3.connect(path) as database:
            database.execute("DELETE FROM counts")
        database.close()
    spoiled = path.read_bytes()
    said: list[str] = []
    again = Responses(tmp_path, IDENTITY, remark=said.append)
    assert again.are_kept([KEYS[0]]) == set()
    again.keep(KEYS, ANSWERS)
    again.close()
    (sentence,) = said
    assert "are damaged" in sentence
    assert "the budget begins anew" in sentence
    aside = path.with_suffix(".damaged-1")
    assert aside.name in sentence
    assert aside.read_bytes() == spoiled
    path.write_bytes(b"again" * 1000)
    Responses(tmp_path, IDENTITY, remark=said.append).close()
    assert path.with_suffix(".damaged-2").exists()


def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    responses = Responses(tmp_path, IDENTITY)
    path = responses.path
    assert path is not None
    responses.close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match=rf"are of version {VERSION + 1}, newer than this program's {VERSION}; update"):
        Responses(tmp_path, IDENTITY)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_to_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"Answers cannot be kept in '.*file'.*choose another folder"):
        Responses(tmp_path / "file", IDENTITY)
    with pytest.raises(InputError, match=r"Answers cannot be kept in '.*inside'"):
        Responses(tmp_path / "file" / "inside", IDENTITY)
    folder = tmp_path / "folder"
    responses = Responses(folder, IDENTITY)
    assert responses.path is not None
    responses.close()
    responses.path.unlink()
    responses.path.mkdir()
    with pytest.raises(InputError, match=r"Answers cannot be kept in '.*folder'"):
        Responses(folder, IDENTITY)


def test_a_file_that_fails_later_is_said_in_a_sentence(tmp_path: Path) -> None:
    responses = Responses(tmp_path, IDENTITY)
    other = sqlite3.connect(str(responses.path))
    other.executescript("DROP TABLE answers;")
    other.close()
    with pytest.raises(InputError, match=r"Answers cannot be kept in .*no such table"):
        responses.keep(KEYS, ANSWERS)
    responses.close()


def test_a_folder_of_locks_that_cannot_be_made_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    responses = Responses(tmp_path, IDENTITY)
    with pytest.raises(InputError, match="Answers cannot be kept in"), responses.alone():
        pass
    responses.close()
    alone = Responses(None, IDENTITY)
    with alone.alone():
        pass
    alone.close()


HOLDS = """
import sys
from pathlib import Path
from mia_lightning.targets.endpoints.responses import Responses
responses = Responses(Path({folder!r}), {identity!r})
with responses.alone():
    print("alone", flush=True)
    sys.stdin.readline()
    responses.keep([b"x" * 20], ["answered meanwhile"])
"""


@pytest.mark.slow
def test_a_process_waits_for_another_that_asks_the_same_model(tmp_path: Path) -> None:
    script = HOLDS.format(folder=str(tmp_path), identity=IDENTITY)
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdin is not None
    assert other.stdout.readline() == "alone\n"
    said: list[str] = []

    def let_go(sentence: str) -> None:
        said.append(sentence)
        other.stdin.write("go on\n")
        other.stdin.flush()

    responses = Responses(tmp_path, IDENTITY, remark=let_go)
    with responses.alone():
        assert responses.kept([b"x" * 20]) == {b"x" * 20: "answered meanwhile"}
    responses.close()
    other.communicate(timeout=20)
    assert said == ["Another run is asking the same model; its answers will serve this one, too."]
