"""The benchmark of convolutions runs, and what it prints hangs together; no time is asserted."""

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from benchmark_scripts import cells, imported, run

VARIANTS = [
    [name, precision, memory_format]
    for precision in ("32", "bf16")
    for name, memory_format in (
        ("bare loop", "contiguous"),
        ("bare loop", "channels_last"),
        ("stack", "contiguous"),
        ("loop", "channels_last"),
    )
]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("convolutions", monkeypatch)


@pytest.mark.slow
def test_the_quick_run_prints_one_table_and_writes_the_same_as_json(
    tmp_path: Path, script: ModuleType, forks: Path
) -> None:
    written = tmp_path / "convolutions.json"
    printed = run("convolutions", "--quick", "--networks", "cnn", "--json", str(written), forks=forks).splitlines()
    assert "threads, torch" in printed[0]
    lines = [line for line in printed if line.startswith("|")]
    header, _, *body = [cells(line) for line in lines]
    assert header == list(script.HEADER)
    assert [row[:4] for row in body] == [["cnn", *variant] for variant in VARIANTS]
    records = json.loads(written.read_text())["rows"]
    for row, record in zip(body, records, strict=True):
        assert row[1:4] == [record["variant"], record["precision"], record["memory_format"]]
        assert row[4] == f"{record['milliseconds'][0]:#.4g}"
        assert (record["models"], record["steps"], record["batch_size"]) == (2, 2, 4)


def test_ratios_are_to_the_bare_loop_of_the_same_format_and_to_the_plain_one(script: ModuleType) -> None:
    case = SimpleNamespace(setting=SimpleNamespace(network="cnn"), device=torch.device("cpu"))
    variants = script.make_variants(case)
    for variant, milliseconds in zip(variants, (8.0, 6.0, 16.0, 5.0, 7.0, 4.0, 14.0, 2.0), strict=True):
        variant.milliseconds_R[:] = [milliseconds + 1, milliseconds, milliseconds - 1]
    ratios = [row[6:8] for row in script.rows(variants)]
    same = ["1.00", "1.00", "0.50", "1.20", "1.00", "1.00", "0.50", "2.00"]
    plain = ["1.00", "1.33", "0.50", "1.60", "1.14", "2.00", "0.57", "4.00"]
    assert ratios == list(zip(same, plain, strict=True))


def test_the_bare_loop_and_the_stack_train_the_same_networks(script: ModuleType) -> None:
    setting = script.replace(script.SETTINGS[0], steps=3, batch_size=4)
    variants = script.make_variants(script.make_case(setting, torch.device("cpu"), 2))[:4]
    clocks = [script.Clock(torch.device("cpu")) for _ in variants]
    bare, *others = (
        script.train_bare(variant, clock) if variant.name == "bare loop" else script.train_stack(variant, clock)
        for variant, clock in zip(variants, clocks, strict=True)
    )
    assert all(clock.seconds > 0 for clock in clocks)
    for other in others:
        torch.testing.assert_close(other.float(), bare, rtol=1e-4, atol=1e-4)


def test_variants_that_did_not_learn_the_same_are_named(script: ModuleType) -> None:
    case = SimpleNamespace(setting=SimpleNamespace(network="cnn"))

    def variant(name: str, loss: float) -> SimpleNamespace:
        return SimpleNamespace(name=name, precision="32", memory_format="contiguous", case=case, loss=loss)

    assert script.unequal([variant("stack", 2.30), variant("loop", 2.31)]) is None
    for broken in (2.9, float("nan")):
        complaint = script.unequal([variant("stack", 2.30), variant("loop", broken)])
        assert complaint is not None
        assert "cnn" in complaint
        assert f"loop 32 contiguous {broken:.3g}" in complaint


@pytest.mark.parametrize("given", [["--models", "0"], ["--rounds", "0"], ["--networks", "alexnet"]])
def test_settings_that_cannot_be_run_are_refused(
    given: list[str], script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.arguments(given)
    assert given[0] in capsys.readouterr().err
    assert script.arguments(["--quick", "--rounds", "7"]).rounds == 7
