"""The benchmark scripts run, and what they print hangs together; no time is asserted."""

import math
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from benchmark_scripts import cells, imported, run
from torch.utils.flop_counter import FlopCounterMode

VARIANTS = ["trainer loop (a)", "bare loop (b)", "stack 1", "stack 4"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("shadow_training", monkeypatch)


@pytest.fixture(scope="module")
def quick_run(forks: Path) -> list[str]:
    """Lines."""
    return run("shadow_training", "--quick", "--markdown", forks=forks).splitlines()


@pytest.mark.slow
def test_the_quick_run_prints_one_table_with_a_row_for_each_setting_and_variant(
    quick_run: list[str], script: ModuleType
) -> None:
    assert "threads, torch" in quick_run[0]
    lines = [line for line in quick_run if line.startswith("|")]
    header, rule, *body = lines
    assert cells(header) == list(script.HEADER)
    assert all(set(cell) <= set("-:") for cell in cells(rule))
    assert [cells(line)[:2] for line in body] == [[s, v] for s in ("location", "digits") for v in VARIANTS]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("global_generators")  # of networks
def test_ratios_and_rates_are_the_quotients_of_the_printed_times(quick_run: list[str], script: ModuleType) -> None:
    body = [cells(line) for line in quick_run if line.startswith("|")][2:]
    for setting in [each for each in script.SETTINGS if each.name in script.USUAL]:
        rows = [row for row in body if row[0] == setting.name]
        by_trainer, bare = float(rows[0][2]), float(rows[1][2])
        case = script.make_case(setting, torch.device("cpu"), epochs=2)
        work = setting.operations(case.make_network(), 2)
        for row in rows:
            seconds = float(row[2])
            assert row[4] == f"{by_trainer / seconds:.2f}"
            assert row[5] == f"{bare / seconds:.2f}"
            assert row[6] == f"{work / seconds / 1e9:.1f}"
            assert 0.0 < float(row[8]) < torch.tensor(float(setting.classes)).log()  # better than guessing


@pytest.mark.slow
@pytest.mark.parametrize(("name", "classes"), [("texts", 2), ("recordings", 4)])
def test_networks_of_other_records_have_rows_of_both_executions_and_of_the_chosen_one(
    script: ModuleType, name: str, classes: int, forks: Path
) -> None:
    lines = run("shadow_training", "--quick", "--markdown", "--settings", name, forks=forks).splitlines()
    body = [cells(line) for line in lines if line.startswith("|")][2:]
    assert [row[:2] for row in body] == [[name, variant] for variant in [*VARIANTS, "loop", "chosen"]]
    (setting,) = [each for each in script.SETTINGS if each.name == name]
    work = setting.operations(script.make_case(setting, torch.device("cpu"), 2).initial_network(0), 2)
    for row in body:
        assert row[5] == f"{float(body[1][2]) / float(row[2]):.2f}"
        assert row[6] == f"{work / float(row[2]) / 1e9:.1f}"
        assert 0.0 < float(row[8]) < math.log(classes)  # better than guessing


@pytest.mark.usefixtures("global_generators")  # of networks
def test_operations_of_the_transformer_are_those_of_its_layers(script: ModuleType) -> None:
    network = script.make_case(script.TEXTS, torch.device("cpu"), epochs=1).initial_network(0)
    (L,), width = script.TEXTS.field.shape, network.embedding.embedding_dim
    layers = [layer for block in network.blocks for layer in block.modules() if isinstance(layer, torch.nn.Linear)]
    of_layers = sum(3 * 2 * L * layer.in_features * layer.out_features for layer in layers)
    of_attention = len(network.blocks) * 3 * 2 * 2 * L * L * width  # scores, and their products with the values
    of_logits = 3 * 2 * width * script.TEXTS.classes
    expected = script.TEXTS.records * (of_layers + of_attention + of_logits)
    assert script.TEXTS.operations(network, 1) == expected


@pytest.mark.usefixtures("global_generators")  # of networks
def test_operations_of_the_audio_network_are_those_of_its_layers(script: ModuleType) -> None:
    setting = script.RECORDINGS
    network = script.make_case(setting, torch.device("cpu"), epochs=1).initial_network(0)
    frames = (setting.field.shape[0] - network.log_mel.window) // network.log_mel.hop + 1
    frequencies, bands = network.log_mel.weight.shape
    expected = 2 * frames * frequencies * bands  # forward alone: nothing of it is trained
    height, width, is_first = frames, bands, True
    for layer in network:
        if isinstance(layer, torch.nn.Conv2d):
            passes = 2 if is_first else 3  # of the input of the first one no gradient is needed
            expected += passes * 2 * height * width * layer.weight.numel()
            height, width, is_first = height // 2, width // 2, False
    expected += 3 * 2 * network.logits.weight.numel()
    assert setting.operations(network, 1) == setting.records * expected


@pytest.mark.costly
@pytest.mark.usefixtures("global_generators")  # of networks
@pytest.mark.parametrize("index", [0, 1])
def test_operations_are_those_that_torch_counts(script: ModuleType, index: int) -> None:
    setting = script.SETTINGS[index]
    expected = 0
    counted = {}
    for epochs in (1, 3):
        case = script.make_case(setting, torch.device("cpu"), epochs=epochs)
        expected = setting.operations(case.make_network(), epochs)
        with FlopCounterMode(display=False) as counter:
            script.train_by_bare_loop(case, [0])
        assert counter.get_total_flops() == expected
        with FlopCounterMode(display=False) as counter:
            script.train_by_stack(case, [0, 1], size=2)
        counted[epochs] = counter.get_total_flops()
    # Looking at the architecture comes on top, whatever the number of epochs.
    assert counted[3] - counted[1] == 2 * expected * 2 // 3


def test_every_variant_starts_from_the_same_networks(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "LEARNING_RATE", 0.0)
    case = script.make_case(script.SETTINGS[1], torch.device("cpu"), epochs=1)
    by_stack = script.train_by_stack(case, [0, 1, 2], size=2)
    for k, other in enumerate(script.train_by_bare_loop(case, [0, 1, 2])):
        for name, tensor in other().state_dict().items():
            torch.testing.assert_close(by_stack[k]().state_dict()[name], tensor, rtol=0, atol=0)


def test_variants_that_did_not_learn_the_same_are_named(script: ModuleType) -> None:
    case = SimpleNamespace(setting=SimpleNamespace(name="location"))

    def variant(name: str, *loss_K: float) -> SimpleNamespace:
        return SimpleNamespace(name=name, case=case, loss_K=loss_K)

    assert script.unequal([variant("a", 0.50), variant("b", 0.52)]) is None
    for broken in (0.9, float("nan")):
        complaint = script.unequal([variant("a", 0.50), variant("b", broken)])
        assert complaint is not None
        assert "location" in complaint
        assert " b " in complaint


def test_settings_that_cannot_be_run_are_refused(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.arguments(["--rounds", "0"])
    assert "at least 1" in capsys.readouterr().err
    assert script.arguments(["--quick", "--epochs", "7"]).epochs == 7
