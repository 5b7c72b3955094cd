"""Settings of a checkpoint that are code: they come from `model` or from equal defaults, never from the file."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from audited_checkpoints import audit, check_scores, keeps
from lightning_habits import MOMENTUM, Bare, Ignores, Keeps, OfAny, OfConfig, Steps, WithClass, checkpoint_of, layers
from torch import nn

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.targets.checkpoint import Checkpoint
from mia_lightning.training.own.making import WithParts

pytestmark = [
    pytest.mark.usefixtures("global_generators"),  # of networks that the tests make
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning", "ignore:.*hparams.*"),
]


def test_what_needs_code_must_come_from_model(blobs: Population, tmp_path: Path) -> None:
    path = checkpoint_of(Keeps(layers(5), MOMENTUM), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"Keeps takes `net`, which is a torch.nn.modules.container.Sequential in the"):
        audit(blobs, model=Keeps, target=path)
    with pytest.raises(InputError, match=r"keeps takes `optimizer`, which is a functools.partial in the"):
        audit(blobs, model=keeps, target=path)
    audit(blobs, model=partial(keeps, optimizer=MOMENTUM), target=path)
    path = checkpoint_of(Ignores(layers(5)), blobs.x_N, blobs.label_N, tmp_path / "b.ckpt")
    with pytest.raises(InputError, match=r"`model.net` is not set, and Ignores needs it"):
        audit(blobs, model=Ignores, target=path)
    path = checkpoint_of(WithClass(nn.Tanh, width=5), blobs.x_N, blobs.label_N, tmp_path / "c.ckpt")
    with pytest.raises(InputError, match=r"WithClass takes `act`, which is a torch.nn.modules.activation.Tanh in the"):
        audit(blobs, model=WithClass, target=path)
    report = audit(blobs, model=partial(WithClass, act=nn.Tanh), target=path)
    assert not any("act" in remark for remark in report.warnings)
    report = audit(blobs, model=partial(WithClass, act=nn.ReLU), target=path)
    words = "`model.act` is the class ReLU as you set it, and torch.nn.modules.activation.Tanh in the"
    assert any(words in each for each in report.warnings)


class HandsOn(WithClass):
    """A subclass that takes what its base takes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Decays(Steps):
    """An optimiser with its settings is a default."""

    def __init__(
        self, optimizer: Any = MOMENTUM, betas: Any = ((0.9, 0.99), {"act": [nn.Tanh]}), width: int = 8
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = layers(width)


@pytest.mark.parametrize("kind", [WithClass, HandsOn, Decays])
def test_a_class_that_is_the_default_needs_no_code(blobs: Population, tmp_path: Path, kind: Any) -> None:
    path = checkpoint_of(kind(width=5), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    made, remarks = Checkpoint(path=path).completed(kind, blobs)
    assert made().net[0].out_features == 5
    assert {kind for kind, _ in remarks} == {"note"}


OTHER_THAN_THE_DEFAULT: dict[str, tuple[Any, dict[str, Any], str]] = {
    "class": (HandsOn, {"act": nn.Tanh}, "act"),
    "settings": (Decays, {"optimizer": partial(torch.optim.SGD, momentum=0.5)}, "optimizer"),
    "function": (Decays, {"optimizer": partial(torch.optim.Adam, momentum=0.9)}, "optimizer"),
    "positional": (Decays, {"optimizer": partial(torch.optim.SGD, 1, momentum=0.9)}, "optimizer"),
    "longer": (Decays, {"betas": ((0.9, 0.99), {"act": [nn.Tanh, nn.Tanh]})}, "betas"),
    "object": (WithClass, {"act": nn.Tanh()}, "act"),
    "none": (OfAny, {"act": nn.Tanh}, "act"),
}


@pytest.mark.parametrize("case", OTHER_THAN_THE_DEFAULT)
def test_what_is_not_known_to_be_the_default_is_refused(blobs: Population, tmp_path: Path, case: str) -> None:
    kind, changed, name = OTHER_THAN_THE_DEFAULT[case]
    path = checkpoint_of(WithClass(width=5), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    content = torch.load(path, weights_only=False)
    content["hyper_parameters"] = {"width": 5, **changed}
    torch.save(content, path)
    with pytest.raises(InputError, match=rf"{kind.__name__} takes `{name}`"):
        Checkpoint(path=path).completed(kind, blobs)


def test_the_refusal_says_how_to_type_it(blobs: Population, tmp_path: Path) -> None:
    path = checkpoint_of(Keeps(layers(5), MOMENTUM), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")

    def sentence(model: Any) -> str:
        with pytest.raises(InputError) as caught:
            Checkpoint(path=path).completed(model, blobs)
        return str(caught.value)

    assert "+model.net._target_=torch.nn.modules.container.Sequential and its settings on" in sentence(Keeps)
    typed = "+model.optimizer._target_=torch.optim.sgd.SGD +model.optimizer._partial_=true and its settings on"
    assert typed in sentence(partial(Keeps, net=None))
    content = torch.load(path, weights_only=False)
    content["hyper_parameters"] = {"act": nn.Tanh}
    torch.save(content, path)
    typed = "+model.act._target_=hydra.utils.get_object +model.act.path=torch.nn.modules.activation.Tanh"
    assert f"{typed} on the command line, functools.partial(WithClass, act=...) in" in sentence(WithClass)
    with pytest.raises(InputError, match=r"`model.act` is the text 'torch.nn.Tanh', and WithClass calls it") as caught:
        audit(blobs, model=partial(WithClass, act="torch.nn.Tanh", width=5), target=path)
    assert "type +model.act._target_=hydra.utils.get_object +model.act.path=torch.nn.Tanh." in str(caught.value)


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        ("!!python/name:torch.nn.ReLU;rm ''", "_target_=hydra.utils.get_object +model.width.path=... on"),
        ("!!python/name:os.system ''", "_target_=hydra.utils.get_object +model.width.path=... on"),
        ("!!python/object/apply:os.system []", "_target_=... and its settings on"),
        ("!!python/object/apply:functools.partial []", "_target_=... +model.width._partial_=true and its settings on"),
        ("[!!python/name:os.system '']", "model.width=... on"),
        (
            "!!python/name:lightning_habits.layers ''",
            "_target_=hydra.utils.get_object +model.width.path=lightning_habits.layers on",
        ),
    ],
)
def test_a_file_does_not_say_what_code_to_run(blobs: Population, tmp_path: Path, value: str, typed: str) -> None:
    path = checkpoint_of(Bare(), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    (tmp_path / "hparams.yaml").write_text(f"width: {value}\n")
    with pytest.raises(InputError) as caught:
        Checkpoint(path=path).completed(Bare, blobs)
    assert typed in str(caught.value)


def test_parts_of_a_configuration_are_set(blobs: Population, tmp_path: Path) -> None:
    path = checkpoint_of(Keeps(layers(5), MOMENTUM), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    parts = {"net": partial(layers, 5)}
    made, remarks = Checkpoint(path=path).completed(WithParts(partial(Keeps, optimizer=MOMENTUM), parts), blobs)
    assert made().net[0].out_features == 5
    assert {kind for kind, _ in remarks} == {"note"}
    with pytest.raises(InputError, match=r"Keeps takes `optimizer`.* functools.partial\(Keeps, optimizer=\.\.\.\)"):
        Checkpoint(path=path).completed(WithParts(partial(Keeps), parts), blobs)


def test_one_setting_of_many_that_needs_code(blobs: Population, tmp_path: Path) -> None:
    path = checkpoint_of(OfConfig({"width": 5, "act": nn.ReLU}), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"OfConfig takes `cfg`, which is a mapping with a torch.nn.*ReLU"):
        audit(blobs, model=OfConfig, target=path)
    module = OfConfig({"width": 5, "act": nn.ReLU})
    path = checkpoint_of(module, blobs.x_N, blobs.label_N, tmp_path / "b.ckpt")
    report = audit(blobs, model=partial(OfConfig, cfg={"width": 5}), target=path)
    check_scores(report, module, blobs)
    assert any("`model.cfg` is as you set it" in note for note in report.notes)


def test_an_object_that_lightning_cli_made_needs_code(blobs: Population, tmp_path: Path) -> None:
    path = checkpoint_of(Ignores(layers(5)), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    content = torch.load(path, weights_only=True)
    made = {"class_path": "my_project.Net", "init_args": {"width": 5}}
    content["hyper_parameters"] = {"net": made, "lr": 0.1, "_class_path": "my_project.Lit", "_instantiator": "a.b"}
    torch.save(content, path)
    with pytest.raises(InputError, match=r"Ignores takes `net`, which is a my_project.Net in the hyper-parameters"):
        audit(blobs, model=Ignores, target=path)
    made_with, _ = Checkpoint(path=path).completed(partial(OfAny, net=None), blobs)
    assert isinstance(made_with, partial)
    assert made_with.keywords == {"net": None, "lr": 0.1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("width: 5\nnet: !!python/object/apply:os.system ['touch touched']\n", None),
        ("width: !!python/object/apply:os.system ['touch touched']\n", "takes `width`, which is a os.system in"),
        ("a: [", "is no YAML"),
        ("x" * 2**21, "is larger than"),
        (
            "a: &a [x,x]\n"
            + "".join(f"b{n}: &b{n} [*{p},*{p}]\n" for n, p in enumerate(["a", *(f"b{m}" for m in range(40))])),
            None,
        ),
        ("- 1\n", None),
    ],
    ids=["code", "code for a setting", "broken", "large", "doubled", "list"],
)
def test_a_hostile_hparams_yaml(
    blobs: Population, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    path = checkpoint_of(Bare(), blobs.x_N, blobs.label_N, tmp_path / "a.ckpt")
    (tmp_path / "hparams.yaml").write_text(text)
    target = Checkpoint(path=path)
    if words is not None:
        with pytest.raises(InputError, match=words):
            target.completed(Bare, blobs)
    else:
        target.completed(Bare, blobs)
    assert not (tmp_path / "touched").exists()
