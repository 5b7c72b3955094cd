"""A trained network that predicts numbers, or several labels, as the target: what it is taken for, and what shows."""

from functools import partial

import pytest
import torch
from tasks_data import N, records

import mia_lightning as mia
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import generator, isolated

MEMBERS = torch.zeros(N, dtype=torch.bool).index_fill(
    0, torch.randperm(N, generator=generator(0, "members"))[: N // 2], True
)


class Scaled(torch.nn.Module):
    """A network that gives predictions in the unit of the values."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(6, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
        self.mean, self.std = mean, std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.layers(x) * self.std + self.mean).squeeze(1)


def trained() -> Scaled:
    """In a plain loop, with no part of the package."""
    data = records("regression")
    x, y = data.x_N[MEMBERS], data.label_N[MEMBERS]
    with isolated(0, "given regression"):
        network = Scaled(float(y.mean()), float(y.std()))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(100):
            optimizer.zero_grad()
            ((network(x) - y) / network.std).square().mean().backward()
            optimizer.step()
    return network.eval()


def audit(network: torch.nn.Module, **options: object) -> mia.AuditReport:
    return mia.audit(
        records("regression"),
        **{
            "model": partial(MLP, hidden=[64]),
            "membership": mia.Given(member_N=MEMBERS),
            "target": network,
            "shadow": mia.Real(count=8),
            "training": mia.Recipe(epochs=60, batch_size=40, optimizer=partial(torch.optim.Adam, lr=0.02)),
            "attacks": [mia.Loss(), mia.Lira()],
            "trainer": mia.TrainerSettings(accelerator="cpu"),
            **options,
        },
    )


class Moved(torch.nn.Module):
    """Gives what another network gives, otherwise."""

    def __init__(self, network: torch.nn.Module, factor: float, shift: float) -> None:
        super().__init__()
        self.network, self.factor, self.shift = network, factor, shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        predictions: torch.Tensor = self.network(x)
        return predictions * self.factor + self.shift


@pytest.mark.slow
def test_a_network_that_predicts_in_the_unit_of_the_values_is_sound_and_leaks() -> None:
    network = trained()
    report = audit(network)
    assert report.trust.verdict == "sound", report.trust
    assert report.trust.correlation is not None
    assert report.trust.correlation > 0.2
    data = records("regression")
    predicted = network(data.x_N).detach().double()
    of_members = data.label_N[MEMBERS].double()
    left = (of_members - predicted[MEMBERS]).square().sum() / (of_members - of_members.mean()).square().sum()
    assert report.target.train_accuracy == pytest.approx(1 - float(left), abs=1e-5)
    aucs = {each.name: each.overall.auc.value or 0 for each in report.attacks}
    assert aucs["loss"] > 0.65
    assert aucs["lira_online"] > 0.65


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "shift"), [(1000.0, 0.0), (1 / 7, -40 / 7), (0.0, 40.0)])
def test_a_network_that_predicts_in_another_unit_or_a_constant_is_never_trusted(factor: float, shift: float) -> None:
    report = audit(Moved(trained(), factor, shift))
    assert report.trust.verdict in ("void", "unconfirmed")
    assert report.headline in ("This audit could not be confirmed", "This audit cannot be trusted")
    assert any("R²" in each for each in report.trust.reasons)


@pytest.mark.slow
def test_members_and_others_exchanged_are_void() -> None:
    report = audit(trained(), membership=mia.Given(member_N=~MEMBERS))
    assert report.trust.verdict == "void"
    assert report.trust.cause is not None
    assert "exchanged" in report.trust.cause


@pytest.mark.slow
def test_members_counted_from_1_are_void() -> None:
    report = audit(trained(), membership=mia.Given(member_N=MEMBERS.roll(1)))
    assert report.trust.verdict == "void"
    assert report.trust.cause is not None
    assert "one too late" in report.trust.cause


@pytest.mark.slow
def test_a_network_of_other_records_is_void_or_unconfirmed() -> None:
    """Rows shifted by one: its residuals have nothing to do with those of the shadow models."""

    class Shifted(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("x_N", records("regression").x_N)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """What the network gives for the record before each."""
            place_B = torch.cdist(x, self.x_N).argmin(1)  # type: ignore[arg-type]
            return self.network(self.x_N[place_B - 1])  # type: ignore[index, no-any-return]

    report = audit(Shifted(trained()))
    assert report.trust.verdict == "void"


class Columns(torch.nn.Module):
    """A network of several outputs, in another order."""

    def __init__(self, network: torch.nn.Module, order: list[int]) -> None:
        super().__init__()
        self.network, self.order = network, order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.network(x)[:, self.order]
        return outputs


@pytest.mark.costly
@pytest.mark.parametrize("task", ["multilabel", "regression of two"])
def test_outputs_in_another_order_than_the_labels_are_void(task: str) -> None:
    data = records(task)
    y_N = data.label_N.float()
    width, y_N = y_N.shape[1], (y_N - y_N.mean(0)) / (y_N.std(0) if task != "multilabel" else 1)
    with isolated(0, "columns"):
        layers = torch.nn.Sequential(torch.nn.Linear(6, 64), torch.nn.ReLU(), torch.nn.Linear(64, width))
        optimizer = torch.optim.Adam(layers.parameters(), lr=0.01)
        for _ in range(50):
            optimizer.zero_grad()
            found, wanted = layers(data.x_N[MEMBERS]), data.label_N[MEMBERS].float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits
            (loss(found, wanted) if task == "multilabel" else (found - y_N[MEMBERS]).square().mean()).backward()
            optimizer.step()
    if task != "multilabel":  # in the units of the values
        values = data.label_N.float()
        with torch.no_grad():
            layers[2].weight.mul_(values.std(0)[:, None])
            layers[2].bias.mul_(values.std(0)).add_(values.mean(0))
    order = [1, 0, 2][:width]
    told = {
        "membership": mia.Given(member_N=MEMBERS),
        "model": partial(MLP, hidden=[64]),
        "shadow": mia.Real(count=2),
        "attacks": [mia.Loss()],
        "training": mia.Recipe(epochs=15, batch_size=40, optimizer=partial(torch.optim.Adam, lr=0.02)),
        "trainer": mia.TrainerSettings(accelerator="cpu"),
    }
    report = mia.audit(data, target=Columns(layers.eval(), order), **told)
    assert report.trust.verdict == "void"
    assert "its outputs stand in another order" in str(report.trust.cause)
    names = [data.class_names[c] for c in order]
    assert ", ".join(names) in str(report.trust.mend)
    assert mia.audit(data, target=layers, **told).trust.verdict != "void"
