"""A target that somebody has trained already."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from torch import nn

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.models.mlp import MLP
from mia_lightning.targets.checkpoint import Checkpoint
from mia_lightning.targets.existing import given_models

MODEL = partial(MLP, hidden=[32], activation="relu", dropout=0.2)
CPU = mia.TrainerSettings(accelerator="cpu")
MEMBERS = list(range(0, 40))


@pytest.fixture
def network(blobs: Population) -> nn.Module:
    """Trained by hand on the first 40 records until it knows them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MODEL(blobs.input_shape, blobs.num_classes)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(blobs.x_N[:40]), blobs.label_N[:40]).backward()
            optimizer.step()
    return network


def audit(blobs: Population, target: object, **options: object) -> mia.AuditReport:
    return mia.audit(
        blobs,
        model=MODEL,
        target=target,
        shadow=mia.Real(count=4),
        attacks=[mia.Loss()],
        training=mia.Recipe(epochs=10, batch_size=20, optimizer=partial(torch.optim.Adam, lr=0.02)),
        trainer=CPU,
        **{"membership": mia.Given(member_N=MEMBERS), **options},
    )


@pytest.mark.parametrize("method", ["on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"])
def test_a_module_that_changes_its_batches_beside_forward_is_refused(
    method: str, blobs: Population, network: nn.Module
) -> None:
    def scaled(self: nn.Module, batch: Any, *args: Any) -> Any:
        return [2 * batch[0], batch[1]]

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    own: Any = type("Own", (pl.LightningModule,), {method: scaled, "forward": forward})()
    own.net = network
    with pytest.raises(mia.InputError) as refused:
        given_models(own, blobs, torch.device("cpu"))
    for part in ("Own", method, "forward"):
        assert part in str(refused.value)


def test_a_module_is_attacked_as_it_is_and_left_as_it_was(blobs: Population, network: nn.Module) -> None:
    network.train()
    before = copy.deepcopy(network.state_dict())
    report = audit(blobs, network)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert isinstance(network[3], nn.Dropout)
    scores = report.scores
    assert scores is not None
    with torch.no_grad():
        loss_N = nn.functional.cross_entropy(copy.deepcopy(network).eval()(blobs.x_N), blobs.label_N, reduction="none")
    np.testing.assert_allclose(scores.score, -loss_N.numpy()[scores.record], atol=1e-5)
    assert set(scores.record[scores.is_member]) == set(MEMBERS)
    accuracy = (copy.deepcopy(network).eval()(blobs.x_N).argmax(1) == blobs.label_N).float()
    assert report.target.train_accuracy == pytest.approx(float(accuracy[:40].mean()))
    assert report.target.test_accuracy == pytest.approx(float(accuracy[40:].mean()))


@pytest.mark.costly
@pytest.mark.parametrize("form", ["safetensors", "pt", "lightning", "prefix"])
def test_a_checkpoint_gives_the_scores_of_its_module(
    blobs: Population, network: nn.Module, tmp_path: Path, form: str
) -> None:
    state, prefix = network.state_dict(), ""
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "model.ckpt")
    if form == "safetensors":
        save_file(state, path)
    elif form == "pt":
        torch.save(state, path)
    else:
        prefix = "net." if form == "prefix" else ""
        named = {f"{prefix}{name}": value for name, value in state.items()} | (
            {"loss.w": torch.ones(1)} if prefix else {}
        )
        torch.save({"state_dict": named, "epoch": 3}, path)
    expected = audit(blobs, network).scores
    found = audit(blobs, Checkpoint(path=path, prefix=prefix)).scores
    assert expected is not None
    assert found is not None
    np.testing.assert_array_equal(expected.score, found.score)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('executed')",))


@pytest.mark.usefixtures("global_generators")
def test_files_that_are_no_weights_of_the_model_are_refused(
    blobs: Population, network: nn.Module, tmp_path: Path
) -> None:
    def refused(name: str, sentence: str) -> None:
        with pytest.raises(mia.InputError, match=sentence):
            audit(blobs, Checkpoint(path=tmp_path / name))

    refused("absent.pt", "is not a file")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00")
    refused("torn.safetensors", "cannot be read as weights alone")
    torch.save(Evil(), tmp_path / "evil.pt")
    refused("evil.pt", "cannot be read as weights alone")
    torch.save([1, 2], tmp_path / "list.pt")
    refused("list.pt", "holds no state dict")
    (tmp_path / "empty.pt").touch()
    refused("empty.pt", "cannot be read as weights alone")
    for number, junk in enumerate((b"junk", b"\x80\x02", b"\x80\x02]q.", b"PK\x03\x04", bytes(range(256)))):
        (tmp_path / f"junk{number}.pt").write_bytes(junk)
        refused(f"junk{number}.pt", "cannot be read as weights alone|holds no state dict")
    diverged = {name: value.clone() for name, value in network.state_dict().items()}
    diverged["logits.weight"][0, 0] = torch.nan
    torch.save(diverged, tmp_path / "diverged.pt")
    refused("diverged.pt", r"`target.path` .*diverged.pt has NaN or infinite values in `logits.weight`")
    other = MLP(blobs.input_shape, blobs.num_classes, hidden=[9])
    torch.save(other.state_dict(), tmp_path / "other.pt")
    refused("other.pt", "does not fit the model MLP")


def test_a_trained_target_needs_to_be_told_its_members(blobs: Population, network: nn.Module) -> None:
    with pytest.raises(mia.InputError, match="membership=disjoint would draw its members at random"):
        audit(blobs, network, membership=mia.Disjoint(train_size=20))


@pytest.mark.usefixtures("global_generators")
def test_a_module_for_other_records_is_refused(blobs: Population) -> None:
    with pytest.raises(mia.InputError, match="fails on a batch of records"):
        audit(blobs, nn.Linear(7, 3))


def test_a_module_that_diverged_is_refused(blobs: Population, network: nn.Module) -> None:
    with torch.no_grad():
        next(network.parameters()).fill_(torch.inf)
    with pytest.raises(mia.InputError, match="The module MLP has NaN or infinite values in"):
        audit(blobs, network)


def test_a_frozen_module_is_attacked_like_any_other(blobs: Population, network: nn.Module) -> None:
    expected = audit(blobs, network).scores
    found = audit(blobs, copy.deepcopy(network).requires_grad_(False)).scores
    assert expected is not None
    assert found is not None
    np.testing.assert_array_equal(expected.score, found.score)


@pytest.mark.costly
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_module_keeps_its_own_floating_point_type(blobs: Population, network: nn.Module, dtype: torch.dtype) -> None:
    scores = audit(blobs, copy.deepcopy(network).to(dtype)).scores
    assert scores is not None
    with torch.no_grad():
        logit_NC = copy.deepcopy(network).eval().to(dtype)(blobs.x_N.to(dtype)).double()
    loss_N = nn.functional.cross_entropy(logit_NC, blobs.label_N, reduction="none")
    tolerance = 1e-6 if dtype == torch.float64 else 0.2
    np.testing.assert_allclose(scores.score, -loss_N.numpy()[scores.record], atol=tolerance)


def test_a_stack_of_one_is_a_checkpoint(blobs: Population, network: nn.Module, tmp_path: Path) -> None:
    save_file(
        {name: value[None].contiguous() for name, value in network.state_dict().items()}, tmp_path / "t.safetensors"
    )
    expected, found = audit(blobs, network).scores, audit(blobs, Checkpoint(path=tmp_path / "t.safetensors")).scores
    assert expected is not None
    assert found is not None
    np.testing.assert_array_equal(expected.score, found.score)


def test_counts_may_come_from_numpy() -> None:
    for made in (mia.Real(count=np.int64(3)), mia.Trained(count=np.int64(3))):
        assert type(made.count) is int
        assert made.count == 3


@pytest.mark.usefixtures("global_generators")
def test_the_first_tensor_that_differs_is_named(blobs: Population, tmp_path: Path) -> None:
    state = MODEL((6,), 3).state_dict()
    for name, changed, words in (
        ("shape", state | {"logits.bias": torch.zeros(4)}, "`logits.bias` is [4] in the file and [3] in the model"),
        ("more", state | {"extra": torch.zeros(1)}, "the model has no `extra`"),
    ):
        path = tmp_path / f"{name}.pt"
        torch.save(changed, path)
        with pytest.raises(mia.InputError) as caught:
            audit(blobs, Checkpoint(path=path))
        assert words in str(caught.value)
        assert len(str(caught.value)) < 400 + len(str(path))
