"""The output defences that hide as much as the answers of a served model do."""

from mia_lightning.defenses.interface import OutputDefense
from mia_lightning.defenses.labels_only import LabelsOnly
from mia_lightning.defenses.rounding import Rounding
from mia_lightning.defenses.top_k import TopK
from mia_lightning.training.signals import AnswerForm


def defenses_of(form: AnswerForm) -> tuple[OutputDefense, ...]:
    """Those to apply to the shadow models' answers, so that these look like the target's; none for whole answers.

    Applied to the target's own answers, too, they change nothing: what is hidden twice is hidden once.
    """
    if form.kind == "labels":
        return (LabelsOnly(),)
    shown: list[OutputDefense] = [] if form.k is None else [TopK(k=form.k)]
    return (*shown, *(() if form.digits is None else (Rounding(digits=form.digits),)))
