"""A LightningModule of the user's is audited by one line, as it is."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F  # noqa: N812
from command_line import Call
from own_modules import LitClassifier, SimpleDenseNet, TemplateModule, TimmLike
from torch import nn

import mia_lightning as mia
from mia_lightning.datasets.loading import Loading
from mia_lightning.datasets.population import Population
from mia_lightning.serve.run import served_model
from mia_lightning.training.own.lightning import lightning_module

pytestmark = pytest.mark.usefixtures("global_generators")  # networks are made here

QUICK: dict[str, Any] = {
    "membership": mia.Disjoint(train_size=20),
    "shadow": mia.Real(count=4),
    "attacks": [mia.Loss()],
    "training": mia.Recipe(epochs=2, batch_size=8),
}
TEMPLATE = partial(
    TemplateModule,
    net=SimpleDenseNet(),
    optimizer=partial(torch.optim.Adam, lr=0.01),
    scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1),
)


@pytest.mark.costly
@pytest.mark.parametrize(("model", "data"), [(LitClassifier, "blobs"), (TEMPLATE, "blobs"), (TimmLike, "pictures")])
def test_modules_of_three_habits_are_audited_by_one_line(model: Any, data: str, request: pytest.FixtureRequest) -> None:
    settings = QUICK | ({"membership": mia.Disjoint(train_size=12)} if data == "pictures" else {})
    report = mia.audit(request.getfixturevalue(data), model=model, **settings)
    name = getattr(model, "func", model).__name__
    (told,) = [each for each in report.notes if "training_step" in each]
    for part in (name, "`model`", "configure_optimizers", "2 epochs", "batches of 8", "`training.batch_size`"):
        assert part in told
    assert 0 <= report.attacks[0].overall.auc.value <= 1
    shared = [each for each in [*report.notes, *report.warnings] if "SimpleDenseNet" in each]
    assert len(shared) == (model is TEMPLATE)


@pytest.mark.costly
@pytest.mark.parametrize(("plan", "model"), [(mia.Halves(), TEMPLATE), (mia.Bernoulli(canaries=40), LitClassifier)])
def test_odd_numbers_of_records_need_no_padding(plan: mia.Plan, model: Any, blobs: Population) -> None:
    population = blobs.part(slice(0, 101))
    observation = mia.observe(population, model=model, **(QUICK | {"membership": plan}))
    assert bool(observation.shadow_signals.log_probability_KANC.isfinite().all())
    observation.close()


@pytest.mark.costly
@pytest.mark.parametrize(
    "settings",
    [
        {"model": lambda: nn.Sequential(LitClassifier())},
        {"target": mia.LeaveOneOut(), "membership": mia.Halves(), "shadow": mia.Real(count=6)},
        {"membership": mia.OneCanary(train_size=20), "target": mia.Trained(count=28), "shadow": mia.Real(count=8)},
        {"shadow": mia.Marginal(count=4)},
        {"target": LitClassifier(), "membership": mia.Given(member_N=torch.arange(120) < 60)},
    ],
    ids=["in a wrapper", "every model a target", "one canary", "made records", "a trained target"],
)
def test_other_targets_plans_and_sources(settings: dict[str, Any], blobs: Population) -> None:
    population = replace(blobs, loading=Loading(batch_size=8, shuffle=True, drop_last=True))
    report = mia.audit(population, **({"model": LitClassifier} | QUICK | settings))
    assert any("LitClassifier" in each and "training_step" in each for each in report.notes)


def test_settings_without_effect_are_said(blobs: Population) -> None:
    training = mia.Recipe(epochs=1, batch_size=30, optimizer=partial(torch.optim.SGD, lr=1.0))
    population = replace(blobs, loading=Loading(batch_size=16, shuffle=True, drop_last=True))
    report = mia.audit(population, model=LitClassifier, **(QUICK | {"training": training}))
    (told,) = [each for each in report.warnings if "no effect" in each]
    assert "training.optimizer" in told
    assert "training.batch_size" in told
    (taken,) = [each for each in report.notes if "LitClassifier" in each]
    assert "batches of 16" in taken
    assert "loader" in taken
    assert [each for each in mia.audit(blobs, model=LitClassifier, **QUICK).warnings if "no effect" in each] == []


class Reports(LitClassifier):
    """Reports in every way, and reads numbers out of tensors, which vmap refuses."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.logger.experiment.add_scalar("loss", loss.item(), self.global_step)
        self.print(f"{self.trainer.callback_metrics['loss']:.3f} of {self.trainer.num_training_batches}")
        for each in self.loggers:
            each.log_metrics({"loss": loss})
        self.log("lr", self.lr_schedulers().get_last_lr()[0] if self.lr_schedulers() else 0.0)
        return loss


def test_a_step_that_vmap_refuses_is_named_with_the_reason(blobs: Population) -> None:
    report = mia.audit(blobs, model=Reports, **QUICK)
    told = [each for each in report.warnings if "vmap" in each]
    assert len(told) == 2  # of the target and of the shadow models
    for part in ("Reports", "training_step", ".item()", "one by one"):
        assert part in told[0]


def test_a_guessed_model_trains_itself_as_well(blobs: Population) -> None:
    report = mia.audit(blobs, model=partial(nn.Linear, 6, 3), guess=mia.Guess(model=LitClassifier), **QUICK)
    (told,) = [each for each in report.notes if "LitClassifier" in each]
    assert "`guess.model`" in told


class Quiet(LitClassifier):
    """Without the list that its training step would fill."""

    def on_train_epoch_end(self) -> None: ...


class Other(Quiet):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self(x), y)


class Changed(Quiet):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self(x), y, label_smoothing=0.2)


def test_a_change_of_the_training_step_trains_anew(blobs: Population, tmp_path: Path) -> None:
    Changed.__qualname__ = Changed.__name__ = Other.__qualname__ = Other.__name__ = "Edited"
    store = mia.Store(dir=tmp_path / "store")
    trained = []
    for model in (Other, Other, Changed):
        observation = mia.observe(blobs, model=model, store=store, **QUICK)
        trained.append(observation.engine.reused["shadow"].trained)
        observation.close()
    assert trained == [4, 0, 4]


def test_estimates_know_of_it(blobs: Population) -> None:
    sentences = mia.estimate(blobs, model=LitClassifier, **QUICK)
    assert any("shadow" in each for each in sentences)


@pytest.mark.parametrize("defense", [mia.LabelSmoothing(), mia.Mixup(), mia.RelaxLoss(), mia.DPSGD()])
def test_defences_in_the_loss_are_refused(defense: mia.Defense, blobs: Population) -> None:
    with pytest.raises(mia.InputError) as refused:
        mia.audit(blobs, model=LitClassifier, defenses=[defense], **QUICK)
    assert f"defense={defense.name}" in str(refused.value)
    assert "LitClassifier" in str(refused.value)


@pytest.mark.costly
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_l2_penalty_is_added_to_the_gradients(kind: type[torch.optim.Optimizer], blobs: Population) -> None:
    """The same as a loss with the penalty in it."""

    class Plain(Quiet):
        penalty = 0.0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            return F.cross_entropy(self(x), y) + self.penalty * sum(p.square().sum() for p in self.parameters())

        def configure_optimizers(self) -> Any:
            return kind(self.parameters(), lr=0.05, weight_decay=0.0)

    class Penalised(Plain):
        penalty = 0.01

    states = []
    trainer = mia.TrainerSettings(accelerator="cpu", precision="64")
    for model, defenses in ((Plain, [mia.L2(strength=0.01)]), (Penalised, [])):
        observation = mia.observe(blobs, model=model, defenses=defenses, trainer=trainer, **QUICK)
        states.append(observation.shadows.stack.state())  # type: ignore[attr-defined]
        observation.close()
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-8, atol=1e-8)


def test_early_stopping_works_on_held_out_records(blobs: Population) -> None:
    training = mia.Recipe(epochs=6, batch_size=8, early_stopping=mia.EarlyStopping(patience=1, min_delta=10.0))
    membership = mia.Disjoint(train_size=20, validation=20)
    observation = mia.observe(blobs, model=LitClassifier, **(QUICK | {"training": training, "membership": membership}))
    assert observation.shadows.stopped_epoch_K.tolist() == [1] * 4  # type: ignore[attr-defined]
    observation.close()


class Diverges(LitClassifier):
    """One of its models, as its weights begin, breaks in its first step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return torch.where(self.l1.bias[0] > -0.3, loss, loss * 1e30) ** 2


def test_a_model_that_fails_leaves_its_neighbours_alone(blobs: Population) -> None:
    settings = QUICK | {"shadow": mia.Real(count=12)}
    report = mia.audit(blobs, model=Diverges, **settings)
    assert any("no longer finite" in each or "not finite" in each for each in report.warnings), report.warnings


# A Trainer of the user's in the place of the `trainer` section.


def trainer_of(**settings: Any) -> pl.Trainer:
    return pl.Trainer(
        **{
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **settings,
        }
    )


def test_epochs_clipping_and_accumulation_are_the_trainers(blobs: Population, tmp_path: Path) -> None:
    trainer = trainer_of(
        max_epochs=3, gradient_clip_val=0.5, accumulate_grad_batches=2, precision="64-true", default_root_dir=tmp_path
    )
    observation = mia.observe(blobs, model=LitClassifier, trainer=trainer, **QUICK)
    assert observation.shadows.train_loss_EK.shape == (3, 4)  # type: ignore[attr-defined]
    assert observation.shadows.stack.dtype == torch.float64  # type: ignore[attr-defined]
    (told,) = [each for each in observation.engine.stages.notes if "Trainer" in each and "epochs," in each]
    for part in ("3 epochs", "0.5", "2 batches"):
        assert part in told
    observation.close()
    same = mia.Recipe(epochs=3, batch_size=8, gradient_clip_norm=0.5, accumulate_batches=2)
    other = mia.observe(
        blobs,
        model=LitClassifier,
        trainer=mia.TrainerSettings(accelerator="cpu", precision="64"),
        **(QUICK | {"training": same}),
    )
    for name, tensor in other.shadows.stack.state().items():  # type: ignore[attr-defined]
        assert torch.equal(tensor, observation.shadows.stack.state()[name])  # type: ignore[attr-defined]
    other.close()


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"max_steps": 10}, "max_steps"),
        ({"fast_dev_run": True}, "fast_dev_run=True, which does not hold for a stack; leave it out"),
        ({"max_epochs": -1}, "max_epochs"),
        ({"max_epochs": 1, "limit_train_batches": 2}, "limit_train_batches"),
        ({"max_epochs": 1, "gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}, "gradient_clip_algorithm"),
        ({"max_epochs": 1, "precision": "bf16-true"}, "precision"),
        ({"max_epochs": 1, "max_time": "00:01:00:00"}, "max_time"),
        ({"max_epochs": 1, "callbacks": [pl.callbacks.StochasticWeightAveraging(0.1)]}, "StochasticWeightAveraging"),
        ({"max_epochs": 1, "devices": 2, "strategy": "ddp"}, "2 processes"),
    ],
)
def test_trainers_that_no_stack_can_follow_are_refused(
    settings: dict[str, Any], part: str, blobs: Population, tmp_path: Path
) -> None:
    with pytest.raises(mia.InputError, match=part):
        mia.Audit(blobs, model=LitClassifier, trainer=trainer_of(default_root_dir=tmp_path, **settings))  # type: ignore[arg-type]


def test_callbacks_of_the_trainer_that_take_no_part_are_said(blobs: Population, tmp_path: Path) -> None:
    trainer = trainer_of(max_epochs=1, callbacks=[pl.callbacks.EarlyStopping("val_loss")], default_root_dir=tmp_path)
    audit = mia.Audit(blobs, model=LitClassifier, trainer=trainer)  # type: ignore[arg-type]
    assert audit.trainer.fit is not None
    assert "EarlyStopping" in audit.trainer.fit.sentence


# The command line.

PROJECT = """
import torch
import torch.nn.functional as F
import pytorch_lightning as pl
from torch import nn


class Dense(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        self.scale = nn.Parameter(torch.randn(10))

    def forward(self, x):
        return self.layers(x) * self.scale


class LitNet(pl.LightningModule):
    def __init__(self, net=None, lr=0.1, optimizer=None):
        super().__init__()
        self.save_hyperparameters(ignore=["net"])
        self.net = Dense() if net is None else net

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        make = self.hparams.optimizer or torch.optim.SGD
        return make(self.parameters(), lr=self.hparams.lr)


class Broken(LitNet):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch["image"]), batch["label"])
"""
SHORT = ("training.epochs=2", "shadow.count=4", "attack=[loss]", "logger=none", "hydra.run.dir=run")


@pytest.fixture
def project(tmp_path: Path) -> Any:
    (tmp_path / "my_project.py").write_text(PROJECT)
    yield
    sys.modules.pop("my_project", None)


def test_a_module_is_audited_by_one_command(call: Call, project: None, tmp_path: Path) -> None:
    command = ("model=lightning", "model._target_=my_project.LitNet", "+model.lr=0.2", *SHORT)
    ended = call(*command)
    assert ended.returncode == 0, ended.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert any("LitNet" in each for each in report["notes"])


@pytest.mark.slow
def test_parts_of_a_module_are_made_anew_for_each_model(call: Call, project: None, tmp_path: Path) -> None:
    parts = (
        *("+model.net._target_=my_project.Dense", "+model.net.width=12"),
        *("+model.optimizer._target_=torch.optim.Adam", "+model.optimizer._partial_=true", "+model.lr=0.01"),
    )
    ended = call("model=lightning", "model._target_=my_project.LitNet", *parts, *SHORT, "save_models=true")
    assert ended.returncode == 0, ended.stderr
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "run" / "shadow.safetensors")
    assert weights["net.layers.1.weight"].shape == (4, 12, 64)
    assert len(weights["net.scale"].unique(dim=0)) == 4
    again = call("model=lightning", "model._target_=my_project.LitNet", *parts, *SHORT[:-1], "hydra.run.dir=again")
    assert "nothing to train" in again.stderr


class MadeInSetup(pl.LightningModule):
    """Makes its layers where Lightning lets it."""

    def setup(self, stage: str) -> None:
        self.layer = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def test_a_served_run_makes_the_module_as_it_was_trained(call: Call, tmp_path: Path) -> None:
    module = f"model._target_={__name__}.MadeInSetup"
    ended = call("model=lightning", module, *SHORT, "store.dir=null", "save_models=true")
    assert ended.returncode == 0, ended.stderr
    assert "MadeInSetup" in served_model(tmp_path / "run", trust=True).describe()


def test_a_step_of_another_form_of_batch_ends_in_a_sentence(call: Call, project: None) -> None:
    ended = call("model=lightning", "model._target_=my_project.Broken", *SHORT)
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()[-1:]
    for part in ("Broken", "records [4, 64]", "labels [4]"):
        assert part in line


def test_a_setting_that_the_module_does_not_have_is_named(call: Call, project: None) -> None:
    ended = call("model=lightning", "model._target_=my_project.LitNet", "+model.with=3", *SHORT)
    assert ended.returncode == 2
    assert "model.with" in ended.stderr


def test_a_lightning_module_is_found_in_a_wrapper_and_not_as_a_part() -> None:
    assert isinstance(lightning_module(nn.Sequential(LitClassifier())), LitClassifier)
    assert lightning_module(nn.Sequential(LitClassifier(), nn.Linear(3, 3))) is None
    assert lightning_module(nn.Linear(3, 3)) is None
    other = type("Net", (type("LightningModule", (nn.Module,), {}),), {})  # of the package `lightning`
    assert lightning_module(other()) is not None
