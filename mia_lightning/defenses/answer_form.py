"""What a served model leaves out of its answers, as the output defences that leave out as much."""

from mia_lightning.defenses.interface import OutputDefense
from mia_lightning.defenses.labels_only import LabelsOnly
from mia_lightning.defenses.rounding import Rounding
from mia_lightning.defenses.top_k import TopK
from mia_lightning.training.signals import AnswerForm


def defenses_of(form: AnswerForm) -> tuple[OutputDefense, ...]:
    """Those that shadow models answer through, so that theirs look as the target's do; none for whole answers.

    The target's own answers stay as they are behind them: what is hidden twice is hidden once.
    """
    if form.kind == "labels":
        return (LabelsOnly(),)
    shown: list[OutputDefense] = [] if form.k is None else [TopK(k=form.k)]
    return (*shown, *(() if form.digits is None else (Rounding(digits=form.digits),)))
