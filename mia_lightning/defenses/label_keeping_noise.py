"""Noise on answers that keeps the label: after MemGuard, Jia et al. (2019)."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from mia_lightning.defenses.top_k import is_among_largest
from mia_lightning.seeds import counter_hash, derive
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Between0And1
from mia_lightning.training.signals import AnswerForm

_STREAM = derive(0, "memguard")
_STEPS = 100  # of a nat, to which an answer is rounded before it is hashed
_MARGIN = 0.99  # of the predicted class's probability, the most that another may have


@settings("defense.label_keeping_noise")
class LabelKeepingNoise:
    """Moves every answer towards a random one of the same label and of the confidence that non-members have.

    The random answer gives the predicted class a probability drawn evenly from an interval about `confidence`, but
    never more than it had, and divides the rest among the other classes at random. The answer goes straight towards
    it, as far as `distortion` allows. The predicted class stays the only largest one (of tied ones that of lowest
    index), so no prediction changes. The draws are a hash of the answer itself, rounded to a hundredth of a nat: asked
    again, even through another batch, a record gets the same noise, and averaging gains nothing.

    How it differs from MemGuard: that searches, for each answer, the smallest noise under which a membership
    classifier of the defender's own says one half, and answers with it at a probability that keeps the expected
    distortion within a budget. Here no classifier is trained and nothing is searched; the noise comes from one
    distribution, and the budget bounds the distortion of every single answer.

    Attributes:
        confidence: mean probability of the predicted class in the random answers, above 0 and below 1; that of
            non-members, for which the target's accuracy on new records is a fair guess.
        distortion: the most that an answer may move, as the sum of absolute changes of its probabilities, from 0 to 2.

    Source: Jia, Salem, Backes, Zhang and Gong, "MemGuard: defending against black-box membership inference attacks
        via adversarial examples" (2019), sections 4 and 5.
    """

    name: ClassVar[str] = "label_keeping_noise"
    acts_on: ClassVar[tuple[str, ...]] = ("classes",)
    is_visible: ClassVar[bool] = False
    form: ClassVar[AnswerForm] = AnswerForm()

    confidence: Between0And1 = 0.6
    distortion: Annotated[float, Ge(0), Le(2)] = 1.0

    def describe(self) -> str:
        return f"noise {self.distortion:.12g} towards {self.confidence:.12g}"

    def apply(self, log_probability: Tensor) -> Tensor:
        C = log_probability.shape[-1]
        is_top = is_among_largest(log_probability, 1)
        probability = log_probability.double().exp()
        top = (probability * is_top).sum(-1, keepdim=True)
        change = self._random_answer(log_probability, top, is_top) - probability
        reach = self.distortion / change.abs().sum(-1, keepdim=True)
        moved = (probability + reach.clamp(max=1.0) * change).log()
        answer = moved.clamp(min=torch.finfo(torch.float32).min).float()
        # Rounded to float32, another class may tie with the predicted one.
        largest = (answer.masked_fill(~is_top, -torch.inf)).amax(-1, keepdim=True)
        below = torch.nextafter(largest, torch.full_like(largest, -torch.inf))
        answer = torch.where(is_top, answer, torch.minimum(answer, below))
        return torch.where((top <= _lowest(C)) | (reach == 0), log_probability.float(), answer)

    def _random_answer(self, log_probability: Tensor, top: Tensor, is_top: Tensor) -> Tensor:
        """A probability vector of the same label, from a hash of the answer; float64 `[..., C]`."""
        C = log_probability.shape[-1]
        uniform = _uniform(log_probability)
        spread = max(0.0, min(self.confidence - 1 / C, 1 - self.confidence))
        wanted = self.confidence + spread * (2 * uniform[..., C:] - 1)
        confidence = torch.minimum(wanted.clamp(min=_lowest(C)), top)
        weight = (-uniform[..., :C].log()).masked_fill(is_top, 0.0)
        rest = (1 - confidence) * weight / weight.sum(-1, keepdim=True)
        even = (1 - confidence) / max(1, C - 1)
        largest, limit = rest.amax(-1, keepdim=True), _MARGIN * confidence
        evened = ((largest - limit) / (largest - even)).nan_to_num().clamp(0.0, 1.0)
        return torch.where(is_top, confidence, torch.lerp(rest, even.expand_as(rest), evened.expand_as(rest)))


def _lowest(num_classes: int) -> float:
    """The lowest confidence that still leaves room for a label."""
    return 1.02 / num_classes


def _uniform(log_probability: Tensor) -> Tensor:
    """Uniform draws `[..., C + 1]` in (0, 1), float64, a function of the rounded answer."""
    C = log_probability.shape[-1]
    place = torch.arange(C + 1, device=log_probability.device)
    rounded = (log_probability.double().nan_to_num().clamp(-1e6, 1e6) * _STEPS).round().long()
    seed = counter_hash(rounded, _STREAM, place[:C]).sum(-1, keepdim=True)
    bits = (counter_hash(seed, _STREAM, place) >> 11) & (2**53 - 1)
    return (bits.double() + 0.5) / 2**53
