"""`mia-store prune`: what it removes, and what it leaves."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from filled_store import (
    ASKED,
    NEW,
    OLD,
    OTHER,
    STACK,
    Call,
    aged,
    put_training,
    writes,
)
from filled_store import call as call
from filled_store import ended_process as ended_process
from filled_store import store as store

from mia_lightning.store.artefacts import Store


def removed(before: list[str], store: Store) -> set[str]:
    return set(before) - set(store.places())


OLD_MODELS = {f"models/{STACK}/{key}" for key in OLD}

ANSWERS = {f"answers/{ASKED}/{key}" for key in OLD}


@pytest.mark.parametrize(
    ("arguments", "gone"),
    [
        (["--older-than", "30d"], OLD_MODELS | ANSWERS | {f"stacks/{STACK}"}),
        (["--older-than", "50d"], set()),
        (["--older-than", "8w"], set()),
        (["--older-than", "950h"], OLD_MODELS | ANSWERS | {f"stacks/{STACK}"}),
        (["--older-than", "0m"], OLD_MODELS | ANSWERS | {"syntheses/one", "plans/one", f"models/{OTHER}/{NEW[0]}"}
         | {f"stacks/{STACK}", f"stacks/{OTHER}"}),
        (["--answers", "--older-than", "30d"], {f"answers/{ASKED}/{OLD[0]}"}),
        (["--answers"], ANSWERS),
        (["--answers", "--keep-gb", "0.000001"], {f"answers/{ASKED}/{OLD[0]}"}),
        (["--keep-gb", "1"], set()),
        # Of 2600 bytes: answers of 1000, a model of 100, another of 100 with its answers of 1000.
        (["--keep-gb", "0.0000026"], set()),
        (["--keep-gb", "0.0000025"], {f"answers/{ASKED}/{OLD[0]}"}),
        (["--keep-gb", "0.0000015"], {f"answers/{ASKED}/{OLD[0]}", f"models/{STACK}/{OLD[0]}"}),
        (["--keep-gb", "0.0000014"], OLD_MODELS | ANSWERS | {f"stacks/{STACK}"}),
        (["--keep-gb", "0"], OLD_MODELS | ANSWERS | {"syntheses/one", f"models/{OTHER}/{NEW[0]}"}
         | {f"stacks/{STACK}", f"stacks/{OTHER}"}),
    ],
)  # fmt: skip
def test_prune_removes_what_it_is_told(call: Call, store: Store, arguments: list[str], gone: set[str]) -> None:
    before = store.places()
    for days, place in zip((39.9, 39.8), sorted(OLD_MODELS), strict=True):  # younger than the oldest answers
        aged(store, place, days)
    sizes = sum(map(store.size, gone))
    tried = call("prune", *arguments, "--dry-run", "--dir", store.folder)
    assert store.places() == before
    ended = call("prune", *arguments, "--dir", store.folder)
    assert (tried.code, ended.code) == (0, 0)
    assert removed(before, store) == gone
    named = {line.split()[1] for line in ended.out.splitlines() if line.startswith("removed: ")}
    assert named == gone
    kinds = Counter(place.partition("/")[0] for place in gone)
    told = re.findall(r"would be removed: (\d+) items? of (\w+) \(", tried.out)
    assert {kind: int(count) for count, kind in told} == kinds
    assert tried.out.splitlines()[-1].replace("would be removed", "removed") == ended.out.splitlines()[-1]
    size = f"{sizes} B" if sizes < 1000 else f"{sizes / 1000:.1f} kB"
    assert ended.out.endswith(f": {len(named)} {'item' if len(named) == 1 else 'items'} removed, {size}.\n")
    assert call("verify", "--dir", store.folder).code == 0
    assert store.leftovers() == []


def test_prune_removes_leftovers(call: Call, store: Store, ended_process: int) -> None:
    """But for those that a process may still be writing, or training."""
    old, young = store.folder / "models/.old.1.partial", store.folder / "models/.young.1.partial"
    orphan, foreign = store.folder / "models/ab.0123456789ab.data", store.folder / "mine/ab.0123456789ab.data"
    for path in (old, young, orphan, foreign):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"0" * 10)
    for path in (old, orphan, foreign):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    put_training(store, "mine", NEW, process=os.getpid())
    put_training(store, "gone", OLD, process=ended_process)
    put_training(store, "away", OLD, process=1, host="elsewhere")
    put_training(store, "long_ago", OLD, process=1, host="elsewhere", days=2)
    store.put("running/alone-checkpoint", {"epoch": 1, "role": "shadow"}, writes(50))
    before = store.places()
    ended = call("prune", "--leftovers", "--dir", store.folder)
    assert ended.code == 0
    gone = {f"running/{name}{suffix}" for name in ("gone", "long_ago") for suffix in ("", "-checkpoint")}
    assert removed(before, store) == gone | {"running/alone-checkpoint"}
    assert [path.exists() for path in (old, orphan, young, foreign)] == [False, False, True, True]
    assert ended.out.endswith("7 items removed, 170 B.\n")


def test_prune_leaves_what_another_process_holds(call: Call, store: Store, ended_process: int) -> None:
    """A training whose process has another number here, such as in a container, still holds its locks."""
    put_training(store, "held", OLD, process=ended_process)
    script = (
        "import sys\nfrom mia_lightning.store.artefacts import Store\n"
        "with Store(dir=sys.argv[1]).locked([sys.argv[2]]):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    kept = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", script, str(store.folder), OLD[0]]
    before = store.places()
    with subprocess.Popen(command, env=kept, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        ended = call("prune", "--older-than", "30d", "--leftovers", "--dir", store.folder)
        assert ended.code == 0
        assert removed(before, store) == {f"models/{STACK}/{OLD[1]}", f"answers/{ASKED}/{OLD[1]}"}
        for place in (
            f"models/{STACK}/{OLD[0]}",
            f"answers/{ASKED}/{OLD[0]}",
            "running/held",
            "running/held-checkpoint",
        ):
            assert f"not removed: {place}, which another process is using" in ended.out
    ended = call("prune", "--older-than", "30d", "--leftovers", "--dir", store.folder)
    assert removed(before, store) == {
        *OLD_MODELS,
        *ANSWERS,
        "running/held",
        "running/held-checkpoint",
        f"stacks/{STACK}",
    }


def test_what_the_models_share_stays_while_something_trains(call: Call, store: Store) -> None:
    """A process that has written it, and keeps its models later, would find it gone."""
    put_training(store, "mine", NEW, process=os.getpid())
    call("prune", "--older-than", "30d", "--dir", store.folder)
    assert store.has(f"stacks/{STACK}")
    assert not store.places(f"models/{STACK}")


def test_prune_leaves_what_it_cannot_read(call: Call, store: Store) -> None:
    """It may be anybody's."""
    foreign = store.folder / "models/somebody.json"
    foreign.write_text("{}")
    os.utime(foreign, (0, 0))
    assert call("prune", "--older-than", "1d", "--keep-gb", "0", "--dir", store.folder).code == 0
    assert foreign.read_text() == "{}"
