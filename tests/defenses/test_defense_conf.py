"""The files in `conf/defense` make the defences that they are named after, with the defaults of Python."""

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mia_lightning.command.mistakes import config_directory
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.dropout import Dropout
from mia_lightning.defenses.early_stopping import StopEarly
from mia_lightning.defenses.fewer_epochs import FewerEpochs
from mia_lightning.defenses.group_norm import GroupNorm
from mia_lightning.defenses.interface import OutputDefense, TrainingDefense
from mia_lightning.defenses.l2 import L2
from mia_lightning.defenses.label_keeping_noise import LabelKeepingNoise
from mia_lightning.defenses.label_smoothing import LabelSmoothing
from mia_lightning.defenses.labels_only import LabelsOnly
from mia_lightning.defenses.mixup import Mixup
from mia_lightning.defenses.random_crop import RandomCrop
from mia_lightning.defenses.relaxloss import RelaxLoss
from mia_lightning.defenses.rounding import Rounding
from mia_lightning.defenses.temperature import Temperature
from mia_lightning.defenses.top_k import TopK

FILES = sorted(Path(config_directory(), "defense").glob("*.yaml"))


DEFENSES = (
    *(Dropout, StopEarly, FewerEpochs, GroupNorm, L2, LabelKeepingNoise, LabelSmoothing, LabelsOnly),
    *(Mixup, RandomCrop, RelaxLoss, Rounding),
)


def test_there_is_a_file_for_each_defence() -> None:
    assert {path.stem for path in FILES} == {each.name for each in (*DEFENSES, DPSGD, Temperature, TopK)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_makes_the_defence_of_its_name(path: Path) -> None:
    assert path.read_text().startswith(f"# @package defense.{path.stem}\n# mia-lightning defense={path.stem}")
    defense = instantiate(OmegaConf.load(path))
    assert isinstance(defense, OutputDefense | TrainingDefense)
    assert defense.name == path.stem
    assert defense == type(defense)()
