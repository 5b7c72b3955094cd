"""Checkpoints that `pl.Trainer` wrote, as targets: the module that was trained, and shadow models like it."""

import re
import shutil
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning_habits
import numpy as np
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch
from audited_checkpoints import MEMBERS, audit, check_scores
from command_line import Call
from lightning_habits import (
    MOMENTUM,
    Bare,
    Binary,
    Ignores,
    Keeps,
    LitNet,
    OfAny,
    OfConfig,
    OfNamespace,
    WithAverage,
    WithClass,
    WithConfig,
    best,
    checkpoint_of,
    fitted,
    layers,
)
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.serve.run import served_model
from mia_lightning.targets.checkpoint import Checkpoint

pytestmark = [
    pytest.mark.usefixtures("global_generators"),  # of networks that the tests make
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning", "ignore:.*hparams.*"),
]


OTHER: dict[str, tuple[Callable[[], pl.LightningModule], Callable[..., nn.Module]]] = {
    "documentation": (lambda: LitNet(width=5, class_weights=[1.0, 2.0, 1.0]), LitNet),
    "any": (lambda: OfAny(width=5, lr=0.1), OfAny),
    "dict": (lambda: OfConfig({"width": 5}), OfConfig),
    "namespace": (lambda: OfNamespace(Namespace(width=5)), OfNamespace),
    "omegaconf": (lambda: OfConfig(OmegaConf.create({"width": 5})), OfConfig),
    "omegaconf inside": (lambda: WithConfig(OmegaConf.create({"width": 5, "deep": {"list": [1, "a"]}})), WithConfig),
    "ignores its network": (lambda: Ignores(layers(5), lr=0.1), lambda **given: Ignores(layers(5), **given)),
    "keeps its network": (lambda: Keeps(layers(5), MOMENTUM), lambda: Keeps(layers(5), MOMENTUM)),
    "class": (lambda: WithClass(width=5), WithClass),
    "bare": (lambda: Bare(width=5), partial(Bare, width=5)),
    "plain module inside": (lambda: LitNet(width=5), lambda: layers(5)),
}


@pytest.mark.costly
@pytest.mark.parametrize("habit", OTHER)
def test_a_checkpoint_is_the_module_that_was_trained(blobs: Population, tmp_path: Path, habit: str) -> None:
    make, model = OTHER[habit]
    module = make()
    path = checkpoint_of(module, blobs.x_N, blobs.label_N, tmp_path / "epoch=1-step=6.ckpt")
    report = audit(blobs, model=model, target=str(path))
    check_scores(report, module, blobs)
    assert report.target.num_parameters == sum(p.numel() for p in module.parameters())


def test_the_width_of_the_checkpoint_is_that_of_target_and_shadow_models(blobs: Population, tmp_path: Path) -> None:
    path = checkpoint_of(LitNet(width=5), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    observation = mia.observe(
        blobs,
        model=LitNet,
        target=path,
        membership=mia.Given(member_N=MEMBERS),
        shadow=mia.Real(count=2),
        attacks=[mia.Loss()],
        trainer=mia.TrainerSettings(accelerator="cpu"),
    )
    assert observation.shadows.stack.model(0).net[0].out_features == 5
    notes = observation.engine.stages.notes
    assert any("width=5" in note and "hyper-parameters of a.ckpt" in note for note in notes)
    assert any("`training.epochs` is 2" in note for note in notes)
    assert len(observation.shadows.train_loss_EK) == 2
    observation.close()


def test_a_module_in_memory_is_what_its_checkpoint_is(blobs: Population, tmp_path: Path) -> None:
    module = LitNet(width=5)
    path = checkpoint_of(module, blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")  # it is still attached to its Trainer
    settings = {"model": partial(LitNet, width=5), "training": mia.Recipe(epochs=2, batch_size=20)}
    expected, found = audit(blobs, target=module, **settings).scores, audit(blobs, target=path, **settings).scores
    assert expected is not None
    assert found is not None
    np.testing.assert_array_equal(expected.score, found.score)


def test_epochs_that_are_set_stay_and_those_of_a_state_dict_are_ours(blobs: Population, tmp_path: Path) -> None:
    path = checkpoint_of(LitNet(), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt", epochs=3)
    recipe = mia.Recipe(epochs=1, batch_size=20)
    report = audit(blobs, model=LitNet, target=path, training=recipe)
    assert not any("training.epochs" in note for note in report.notes)
    assert Checkpoint(path=path).trained_epochs == 3
    torch.save(LitNet().state_dict(), tmp_path / "b.pt")
    assert Checkpoint(path=tmp_path / "b.pt").trained_epochs is None
    assert mia.Recipe().epochs == 100
    assert recipe.trained_for(7).epochs == 1
    assert mia.Recipe().trained_for(7).epochs == 7
    assert replace(mia.Recipe(), augment=[mia.Flip()]).trained_for(7).epochs == 7  # of a changed copy, too
    assert replace(mia.Recipe(epochs=100), augment=[mia.Flip()]).trained_for(7).epochs == 100
    assert mia.Recipe().trained_for(None).epochs == 100


def test_the_epochs_of_a_checkpoint_within_a_training(blobs: Population, tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, every_n_train_steps=2, filename="{step}")
    each = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="end-{epoch}")
    fitted(LitNet(), blobs.x_N, blobs.label_N, tmp_path, epochs=3, callbacks=[saver, each])  # three steps an epoch
    of_steps = {file.stem: Checkpoint(path=file).trained_epochs for file in tmp_path.glob("step=*.ckpt")}
    assert of_steps == {"step=2": 1, "step=4": 2, "step=6": 2, "step=8": 3}
    of_epochs = {file.stem: Checkpoint(path=file).trained_epochs for file in tmp_path.glob("end-*.ckpt")}
    assert of_epochs == {"end-epoch=0": 1, "end-epoch=1": 2, "end-epoch=2": 3}


def test_what_the_user_sets_wins_and_the_difference_is_said(blobs: Population, tmp_path: Path) -> None:
    path = checkpoint_of(LitNet(width=5, lr=0.1), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    report = audit(blobs, model=partial(LitNet, lr=0.2), target=path)
    assert any("`model.lr` is 0.2 as you set it, and 0.1 in" in remark for remark in report.warnings)
    with pytest.raises(InputError, match=r"`net.0.weight` is \[5, 6\] in the file and \[9, 6\] in the model"):
        audit(blobs, model=partial(LitNet, width=9), target=path)


@pytest.mark.parametrize("width", ["128", [128], "x", 12.5])
def test_a_value_of_the_file_that_the_module_refuses_names_the_file(
    blobs: Population, tmp_path: Path, width: object
) -> None:
    path = checkpoint_of(LitNet(width=5), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["width"] = width
    torch.save(content, path)
    words = rf"width(` is |=){re.escape(repr(width))}.*width came from the hyper-parameters of a.ckpt"
    with pytest.raises(InputError, match=words):
        audit(blobs, model=LitNet, target=path)
    with pytest.raises(InputError, match=r"`model.lr` is 'y'") as caught:
        audit(blobs, model=partial(LitNet, lr="y"), target=path)
    assert "a.ckpt" not in str(caught.value)


def test_a_checkpoint_of_more_epochs_than_there_are(blobs: Population, tmp_path: Path) -> None:
    path = checkpoint_of(LitNet(), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    content = torch.load(path, weights_only=True)
    del content["loops"]
    content["epoch"] = 10**9
    torch.save(content, path)
    with pytest.raises(InputError, match=r"`training.epochs` is not set, .* trained for 1000000001 epochs"):
        audit(blobs, model=LitNet, target=path)
    few = mia.Recipe(epochs=1, batch_size=20)
    audit(blobs, model=LitNet, target=path, training=few)
    guess = mia.Guess(training=mia.Recipe(batch_size=20))
    with pytest.raises(InputError, match=r"`training.epochs` is not set"):
        audit(blobs, model=LitNet, target=path, training=few, guess=guess)


class OfClasses(LitNet):
    def __init__(self, width: int = 8, num_classes: int = 3) -> None:
        super().__init__(width=width)
        self.save_hyperparameters()


def test_a_checkpoint_of_other_classes_is_refused(blobs: Population, tmp_path: Path) -> None:
    path = checkpoint_of(OfClasses(num_classes=4), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"`num_classes` is 4 in the hyper-parameters of a.ckpt, .* have 3 classes"):
        audit(blobs, model=OfClasses, target=path)
    path = checkpoint_of(OfClasses(width=5), blobs.x_N, blobs.label_N, tmp_path / "b.ckpt")
    audit(blobs, model=OfClasses, target=path)


def test_a_checkpoint_with_one_number_for_two_classes(blobs: Population, tmp_path: Path) -> None:
    two = replace(blobs, label_N=blobs.label_N % 2, class_names=("no", "yes"))
    module = Binary()
    path = checkpoint_of(module, two.x_N, two.label_N, tmp_path / "a.ckpt")
    report = audit(two, model=Binary, target=path)
    with torch.no_grad():
        logit_N = module(two.x_N).squeeze(1)
    loss_N = nn.functional.binary_cross_entropy_with_logits(logit_N, two.label_N.float(), reduction="none")
    assert report.scores is not None
    np.testing.assert_allclose(report.scores.score, -loss_N.numpy()[report.scores.record], atol=1e-5)


def test_a_checkpoint_of_another_architecture_is_refused(blobs: Population, tmp_path: Path) -> None:
    path = checkpoint_of(LitNet(width=5), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"does not fit the model Linear in its state dict `state_dict`"):
        audit(blobs, model=lambda: nn.Linear(6, 3), target=path)


def test_a_choice_of_the_average_is_said(blobs: Population, tmp_path: Path) -> None:
    module = WithAverage(width=5)
    path = checkpoint_of(module, blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    report = audit(blobs, model=lambda: layers(5), target=path)
    check_scores(report, module.model, blobs)
    assert any("`model.`" in remark and "target.prefix=ema.module." in remark for remark in report.warnings)
    report = audit(blobs, model=lambda: layers(5), target=Checkpoint(path=path, prefix="ema.module."))
    check_scores(report, module.ema, blobs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_compiled_networks_are_read(blobs: Population, tmp_path: Path) -> None:
    module = LitNet(width=5)
    module.net = torch.compile(module.net, backend="eager")  # type: ignore[assignment]
    path = checkpoint_of(module, blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    assert any("_orig_mod" in name for name in torch.load(path, weights_only=False)["state_dict"])
    check_scores(audit(blobs, model=LitNet, target=path), module, blobs)


def test_a_whole_module_in_a_file_is_refused(blobs: Population, tmp_path: Path) -> None:
    torch.save(layers(5), tmp_path / "a.pt")
    with pytest.raises(
        InputError, match=r"it holds a torch.nn.modules.container.Sequential, and to make one would run"
    ):
        audit(blobs, model=lambda: layers(5), target=tmp_path / "a.pt")


def test_the_hparams_of_a_logger_are_used_where_the_checkpoint_has_none(blobs: Population, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.log_hyperparams({"width": 5, "lr": 0.1, "tuple": (1, 2), "act": nn.ReLU})
    trainer = fitted(Bare(width=5), blobs.x_N, blobs.label_N, tmp_path, logger=logger, enable_checkpointing=True)
    logger.save()
    folder = Path(logger.log_dir)
    assert (folder / "hparams.yaml").is_file()
    report = audit(blobs, model=Bare, target=folder)
    assert any("width=5" in note and "version_0/hparams.yaml" in note for note in report.notes)
    assert any("is the only checkpoint" in note for note in report.notes)
    check_scores(report, trainer.lightning_module, blobs)


MY_PACKAGE = "my_package"


@pytest.mark.slow
def test_the_whole_way_by_command_and_from_python(
    call: Call, blobs: Population, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(lightning_habits.__file__, tmp_path / f"{MY_PACKAGE}.py")
    callbacks = [best(tmp_path / "run" / "checkpoints")]
    module = LitNet(width=5)
    fitted(module, blobs.x_N, blobs.label_N, tmp_path, epochs=4, callbacks=callbacks)
    (chosen,) = (tmp_path / "run" / "checkpoints").glob(Path(callbacks[0].best_model_path).name)
    np.savez(tmp_path / "data.npz", x=blobs.x_N.numpy(), label=blobs.label_N.numpy())
    (tmp_path / "rows.csv").write_text("row\n" + "".join(f"{row}\n" for row in MEMBERS))
    settings = ["dataset=npz", "dataset.path=data.npz", "membership=given", "membership.path=rows.csv", "attack=loss"]
    settings += ["shadow.count=2", "logger=none", "trainer.accelerator=cpu", "training.batch_size=20"]
    settings += ["model=custom", f"model._target_={MY_PACKAGE}.LitNet", "target=checkpoint"]
    by_folder = call(*settings, "target.path=run", "hydra.run.dir=folder", "save_models=true")
    assert by_folder.returncode == 0, by_folder.stderr
    by_file = call(*settings, f"target.path={chosen.relative_to(tmp_path)}", "hydra.run.dir=file")
    assert by_file.returncode == 0, by_file.stderr
    tables = [pq.read_table(tmp_path / name / "scores.parquet").to_pydict() for name in ("folder", "file")]
    assert tables[0] == tables[1]
    monkeypatch.syspath_prepend(tmp_path)
    import my_package

    config = mia.read_report(tmp_path / "folder").run.config
    assert config["model"]["width"] == 5
    assert config["training"]["epochs"] == Checkpoint(path=tmp_path / "run").trained_epochs
    served = served_model(tmp_path / "folder", role="shadow", member=0, trust=True)
    assert served.trained.stack.networks.net[0].out_features == 5
    population = mia.make_population(blobs.x_N, blobs.label_N)
    report = audit(population, model=my_package.LitNet, target=tmp_path / "run")
    assert report.scores is not None
    np.testing.assert_array_equal(np.asarray(tables[0]["score"]), report.scores.score)
    same = LitNet(width=5)
    same.load_state_dict(torch.load(chosen, weights_only=True)["state_dict"])
    check_scores(report, same, blobs)
    wrong = call(*settings, "target.path=run", "+model.width=9")
    assert wrong.returncode == 2
    assert "`net.0.weight` is [5, 6] in the file and [9, 6] in the model" in wrong.stderr
    odd = call(*settings, "target.path=run", "model.output=logit")
    assert odd.returncode == 2
    assert "`model.output` is 'logit' (did you mean `logits`?); it must be one of auto, logits" in odd.stderr
    wrong = call(*settings, "target.path=run", "model.output=probabilities")
    assert wrong.returncode == 2
    assert "`model.output` is 'probabilities', but the model LitNet gives -" in wrong.stderr
    module = Keeps(layers(5), MOMENTUM)
    checkpoint_of(module, blobs.x_N, blobs.label_N, tmp_path / "keeps.ckpt")
    parts = ["+model.net._target_=my_package.layers", "+model.net.width=5", "+model.optimizer._target_=torch.optim.SGD"]
    parts += [f"model._target_={MY_PACKAGE}.Keeps", "+model.optimizer._partial_=true", "target.path=keeps.ckpt"]
    by_parts = call(*settings, *parts, "hydra.run.dir=parts")
    assert by_parts.returncode == 0, by_parts.stderr
    scores = pq.read_table(tmp_path / "parts" / "scores.parquet").to_pydict()
    with torch.no_grad():
        loss_N = nn.functional.cross_entropy(module.eval()(blobs.x_N), blobs.label_N, reduction="none")
    np.testing.assert_allclose(scores["score"], -loss_N.numpy()[scores["record"]], atol=1e-5)
