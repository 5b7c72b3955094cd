"""State dicts as training scripts keep them."""

import argparse
import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mia_lightning.errors import InputError
from mia_lightning.targets.weights_file import load_weights
from mia_lightning.training.stack.stack import Stack

pytestmark = pytest.mark.usefixtures("global_generators")  # of networks that the tests make


class Net(nn.Module):
    """A tied weight, a layer under two names, batch normalisation and a buffer that no state dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.b.weight = self.a.weight
        self.blocks = nn.Sequential(self.norm, nn.Linear(6, 3))
        self.register_buffer("constant", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.b(self.a(x))) * self.constant


@pytest.fixture
def network() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = Net()
        network(torch.randn(32, 6))
    return network.eval()


def renamed(state: dict[str, Tensor], change: Callable[[str], str]) -> dict[str, Tensor]:
    return {change(name): value for name, value in state.items()}


def optimiser_of(network: nn.Module) -> dict[str, Any]:
    moments = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(6, 6)}
    groups = [{"lr": 0.1, "params": list(range(len(list(network.parameters()))))}]
    return {"state": {0: moments}, "param_groups": groups}


FORMS: dict[str, Callable[[nn.Module], Any]] = {
    "bare": lambda n: n.state_dict(),
    "model": lambda n: {"model": n.state_dict(), "optimizer": optimiser_of(copy.deepcopy(n)), "epoch": 80},
    "model_state_dict": lambda n: {"epoch": 1, "model_state_dict": n.state_dict(), "loss": torch.tensor(0.3)},
    "net, best_acc": lambda n: {"net": n.state_dict(), "best_acc": np.float64(0.9), "history": np.zeros(3)},
    "args": lambda n: {"model": n.state_dict(), "args": argparse.Namespace(lr=0.1, output=Path("runs")), "scaler": {}},
    "deep": lambda n: {"runner": {"nets": [n.state_dict()]}},
    "tuple": lambda n: (3, n.state_dict()),
    "scalars beside": lambda n: {**n.state_dict(), "epoch": 3, "arch": "net"},
    "lightning": lambda n: {
        "pytorch-lightning_version": "2.6.0",
        "state_dict": renamed(n.state_dict(), "net.{}".format),
        "callbacks": {"EMA": {"weights": {name: value + 1 for name, value in n.state_dict().items()}}},
    },
    "data parallel": lambda n: nn.DataParallel(n).state_dict(),
    "compiled": lambda n: renamed(n.state_dict(), "_orig_mod.{}".format),
    "data parallel of compiled": lambda n: {"state_dict": renamed(n.state_dict(), "module._orig_mod.{}".format)},
    "inner data parallel": lambda n: renamed(n.state_dict(), lambda name: name.replace("blocks.", "blocks.module.")),
    "inner compiled": lambda n: renamed(n.state_dict(), lambda name: name.replace("blocks.", "blocks._orig_mod.")),
    "averaged": lambda n: AveragedModel(n).state_dict(),
    "another prefix": lambda n: renamed(n.state_dict(), "student.encoder.{}".format),
    "parameters": lambda n: {"params": dict(n.named_parameters()) | dict(n.norm.named_buffers("norm"))},
    "one name of a tied weight": lambda n: {k: v for k, v in n.state_dict().items() if k != "b.weight"},
    "the other name": lambda n: {k: v for k, v in n.state_dict().items() if k != "a.weight"},
    "one name of a layer": lambda n: {k: v for k, v in n.state_dict().items() if "blocks.0" not in k},
    "no counters": lambda n: {k: v for k, v in n.state_dict().items() if "num_batches" not in k},
    "counters of one number": lambda n: {k: v.reshape(1) if v.dim() == 0 else v for k, v in n.state_dict().items()},
    "other architecture beside": lambda n: {"teacher": nn.Linear(9, 3).state_dict(), "student": n.state_dict()},
    "half": lambda n: renamed(copy.deepcopy(n).to(torch.bfloat16).float().state_dict(), str),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_in_what_scripts_save(network: Net, tmp_path: Path, form: str) -> None:
    torch.save(FORMS[form](network), tmp_path / "model.pth")
    loaded = Net().eval()
    load_weights(loaded, tmp_path / "model.pth")
    expected = copy.deepcopy(network).to(torch.bfloat16).float() if form == "half" else network
    for name, tensor in expected.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(loaded.state_dict()[name], tensor), name
    x = torch.randn(5, 6)
    assert torch.equal(loaded(x), expected(x))
    assert loaded.b.weight is loaded.a.weight


def test_files_of_tied_weights_are_read_again(network: Net, tmp_path: Path) -> None:
    Stack([copy.deepcopy(network)], Net).save(tmp_path / "own.safetensors")
    save_model(network, str(tmp_path / "saved.safetensors"))
    save_file({k: v.clone() for k, v in network.state_dict().items()}, tmp_path / "all.safetensors")
    for name in ("own", "saved", "all"):
        loaded = Net().eval()
        load_weights(loaded, tmp_path / f"{name}.safetensors")
        assert torch.equal(loaded(torch.ones(2, 6)), network(torch.ones(2, 6)))


def test_of_several_that_fit_one_is_chosen_by_its_key(network: Net, tmp_path: Path) -> None:
    other = {name: value * 2 for name, value in network.state_dict().items()}
    torch.save({"model": network.state_dict(), "ema": {"shadow": other}}, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"state dicts that fit the model: `model`, `ema.shadow`; set `target.key`"):
        load_weights(Net(), tmp_path / "m.pt")
    loaded = Net()
    load_weights(loaded, tmp_path / "m.pt", key="ema.shadow")
    assert torch.equal(loaded.a.weight, network.a.weight * 2)
    with pytest.raises(InputError, match=r"`target.key` is 'best', but .* are `model`, `ema.shadow`"):
        load_weights(Net(), tmp_path / "m.pt", key="best")


def changed(network: nn.Module, **others: Tensor) -> dict[str, Tensor]:
    state = network.state_dict() | {name.replace("__", "."): value for name, value in others.items()}
    return {name: value for name, value in state.items() if value.numel()}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda n: changed(n, a__bias=torch.empty(0)), "it has no `a.bias`"),
        (lambda n: changed(n, a__weight=torch.empty(0), b__weight=torch.empty(0)), "it has no `a.weight`"),
        (
            lambda n: changed(n, b__weight=torch.zeros(6, 6)),
            "`a.weight` and `b.weight` are one tensor in the model",
        ),
        (lambda n: changed(n, blocks__1__bias=torch.zeros(4)), "`blocks.1.bias` is [4] in the file and [3] in"),
        (lambda n: changed(n, extra=torch.zeros(1)), "the model has no `extra`"),
        (lambda n: {"model": changed(n, extra=torch.zeros(1))}, "in its state dict `model`: the model has no `extra`"),
        (lambda n: {"optimizer": optimiser_of(n), "epoch": 3}, "holds no state dict of plain tensors"),
        (lambda n: {}, "holds no state dict of plain tensors"),
    ],
)
def test_what_does_not_fit_is_refused(
    network: Net, tmp_path: Path, make: Callable[[nn.Module], Any], words: str
) -> None:
    torch.save(make(network), tmp_path / "m.pt")
    with pytest.raises(InputError) as caught:
        load_weights(Net(), tmp_path / "m.pt")
    assert words in str(caught.value)


class Executes:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('executed')",))


def script(network: nn.Module, path: Path) -> None:
    torch.jit.save(torch.jit.script(network), path)


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (lambda n, path: torch.save(n, path), "test_weights_file.Net"),
        (lambda n, path: torch.save(Executes(), path), "builtins.exec"),
        (script, "it is a TorchScript program"),
        (lambda n, path: path.write_bytes(b"\x80\x02junk"), "it is damaged, or torch.save has not written it"),
        (lambda n, path: path.write_bytes(b""), "it is damaged, or torch.save has not written it"),
    ],
    ids=["module", "exec", "script", "junk", "empty"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_what_needs_code_is_refused_in_our_own_words(
    network: Net, tmp_path: Path, save: Callable[[nn.Module, Path], None], words: str
) -> None:
    path = tmp_path / "m.pt"
    save(network, path)
    with pytest.raises(InputError) as caught:
        load_weights(Net(), path)
    said = str(caught.value)
    assert "cannot be read as weights alone" in said
    assert words in said
    assert "save the state dict" in said
    assert not re.search(r"weights_only|trust|torch\.load|jit\.load|allowlist|add_safe_globals", said)


def sentence_of(network: nn.Module, path: Path, **options: str) -> str:
    with pytest.raises(InputError) as caught:
        load_weights(network, path, **options)
    return str(caught.value)


PREFIXES = ["", "model.", "net.", "module.", "_orig_mod.", "ema.", "model._orig_mod.", "module.model.", "net.module."]
PREFIXES += [
    "ema.module.",
    "_orig_mod.model.",
    "module._orig_mod.net.",
    "model.net.backbone.",
    "_forward_module.model.",
]
AROUND: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "lightning": lambda state: {"pytorch-lightning_version": "2.6.0", "state_dict": state, "callbacks": {}},
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "older"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_names_behind_any_prefix_are_found(
    network: Net, tmp_path: Path, prefix: str, in_zip: bool, around: str
) -> None:
    state = renamed(network.state_dict(), f"{prefix}{{}}".format)
    torch.save(AROUND[around](state), tmp_path / "m.pt", _use_new_zipfile_serialization=in_zip)
    loaded = Net().eval()
    assert load_weights(loaded, tmp_path / "m.pt") == ""
    assert torch.equal(loaded(torch.ones(2, 6)), network(torch.ones(2, 6)))


def test_what_stands_beside_the_prefix_is_said(network: Net, tmp_path: Path) -> None:
    state = renamed(network.state_dict(), "net.{}".format) | {"loss.weight": torch.ones(3), "steps": torch.ones(())}
    torch.save(state, tmp_path / "m.pt")
    loaded = Net().eval()
    said = load_weights(loaded, tmp_path / "m.pt")
    assert "`net.`" in said
    assert "2 others, such as `loss.weight`" in said
    assert torch.equal(loaded(torch.ones(2, 6)), network(torch.ones(2, 6)))
    assert load_weights(Net(), tmp_path / "m.pt", prefix="net.") == ""  # nothing was chosen


@pytest.mark.parametrize("average", ["ema.", "ema_model.module.", "model_ema.", "swa_model.", "averaged."])
def test_a_choice_between_weights_and_their_average_is_said(network: Net, tmp_path: Path, average: str) -> None:
    other = {name: value * 2 for name, value in network.state_dict().items()}
    state = renamed(network.state_dict(), "model.{}".format) | renamed(other, f"{average}{{}}".format)
    torch.save(state, tmp_path / "m.pt")
    loaded = Net()
    said = load_weights(loaded, tmp_path / "m.pt")
    assert torch.equal(loaded.a.weight, network.a.weight)
    assert "`model.`" in said
    assert f"`{average}`" in said
    assert f"target.prefix={average}" in said
    load_weights(loaded, tmp_path / "m.pt", prefix=average)
    assert torch.equal(loaded.a.weight, network.a.weight * 2)


def test_an_average_alone_is_taken(network: Net, tmp_path: Path) -> None:
    state = renamed(network.state_dict(), "ema.module.{}".format) | {"ema.n_averaged": torch.tensor(3)}
    torch.save(state, tmp_path / "m.pt")
    assert load_weights(Net(), tmp_path / "m.pt") == ""


def test_weights_that_two_prefixes_could_mean_are_refused(network: Net, tmp_path: Path) -> None:
    state = renamed(network.state_dict(), "student.{}".format) | renamed(network.state_dict(), "teacher.{}".format)
    state["teacher.a.bias"] = torch.zeros(6)
    torch.save(state, tmp_path / "m.pt")
    sentence = sentence_of(Net(), tmp_path / "m.pt")
    assert "`student.`, `teacher.`" in sentence
    assert "target.prefix" in sentence
    loaded = Net()
    load_weights(loaded, tmp_path / "m.pt", prefix="teacher.")
    assert torch.equal(loaded.a.bias, torch.zeros(6))


def test_a_part_of_a_larger_network_is_taken_only_where_it_is_asked_for(tmp_path: Path) -> None:
    whole = nn.Sequential(nn.Linear(50, 6), nn.Linear(6, 3))
    torch.save(whole.state_dict(), tmp_path / "m.pt")
    sentence = sentence_of(nn.Linear(6, 3), tmp_path / "m.pt")
    assert "target.prefix=1." in sentence
    assert "`0.weight`" in sentence
    head = nn.Linear(6, 3)
    load_weights(head, tmp_path / "m.pt", prefix="1.")
    assert torch.equal(head.weight, whole[1].weight)


def test_a_misfit_says_what_was_found_and_what_was_not(network: Net, tmp_path: Path) -> None:
    state = changed(network, blocks__1__bias=torch.zeros(4))
    torch.save(renamed(state, "net.{}".format), tmp_path / "m.pt")
    sentence = sentence_of(Net(), tmp_path / "m.pt")
    count = len(network.state_dict())
    for part in (
        "`blocks.1.bias` is [4] in the file and [3]",
        f"{count} of the model's {count} names",
        "behind `net.`",
    ):
        assert part in sentence
    del state["blocks.1.weight"]
    torch.save(state, tmp_path / "m.pt")
    assert f"{count - 1} of the model's {count} names" in sentence_of(Net(), tmp_path / "m.pt")
    assert "target.prefix" in sentence_of(Net(), tmp_path / "m.pt", prefix="net.")


def test_the_averages_of_lightning_are_said_and_what_was_before_is_had(network: Net, tmp_path: Path) -> None:
    other = {name: value * 2 for name, value in network.state_dict().items()}
    content = {"pytorch-lightning_version": "2.6.0", "state_dict": other, "current_model_state": network.state_dict()}
    torch.save(content, tmp_path / "m.ckpt")
    loaded = Net()
    assert "target.key=current_model_state" in load_weights(loaded, tmp_path / "m.ckpt")
    assert torch.equal(loaded.a.weight, network.a.weight * 2)
    assert load_weights(loaded, tmp_path / "m.ckpt", key="current_model_state") == ""
    assert torch.equal(loaded.a.weight, network.a.weight)


def test_weights_beside_objects_that_need_code_are_read(network: Net, tmp_path: Path) -> None:
    torch.save({"model": network.state_dict(), "hook": Executes(), "net": nn.Linear(2, 2)}, tmp_path / "m.pt")
    loaded = Net().eval()
    load_weights(loaded, tmp_path / "m.pt")
    assert torch.equal(loaded(torch.ones(2, 6)), network(torch.ones(2, 6)))


def test_one_list_in_many_places_is_looked_at_once(tmp_path: Path) -> None:
    held: list[Any] = [{"x": torch.ones(1)}]
    for _ in range(4):
        held = [held] * 1000
    torch.save(held, tmp_path / "m.pt")
    assert "does not fit the model" in sentence_of(Net(), tmp_path / "m.pt")


def test_a_tensor_of_another_kind_is_named(network: Net, tmp_path: Path) -> None:
    state: dict[str, Any] = dict(network.state_dict())
    state["blocks.1.weight"] = torch.eye(3, 6).to_sparse()
    torch.save({"model": renamed(state, "net.{}".format)}, tmp_path / "m.pt")
    sentence = sentence_of(Net(), tmp_path / "m.pt")
    assert "`net.blocks.1.weight` is a torch._utils._rebuild_sparse_tensor, which is not read" in sentence


def test_a_missing_weight_is_not_explained_by_one_that_the_model_has(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    for content, said in (
        ({"weight": network.weight}, None),
        ({"weight": network.weight, "shift": network.bias}, "shift"),
    ):
        torch.save(content, tmp_path / "model.pt")
        with pytest.raises(InputError, match="it has no `bias`") as refused:
            load_weights(network, tmp_path / "model.pt")
        assert ("it has `" in str(refused.value)) == (said is not None)
        assert said is None or f"it has `{said}`" in str(refused.value)
