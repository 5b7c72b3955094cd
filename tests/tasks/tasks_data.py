"""Small records of each task, and networks that learn them by heart."""

from functools import partial

import numpy as np
import torch

import mia_lightning as mia
from mia_lightning.models.mlp import MLP

N, FEATURES = 320, 6
TASKS = ("binary", "multilabel", "regression", "regression of two", "laplace")


def records(task: str, *, seed: int = 0) -> mia.Population:
    """Records whose answers depend on them a little, so that a network must learn the rest by heart."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(N, FEATURES)).astype(np.float32)
    signal = x @ random.normal(size=(FEATURES, 3)) / FEATURES**0.5 + 1.5 * random.normal(size=(N, 3))
    if task == "binary":
        return mia.make_population(x, (signal[:, 0] > 0).astype(int), task=mia.Binary())
    if task == "multilabel":
        names = ["red", "green", "blue"]
        return mia.make_population(x, (signal > 0.3).astype(int), task=mia.Multilabel(), class_names=names)
    values = 40 + 7 * signal
    if task == "regression of two":
        names = ["height", "weight"]
        return mia.make_population(x, values[:, :2] * [1, 1000], task=mia.Regression(), class_names=names)
    likelihood = "laplace" if task == "laplace" else "gaussian"
    return mia.make_population(x, values[:, 0], task=mia.Regression(likelihood=likelihood))  # type: ignore[arg-type]


def one_output(input_shape: tuple[int, ...], num_outputs: int) -> torch.nn.Module:
    """A network with one number for each output; of two classes one logit, and of one number no axis for it."""
    wide = torch.nn.Sequential(torch.nn.Linear(*input_shape, 64), torch.nn.ReLU())
    return torch.nn.Sequential(wide, torch.nn.Linear(64, 1), torch.nn.Flatten(0)) if num_outputs < 3 else wide


def memorising(**options: object) -> dict[str, object]:
    """Arguments of an audit whose networks learn their records by heart."""
    return {
        "model": partial(MLP, hidden=[64]),
        "membership": mia.Halves(),
        "shadow": mia.Real(count=8),
        "training": mia.Recipe(epochs=60, batch_size=40, optimizer=partial(torch.optim.Adam, lr=0.02)),
        "trainer": mia.TrainerSettings(accelerator="cpu"),
        "skip_inapplicable": True,
        **options,
    }
