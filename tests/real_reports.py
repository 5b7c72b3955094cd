"""Small audits with everything that a page can show; each is run once, when it is first asked for."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from quick import quick_audit

import mia_lightning as mia
from mia_lightning.datasets.digits import load_digits
from mia_lightning.datasets.population import Population
from mia_lightning.seeds import generator
from mia_lightning.targets.leave_one_out import LeaveOneOut

BOTH = [mia.Shokri(), mia.Loss()]
EVIL = "<img src=x onerror=alert(1)>\"'&amp;"


def _digits(folder: Path) -> None:
    options = {"attacks": BOTH, "shadow": mia.Real(count=8), "membership": mia.Disjoint(train_size=200)}
    settings = {"config": {"dataset": {"name": "digits"}}, "store": mia.Store(dir=folder / "store")}
    mia.audit(load_digits(), **quick_audit(**options, **settings, output=folder))


def _pictures(folder: Path) -> None:
    """Records that are images, one class with a name that is markup."""
    digits = load_digits()
    x_N, names = digits.x_N.view(-1, 1, 8, 8), (*digits.class_names[:9], EVIL)
    data = dataclasses.replace(digits, x_N=x_N, class_names=names, mean=None, std=None, image_shape=None)
    options = {"attacks": BOTH, "shadow": mia.Real(count=2), "membership": mia.Disjoint(train_size=200)}
    mia.audit(data, **quick_audit(**options, output=folder))


def _several_targets(folder: Path) -> None:
    plan = {"membership": mia.Halves(), "target": LeaveOneOut(folds=2), "shadow": mia.Real(count=8)}
    mia.audit(load_digits(), **quick_audit(attacks=BOTH, **plan, output=folder))


def _defended(folder: Path) -> None:
    options = {"attacks": BOTH, "shadow": mia.Real(count=4), "defenses": [mia.Temperature(temperature=5.0)]}
    mia.audit(load_digits(), **quick_audit(membership=mia.Disjoint(train_size=200), **options, output=folder))


def _hundred_classes(folder: Path) -> None:
    """Two of them with names that are markup; so are those of the data and of the configuration."""
    draw = generator(0, "hundred_classes")
    label_N = torch.arange(2400) % 100
    x_N = torch.randn(100, 16, generator=draw)[label_N] + 0.7 * torch.randn(2400, 16, generator=draw)
    names = tuple(f"a class with a rather long name, number {c}" for c in range(98))
    data = Population(name=EVIL, x_N=x_N, label_N=label_N, class_names=(EVIL, *names, "</script><b>bold</b>"))
    plan = {"membership": mia.Disjoint(train_size=600), "shadow": mia.Real(count=2)}
    mia.audit(data, **quick_audit(**plan, output=folder, config={"logger": {"name": EVIL}}))


AUDITS: dict[str, Callable[[Path], None]] = {
    "digits": _digits,
    "pictures": _pictures,
    "several_targets": _several_targets,
    "defended": _defended,
    "hundred_classes": _hundred_classes,
}
