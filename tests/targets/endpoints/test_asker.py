"""Each record is asked about once, within the budget, whatever the server does in between."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from scripted_endpoint import Scripted, asker, records, softmax_of

from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.asker import keys_of
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.pace import Pace, StoppedError
from mia_lightning.targets.failures import RefusedError, TryAgainError


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = Pace._sleep
    monkeypatch.setattr(Pace, "_sleep", lambda self, seconds: sleep(self, seconds / 1000))


def answers_of(endpoint: Scripted, x: torch.Tensor, **settings: object) -> list[object]:
    one = asker(endpoint, **settings)
    return one.answers(one.ask(x))


@pytest.mark.costly
@pytest.mark.parametrize("concurrency", [1, 2, 8])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_every_answer_stands_at_its_record_however_requests_are_cut(concurrency: int, batch_size: int) -> None:
    x = records(60)
    endpoint = Scripted()
    assert answers_of(endpoint, x, concurrency=concurrency, batch_size=batch_size) == softmax_of(x)
    assert set(endpoint.asked.values()) == {1}
    assert len(endpoint.asked) == 60
    assert max(endpoint.sizes) <= batch_size
    assert endpoint.busiest <= concurrency


def test_equal_records_are_asked_about_once_and_share_their_answer() -> None:
    x = records(5)[[0, 1, 0, 2, 3, 3, 4, 0]]
    endpoint = Scripted()
    assert answers_of(endpoint, x) == softmax_of(x)
    assert endpoint.num_asked == 5


def test_what_was_answered_is_not_asked_again() -> None:
    x, endpoint = records(30), Scripted()
    one = asker(endpoint, batch_size=4)
    one.ask(x[:20])
    keys = one.ask(x[10:])
    assert one.answers(keys) == softmax_of(x[10:])
    assert (endpoint.num_asked, one.num_sent, one.num_answered, one.num_found) == (30, 30, 30, 0)
    assert one.left is None


def test_another_run_finds_what_was_kept(tmp_path: Path) -> None:
    x = records(30)
    one = asker(Scripted(), responses=tmp_path)
    one.ask(x[:20])
    one.close()
    endpoint = Scripted()
    other = asker(endpoint, responses=tmp_path)
    assert other.answers(other.ask(x)) == softmax_of(x)
    assert (endpoint.num_asked, other.num_sent, other.num_found, other.num_answered) == (10, 10, 20, 30)
    assert other.responses.asked == 30
    other.close()
    assert endpoint.is_closed
    stranger = asker(Scripted(identity="two"), responses=tmp_path)
    stranger.ask(x)
    assert stranger.num_sent == 30
    stranger.close()


def test_records_differ_by_their_numbers_type_and_shape() -> None:
    x = torch.zeros(2, 4)
    assert len({*keys_of(x), *keys_of(x.view(2, 2, 2)), *keys_of(x.to(torch.int32)), *keys_of(x + 1)}) == 4
    assert keys_of(records(6).T.contiguous().T) == keys_of(records(6))


def failing(*calls: int, was_asked: bool = True, after: float | None = None) -> object:
    def fail(call: int) -> None:
        if call in calls:
            raise TryAgainError("status 503", was_asked=was_asked, after=after)

    return fail


@pytest.mark.parametrize(("was_asked", "sent"), [(True, 30), (False, 20)])
def test_a_request_that_failed_is_sent_again_and_counts_if_it_may_have_been_answered(
    was_asked: bool, sent: int
) -> None:
    x = records(20)
    endpoint = Scripted(fail=failing(1, 3, was_asked=was_asked))
    one = asker(endpoint, batch_size=5, concurrency=1)
    assert one.answers(one.ask(x)) == softmax_of(x)
    assert (one.num_sent, one.responses.asked, endpoint.calls) == (sent, sent, 6)
    assert one.num_repeated == sent - 20
    assert set(endpoint.asked.values()) == {1}


def test_after_so_many_attempts_the_records_and_the_reason_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    x = records(20)
    endpoint = Scripted(fail=lambda call: failing(call)(call) if call > 2 else None)
    one = asker(endpoint, batch_size=5, concurrency=1, retries=2, responses=tmp_path)
    with pytest.raises(InputError, match=r"records 10 to 14 in 3 attempts \(status 503\); .* is kept in .*") as refusal:
        one.ask(x)
    assert str(tmp_path) in str(refusal.value)
    one.close()
    other = asker(Scripted(), responses=tmp_path)
    other.ask(x)
    assert other.num_sent == 10
    other.close()
    with pytest.raises(InputError, match=r"record 0 in 1 attempt \(status 503\).*is lost with this run"):
        asker(Scripted(fail=failing(1)), retries=0).ask(x[:1])


def test_numbers_of_records_that_are_not_in_a_row_are_named_one_by_one() -> None:
    x = records(4)[[0, 0, 1, 0, 2, 3]]
    with pytest.raises(InputError, match=r"did not answer records 0, 2, 4, 5 in"):
        asker(Scripted(fail=failing(1)), retries=0).ask(x)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_fault_of_one_request_does_not_lose_what_others_answered(concurrency: int, tmp_path: Path) -> None:
    x = records(40)

    def answer(x_B: torch.Tensor) -> list[object]:
        pairs = zip(x_B, softmax_of(x_B), strict=True)
        return [[float("nan")] * 3 if torch.equal(row, x[17]) else each for row, each in pairs]

    endpoint = Scripted(answer)
    one = asker(endpoint, batch_size=4, concurrency=concurrency, responses=tmp_path)
    with pytest.raises(InputError, match=r"record 17 with \[nan, nan, nan\]"):
        one.ask(x)
    answered = endpoint.num_asked
    one.close()
    other = asker(Scripted(), responses=tmp_path)
    assert other.answers(other.ask(x)) == softmax_of(x)
    assert other.num_sent == 40 - answered + 1
    other.close()


@pytest.mark.parametrize("num", [4, 6])
def test_another_number_of_answers_than_records_is_refused(num: int) -> None:
    x = records(10)

    def answer(x_B: torch.Tensor) -> list[object]:
        return softmax_of(x_B) if torch.equal(x_B[0], x[0]) else [[1.0, 0.0, 0.0]] * num

    with pytest.raises(InputError, match=rf"gave {num} answers for the 5 records 5 to 9"):
        asker(Scripted(answer), batch_size=5, concurrency=1).ask(x)


def test_what_was_turned_away_does_not_count() -> None:
    def fail(call: int) -> None:
        raise RefusedError("no")

    one = asker(Scripted(fail=fail))
    with pytest.raises(RefusedError, match="no"):
        one.ask(records(8))
    assert (one.num_sent, one.responses.asked) == (0, 0)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_budget_that_is_too_small_is_said_before_anything_is_asked(concurrency: int, tmp_path: Path) -> None:
    x, endpoint = records(30), Scripted()
    settings = {"responses": tmp_path, "concurrency": concurrency, "batch_size": 4}
    one = asker(endpoint, budget=25, **settings)
    one.ask(x[:10])
    with pytest.raises(InputError, match="for 30 different records: 10 are kept, 20 must") as refusal:
        one.ask(x)
    assert "has only 15 left, so nothing was asked; raise the budget to at least 30" in str(refusal.value)
    assert endpoint.num_asked == 10
    one.close()
    enough = asker(endpoint, budget=30, **settings)
    enough.ask(x)
    assert (endpoint.num_asked, enough.left) == (30, 0)
    enough.ask(x)
    enough.close()


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("budget", [20, 24, 31])
def test_attempts_never_pass_the_budget(budget: int, concurrency: int) -> None:
    arrived = []

    def fail(call: int) -> None:
        arrived.append(call)
        if call % 2:
            raise TryAgainError("status 500")

    endpoint = Scripted(fail=fail)
    one = asker(endpoint, budget=budget, batch_size=4, concurrency=concurrency, retries=9)
    with pytest.raises(InputError, match=r"must be asked about.*raise target\.asking\.budget"):
        one.ask(records(20))
    assert 4 * len(arrived) == one.responses.asked <= budget
    assert budget - one.responses.asked < 4


def test_two_askers_of_one_file_share_the_budget(tmp_path: Path) -> None:
    first, second = (asker(Scripted(), budget=30, responses=tmp_path) for _ in range(2))
    first.ask(records(20))
    second.ask(records(20))
    assert second.left == 10
    second.ask(records(10, seed=1))
    with pytest.raises(InputError, match="has only 0 left"):
        first.ask(records(1, seed=2))
    first.close()
    second.close()


def test_asking_again_passes_by_what_is_kept_and_counts() -> None:
    x, endpoint = records(10), Scripted()
    one = asker(endpoint, batch_size=4)
    one.ask(x)
    assert one.ask_again(x[:6], range(6)) == softmax_of(x[:6])
    assert (endpoint.num_asked, one.num_sent, one.num_repeated) == (16, 16, 6)


def test_a_pause_grows_and_a_server_that_asks_for_one_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(Pace, "_sleep", lambda self, seconds: waits.append(seconds))
    pace = Pace(None, seed=0)
    for attempt in range(1, 12):
        pace.pause(attempt, None, "record")
    for attempt, wait in enumerate(waits, 1):
        longest = min(60, 0.5 * 2 ** (attempt - 1))
        assert 0.5 * longest <= wait <= 1.5 * longest
    waits.clear()
    pace.pause(1, 7.0, "record")
    pace.pause(1, 1e9, "record")
    assert waits == [7.0, 600.0]


def test_what_a_server_asks_for_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[tuple[int, float | None]] = []
    monkeypatch.setattr(Pace, "pause", lambda self, attempt, after, name: pauses.append((attempt, after)))

    def fail(call: int) -> None:
        if call < 4:
            raise TryAgainError("busy", after=7.0 if call == 2 else None)

    asker(Scripted(fail=fail), concurrency=1).ask(records(2))
    assert pauses == [(1, None), (2, 7.0), (3, None)]


def test_requests_keep_their_distance_and_wait_while_the_server_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Pace, "_sleep", lambda self, seconds: now.__setitem__(0, now[0] + seconds))
    pace, turns = Pace(4.0, seed=0), []
    for _ in range(5):
        pace.wait_for_turn()
        turns.append(now[0])
    assert turns == pytest.approx([100.0, 100.25, 100.5, 100.75, 101.0])
    pace.pause(1, 5.0, "record")
    now[0] = 103.0
    pace.wait_for_turn()
    assert now[0] == pytest.approx(106.0)


def test_a_pace_that_was_stopped_waits_no_more() -> None:
    pace = Pace(None, seed=0)
    pace.stop()
    with pytest.raises(StoppedError):
        pace.wait_for_turn()
    pace.resume()
    pace.wait_for_turn()


def test_an_error_that_nobody_expects_is_not_hidden() -> None:
    def fail(call: int) -> None:
        raise ZeroDivisionError

    for concurrency in (1, 4):
        with pytest.raises(ZeroDivisionError):
            asker(Scripted(fail=fail), batch_size=2, concurrency=concurrency).ask(records(8))


INTERRUPTED = """
import sys, time, threading
sys.path[:0] = {path!r}
from scripted_endpoint import Scripted, asker, records
class Slow(Scripted):
    def ask(self, x_B):
        if self.calls >= 3:
            print("slow\\n", end="", flush=True)  # at once: two threads may say so together
            time.sleep(600)
        return super().ask(x_B)
one = asker(Slow(), batch_size=2, concurrency={concurrency}, responses={folder!r})
try:
    one.ask(records(40))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "interrupt"])
def test_a_run_that_is_ended_in_the_middle_asks_only_for_what_is_missing(kind: str, tmp_path: Path) -> None:
    script = INTERRUPTED.format(path=sys.path, folder=str(tmp_path), concurrency=3)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "slow\n"
    os.kill(process.pid, signal.SIGINT if kind == "interrupt" else signal.SIGKILL)
    rest, _ = process.communicate(timeout=300)  # requests would take ten minutes
    assert rest == ("interrupted\n" if kind == "interrupt" else "")
    endpoint = Scripted()
    one = asker(endpoint, batch_size=2, responses=tmp_path)
    counted = one.responses.asked
    x = records(40)
    assert one.answers(one.ask(x)) == softmax_of(x)
    # Each of the three that were on their way has two records: they may have been answered, and so are counted.
    assert one.num_found == counted - 6
    assert endpoint.num_asked == 40 - one.num_found
    assert one.responses.asked == 46
    one.close()


def test_retries_and_sentinels_may_be_none() -> None:
    assert Asking(retries=0, sentinels=0).retries == 0
