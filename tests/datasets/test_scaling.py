"""One scale for one array, whether it comes from a file or from Python."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import mia_lightning as mia
from mia_lightning.datasets.npz import load_npz
from mia_lightning.datasets.population import make_population

LABEL = np.arange(8) % 2


def records(shape: tuple[int, ...], largest: int, dtype: str = "uint8") -> np.ndarray:
    x = np.random.default_rng(0).integers(0, largest + 1, (8, *shape)).astype(dtype)
    x.flat[0] = largest
    return x


@pytest.mark.parametrize(
    ("x", "scale", "words"),
    [
        (records((1, 4, 4), 1), 1.0, None),  # black and white
        (records((1, 4, 4), 1).astype(bool), 1.0, None),
        (np.eye(4, dtype="uint8")[records((5,), 3)], 1.0, None),  # one-hot
        (records((1, 4, 4), 16), 1.0, "uint8 with values up to 16"),
        (records((4, 4), 100), 1.0, "uint8 with values up to 100"),
        (records((1, 4, 4), 255), 1 / 255, None),
        (records((4, 4, 3), 238), 1 / 255, None),
        (records((16,), 255), 1.0, "uint8 with values above 127"),
        (records((16,), 1), 1.0, None),
        (records((1, 4, 4), 255, "int64"), 1.0, None),
        (records((1, 4, 4), 255, "float32"), 1.0, None),
        (np.zeros((8, 1, 4, 4), "uint8"), 1.0, None),
    ],
    ids=str,
)
def test_the_range_of_the_values_decides_for_files_and_python_alike(
    tmp_path: Path, x: np.ndarray, scale: float, words: str | None
) -> None:
    np.savez(tmp_path / "data.npz", x=x, label=LABEL)
    both = (load_npz(path=tmp_path / "data.npz"), make_population(torch.from_numpy(x), LABEL))
    for population in both:
        assert population.scale == scale
        expected = torch.from_numpy(x.astype("float64") * scale)
        torch.testing.assert_close(population.records(torch.arange(8), torch.float64), expected)
        assert [words in each for each in population.remarks] == ([True] if words else [])
    chosen = load_npz(path=tmp_path / "data.npz", scale=0.5)
    assert (chosen.scale, chosen.remarks) == (0.5, ())


def test_values_of_a_later_block_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mia_lightning.datasets.scaling._CHECKED_NUMBERS", 32)
    x = records((1, 4, 4), 1)
    x[-1, 0, 0, 0] = 255
    assert make_population(x, LABEL).scale == 1 / 255


def test_what_is_not_obvious_stands_in_the_report() -> None:
    x = records((2, 3), 16)
    report = mia.audit(
        np.concatenate([x] * 5),
        np.concatenate([LABEL] * 5),
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 2)),
        membership=mia.Disjoint(train_size=5),
        shadow=mia.Real(count=2),
        attacks=[mia.Loss()],
        trainer=mia.TrainerSettings(accelerator="cpu"),
    )
    assert any("uint8 with values up to 16" in each and "`dataset.scale`" in each for each in report.warnings)
