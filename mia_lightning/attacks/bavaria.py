"""BaVarIA, of Brännvall, "Exponential-Family Membership Inference: From LiRA and RMIA to BaVarIA" (2026): the
likelihood ratio of LiRA with variances that a few shadow models suffice for.
"""

from typing import Literal

from mia_lightning.attacks.description import DescribedByTask
from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.lira import FittedLira, fitted_to
from mia_lightning.attacks.normal import Normal
from mia_lightning.attacks.references import check_references
from mia_lightning.attacks.views import image_views
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AttackName, ImageShape, Shift
from mia_lightning.tasks import Task
from mia_lightning.training.engine import Engine


@settings("attack.{name}")
class Bavaria(DescribedByTask):
    """Score: the log likelihood ratio of the target's φ, the scaled logit of a record, between the shadow models that
    trained on the record and those that did not; larger for members.

    Mean and variance of a record have a normal-inverse-gamma prior, which is estimated from all records
    (`VariancePrior`). Where the paper has priors of its own this attack may differ from it.

    Attributes:
        name: in reports.
        form: `t`, Student's t, the law of a new φ given those of the shadow models; `n`, the normal distribution of the
            same scale, which is `lira_online`. Offline both rank records alike where all have equally many
            out-models: that is `lira_offline`.
        shift, flip, image_shape: as of `Lira`; log-likelihoods of views are summed.

    Source: Brännvall (2026), BaVarIA-t and BaVarIA-n.
    """

    name: AttackName = "bavaria"
    form: Literal["t", "n"] = "t"
    shift: Shift = 0
    flip: bool = False
    image_shape: ImageShape | None = None

    @property
    def needs(self) -> Needs:
        views = image_views(self.shift, self.flip, self.image_shape)
        return Needs(out_models=2, in_models=2, compares_shadows=True, classes=bool(views), views=views)

    def described(self, task: Task) -> str:
        law = "Student's t" if self.form == "t" else "normal"
        return (
            f"Log likelihood ratio of the record's {task.wording.normal} between shadow models that trained on it and "
            f"that did not, both {law} with variances that are moderated by those of all records; one threshold, the "
            "best on the shadow models."
        )

    def fit(self, shadows: Evidence, engine: Engine) -> FittedLira:
        """Fit the in- and out-models of each record.

        Raises:
            DoesNotApplyError: a record with fewer than two in-models or two out-models, as under
                membership=disjoint; or too few shadow models for a threshold.
        """
        check_references(shadows, self.needs, self.name, offline="lira_offline")
        return fitted_to(shadows, Normal(variance="moderated", student=self.form == "t"), self, online=True)
