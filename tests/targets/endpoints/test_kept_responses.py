"""Answers that are kept for good, by processes that share a file."""

import json
import random
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Sequence
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


def changed(path: Path, *statements: str | tuple[str, Sequence[object]]) -> None:
    database = sqlite3.connect(path)
    for each in statements:
        database.execute(*((each,) if isinstance(each, str) else each))
    database.commit()
    database.close()


def kept_in(folder: Path, count: int = len(KEYS)) -> Path:
    """A file with so many answers, each of which was asked about once."""
    responses = Responses(folder, IDENTITY)
    responses.reserve(count, None)
    keys = [number.to_bytes(20, "big") for number in range(count)] if count != len(KEYS) else KEYS
    responses.keep(keys, [ANSWERS[number % len(ANSWERS)] for number in range(count)])
    responses.close()
    assert responses.path is not None
    return responses.path


@pytest.mark.parametrize(
    "statement",
    [
        ("UPDATE answers SET answer = ? WHERE record = ?", (b"[0.1, 0.2, 0.7]", KEYS[0])),  # as good as the true one
        ("UPDATE answers SET answer = ? WHERE record = ?", (b"[0.1, 0.2", KEYS[0])),
        ("UPDATE answers SET answer = 3 WHERE record = ?", (KEYS[0],)),
        ("UPDATE answers SET checksum = ? WHERE record = ?", (bytes(16), KEYS[0])),
        ("UPDATE answers SET record = ? WHERE record = ?", (b"z" * 20, KEYS[0])),  # the answer of another record
    ],
)
def test_a_damaged_answer_is_said_set_aside_and_asked_again_within_the_budget(
    statement: tuple[str, Sequence[object]], tmp_path: Path
) -> None:
    path = kept_in(tmp_path)
    changed(path, statement)
    said: list[str] = []
    responses = Responses(tmp_path, IDENTITY, remark=said.append)
    (sentence,) = said
    assert "1 of the kept answers" in sentence
    assert str(path) in sentence
    assert responses.are_kept([*KEYS, b"z" * 20]) == set(KEYS[1:])
    assert responses.kept(KEYS) == dict(zip(KEYS[1:], ANSWERS[1:], strict=True))
    assert responses.asked == 4
    assert not responses.reserve(1, 4)
    assert responses.reserve(1, 5)
    responses.keep(KEYS[:1], ANSWERS[:1])
    responses.close()
    database = sqlite3.connect(path)
    assert database.execute("SELECT count(*) FROM damaged").fetchone() == (1,)
    database.close()
    again = Responses(tmp_path, IDENTITY, remark=said.append)
    assert again.kept(KEYS) == dict(zip(KEYS, ANSWERS, strict=True))
    again.close()
    assert len(said) == 1


@pytest.mark.parametrize("asked", [0, 3, "'many'", -4, 2.5])
def test_a_damaged_count_is_said_and_goes_on_from_the_kept_answers(asked: object, tmp_path: Path) -> None:
    path = kept_in(tmp_path)
    changed(path, f"UPDATE counts SET asked = {asked}")
    said: list[str] = []
    responses = Responses(tmp_path, IDENTITY, remark=said.append)
    assert responses.asked == 4
    assert responses.kept(KEYS) == dict(zip(KEYS, ANSWERS, strict=True))
    responses.close()
    (sentence,) = said
    assert "goes on from 4" in sentence
    Responses(tmp_path, IDENTITY, remark=said.append).close()
    assert len(said) == 1


@pytest.mark.parametrize(
    "damage", ["emptied", "of another model", "of an earlier version", "another table", "a key of another type"]
)
def test_a_file_that_is_not_of_its_form_begins_anew_with_a_word(damage: str, tmp_path: Path) -> None:
    path = kept_in(tmp_path)
    if damage == "emptied":
        path.write_bytes(b"")
    elif damage == "of another model":
        other = Responses(tmp_path, {**IDENTITY, "place": "there"})
        other.close()
        path.write_bytes((other.path or path).read_bytes())
    elif damage == "of an earlier version":
        changed(path, f"PRAGMA user_version = {VERSION - 1}")
    elif damage == "another table":
        changed(path, "CREATE TABLE more (x)")
    else:  # by which the row cannot be found again
        changed(path, ("UPDATE answers SET record = 'text' WHERE record = ?", (KEYS[0],)))
    said: list[str] = []
    responses = Responses(tmp_path, IDENTITY, remark=said.append)
    assert (responses.asked, responses.are_kept(KEYS)) == (0, set())
    responses.close()
    (sentence,) = said
    assert "the budget begins anew" in sentence
    assert path.with_suffix(".damaged-1").exists()


def test_the_journal_of_a_file_that_was_removed_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = kept_in(tmp_path, 400)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA cache_size = 1")
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE answers SET answer = x'31'")
    journal = path.with_name(f"{path.name}-journal")
    content = journal.read_bytes()  # as of a process that is killed here
    assert len(content) > 1000
    database.execute("ROLLBACK")
    database.close()
    path.unlink()
    journal.write_bytes(content)
    said: list[str] = []
    responses = Responses(tmp_path, IDENTITY, remark=said.append)
    assert (responses.asked, responses.are_kept([bytes(20)]), said) == (0, set(), [])
    responses.close()


def test_what_is_damaged_while_a_run_uses_it_ends_the_run_in_a_sentence(tmp_path: Path) -> None:
    responses = Responses(tmp_path, IDENTITY)
    responses.keep(KEYS, ANSWERS)
    assert responses.path is not None
    changed(responses.path, "UPDATE answers SET answer = x'31'", "UPDATE counts SET asked = 7")
    uses = (lambda: responses.kept(KEYS), lambda: responses.reserve(1, None), lambda: responses.asked)
    for use in uses:
        with pytest.raises(InputError, match="were damaged while this run used them; start the same command again"):
            use()
    responses.close()


def test_files_have_the_mode_of_their_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    responses = Responses(tmp_path, IDENTITY)
    with responses.alone():
        pass
    responses.close()
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o660}


@pytest.mark.slow
def test_no_damage_gives_another_answer_a_traceback_or_a_smaller_count_without_a_word(tmp_path: Path) -> None:
    """Flipped bits, other bytes, zeros and missing ends, anywhere in the file; then all is well again."""
    whole_file = kept_in(tmp_path / "whole", 60)
    whole, keys = whole_file.read_bytes(), [number.to_bytes(20, "big") for number in range(60)]
    truth = {key: ANSWERS[number % len(ANSWERS)] for number, key in enumerate(keys)}
    numbers = random.Random(0)
    num_said = 0
    for trial in range(150):
        content, at = bytearray(whole), numbers.randrange(len(whole))
        content = {
            0: lambda c=content, at=at: c[:at] + bytes([c[at] ^ (1 << numbers.randrange(8))]) + c[at + 1 :],
            1: lambda c=content, at=at: c[:at] + numbers.randbytes(1) + c[at + 1 :],
            2: lambda c=content, at=at: c[:at] + bytes(len(c[at : at + 300])) + c[at + 300 :],
            3: lambda c=content, at=at: c[:at],
            4: lambda c=content: c[:20] + bytes([c[20] ^ (1 << numbers.randrange(8))]) + c[21:],
        }[trial % 5]()
        folder = tmp_path / str(trial)
        folder.mkdir()
        (folder / whole_file.name).write_bytes(content)
        said: list[str] = []
        try:
            responses = Responses(folder, IDENTITY, remark=said.append)
        except InputError as error:
            assert "newer than this program" in str(error)  # noqa: PT017 (a flipped number of the version)
            continue
        kept = responses.kept(keys)
        assert kept == {key: truth[key] for key in kept}, trial
        assert said or (len(kept), responses.asked) == (60, 60), trial
        missing = [key for key in keys if key not in kept]
        responses.keep(missing, [truth[key] for key in missing])
        responses.close()
        num_said += len(said) > 0
        said.clear()
        responses = Responses(folder, IDENTITY, remark=said.append)
        assert responses.kept(keys) == truth
        responses.close()
        assert said == []
    assert num_said > 50


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
    with pytest.raises(InputError, match="Answers cannot be kept in"):
        Responses(tmp_path, IDENTITY)
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
    other.communicate(timeout=300)
    assert said == ["Another run is asking the same model; its answers will serve this one, too."]


@pytest.mark.slow
def test_killed_at_any_write_and_started_again_every_answer_is_there_and_counted(tmp_path: Path) -> None:
    """Each of 16 askers is killed up to three times while it opens the file, counts, or keeps answers."""
    script = str(Path(__file__).with_name("killed_askers.py"))
    done = subprocess.run([sys.executable, script, str(tmp_path), "16"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sum(run["kills"] for run in found["runs"]) > 24
    for run in found["runs"]:
        assert run["answers"] == found["undisturbed"]["answers"], run
        assert run["said"] == []
        assert 40 <= run["really_asked"] <= run["asked"] <= found["budget"]
