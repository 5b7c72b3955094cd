"""The remedies that are tried, each with its strengths, the weakest first."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.dropout import Dropout
from mia_lightning.defenses.early_stopping import StopEarly
from mia_lightning.defenses.fewer_epochs import FewerEpochs
from mia_lightning.defenses.interface import Defense, split_defenses
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
from mia_lightning.errors import InputError, nearest
from mia_lightning.settings.checking import shown

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One remedy.

    Attributes:
        strengths: of one defence, the weakest first.
    """

    strengths: tuple[Defense, ...]

    @property
    def name(self) -> str:
        """As in `conf/defense`."""
        return self.strengths[0].name

    @property
    def trains(self) -> bool:
        """Whether it changes the training; others change the answers alone, and train nothing."""
        return bool(split_defenses(self.strengths)[1])

    @property
    def holds_out(self) -> bool:
        """Whether it needs records that are held out from training."""
        return any(getattr(each, "holds_out", False) for each in self.strengths)


def _remedy(*strengths: Defense) -> Remedy:
    return Remedy(strengths=strengths)


CATALOGUE = (
    _remedy(*(StopEarly(max_gap=gap) for gap in (0.3, 0.1, 0.03))),
    _remedy(*(FewerEpochs(share=share) for share in (0.5, 0.2, 0.05))),
    _remedy(*(L2(strength=strength) for strength in (1e-4, 1e-3, 5e-3))),
    _remedy(*(Dropout(rate=rate) for rate in (0.2, 0.5, 0.8))),
    _remedy(*(LabelSmoothing(smoothing=smoothing) for smoothing in (0.05, 0.2, 0.5))),
    _remedy(*(Mixup(alpha=alpha) for alpha in (0.2, 1.0, 4.0))),
    _remedy(*(RelaxLoss(alpha=alpha) for alpha in (0.2, 0.5, 1.0))),
    _remedy(*(RandomCrop(padding=padding) for padding in (1, 2, 3))),
    _remedy(*(DPSGD(noise_multiplier=None, epsilon=epsilon) for epsilon in (8.0, 3.0, 1.0))),
    _remedy(*(Temperature(temperature=temperature) for temperature in (2.0, 5.0, 20.0))),
    _remedy(*(Rounding(digits=digits) for digits in (3, 2, 1))),
    _remedy(*(TopK(k=k) for k in (3, 2, 1))),
    _remedy(*(LabelKeepingNoise(distortion=distortion) for distortion in (0.25, 0.5, 1.0))),
    _remedy(LabelsOnly()),
)
NAMES = tuple(each.name for each in CATALOGUE)


def chosen(names: object) -> tuple[Remedy, ...]:
    """The remedies of these names, in the order of the catalogue; of `all` every one.

    Raises:
        InputError: something else, an unknown name, or none.
    """
    if names == ALL:
        return CATALOGUE
    if not isinstance(names, Sequence) or isinstance(names, str) or not names:
        raise InputError(f"`remedies` is {shown(names)}; it must be all, or some of {', '.join(NAMES)}.")
    for name in names:
        if name not in NAMES:
            near = nearest(name, NAMES) if isinstance(name, str) else ""
            raise InputError(f"`remedies` has {shown(name)}{near}; it must be some of {', '.join(NAMES)}.")
    return tuple(each for each in CATALOGUE if each.name in names)


def settings_of(defense: Defense) -> list[str]:
    """What is typed for a defence: `defense=l2 defense.l2.strength=0.005`, without what is so by default."""
    typed = [f"defense={defense.name}"]
    for field in fields(defense):  # type: ignore[arg-type]
        value = getattr(defense, field.name)
        if value != field.default:
            typed.append(f"defense.{defense.name}.{field.name}={'null' if value is None else f'{value:g}'}")
    return typed
