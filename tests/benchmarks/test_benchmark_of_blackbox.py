"""The benchmark of served models runs, and what it prints hangs together."""

import json
from pathlib import Path
from types import ModuleType

import pytest
from benchmark_scripts import cells, imported, run


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("blackbox", monkeypatch)


@pytest.mark.slow
def test_the_quick_run_asks_in_every_way(script: ModuleType, tmp_path: Path, forks: Path) -> None:
    lines = run("blackbox", "--quick", "--json", str(tmp_path / "all.json"), forks=forks).splitlines()
    table = [cells(line) for line in lines if line.startswith("| ")]
    assert table[0] == list(script.HEADER)
    assert [(row[0], int(row[1]), int(row[2])) for row in table[2:]] == list(script.WAYS)
    kept = json.loads((tmp_path / "all.json").read_text())
    assert [len(way["rates"]) for way in kept] == [1] * len(script.WAYS)
    assert all(rate > 0 for way in kept for rate in way["rates"])


def test_rates_are_compared_with_the_bare_loop_of_as_many_records(script: ModuleType) -> None:
    asked = [
        script.Asked(by=script.BARE, concurrency=1, batch=1, rates=[100.0, 300.0, 200.0]),
        script.Asked(by=script.CLIENT, concurrency=8, batch=1, rates=[400.0, 100.0, 50.0]),
        script.Asked(by=script.ALONE, concurrency=1, batch=1, rates=[5000.0]),
    ]
    assert script.row(asked[1], asked) == (script.CLIENT, "8", "1", "100", "50 to 400", "10,000", "0.50")
    assert script.row(asked[2], asked)[-2:] == ("200", "–")


def test_records_are_others_in_every_round(script: ModuleType) -> None:
    both = [script.records(50, number) for number in (0, 1)]
    assert len({row.numpy().tobytes() for x_N in both for row in x_N}) == 100
    assert script.records(50, 0).equal(both[0])


@pytest.mark.parametrize("given", [["--records", "-1"], ["--rounds", "-2"]])
def test_settings_that_cannot_be_run_are_refused(
    given: list[str], script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.arguments(given)
    assert "at least 1" in capsys.readouterr().err
    assert script.arguments(["--quick"]).records == 40
