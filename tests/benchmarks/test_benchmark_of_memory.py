"""The benchmark of memory runs, and what it prints hangs together."""

import json
import time
from types import ModuleType

import pytest
import torch
from benchmark_scripts import imported, run


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("memory", monkeypatch)


@pytest.mark.slow
def test_the_quick_run_prints_the_memory_of_every_stage(script: ModuleType) -> None:
    printed = json.loads(run("memory", "--quick", "--json"))
    assert (printed["models"], printed["records"], printed["classes"], printed["limit"]) == (16, 500, 5, 0.0)
    assert printed["on_disk_gib"] == pytest.approx(4 * 16 * 500 * 5 / 2**30)
    names = [attack.name for attack in script.attacks()]
    assert [each["name"] for each in printed["stages"]] == ["imports and records", "training and answers", *names]
    assert printed["own_gib"] == max(each["own"] for each in printed["stages"])
    assert all(0 < each["own"] < printed["resident_gib"] for each in printed["stages"])


def test_what_a_stage_holds_shows_in_its_row_alone(script: ModuleType) -> None:
    with script.Sampler() as sampler:
        with sampler.stage("before"):
            pass
        with sampler.stage("held"):
            held = torch.ones(2**26)  # 256 MiB
            looks = sampler.looks
            while sampler.looks < looks + 2:  # the first may have begun before
                time.sleep(0.001)
            del held
        with sampler.stage("after"):
            pass
    before, during, after = sampler.stages
    assert [each.name for each in sampler.stages] == ["before", "held", "after"]
    assert 0.2 < during.own - before.own < 0.4
    assert abs(after.own - before.own) < 0.1
    row = script.Stage(name="held", seconds=1.25, own=0.5, mapped=0.25).row()
    assert row == ("held", "1.2", "0.50", "0.25")
    lines = script.render(script.HEADER, [row]).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == list(script.HEADER)
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("given", [["--models", "7"], ["--models", "4"], ["--limit", "-1"], ["--records", "5"]])
def test_settings_that_cannot_be_run_are_refused(
    given: list[str], script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.arguments(given)
    assert "at least" in capsys.readouterr().err
    assert script.arguments(["--quick", "--models", "8"]).models == 8
