"""Canaries: records that a model can only memorise, placed among natural records to measure leakage at its worst."""

from dataclasses import replace

import torch
from torch import Tensor

from mia_lightning.datasets.form import Form
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.seeds import generator
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1, CanaryKind

NATURAL, CANARY = "natural", "canary"


@settings("canary")
class Canaries:
    """Canaries replace records drawn at random. They form the group "canary", the other records the group "natural".

    They are drawn before membership, so that plans treat them like other records; under `membership=bernoulli` they are
    the records with a coin. A model can predict canaries by memorisation alone, so their leakage exceeds that of
    natural records and is no estimate of it.

    Attributes:
        count: of the records that are replaced.
        kind: "mislabelled" (a record keeps its features and gets the label of another class, all others equally likely)
            or "uniform" (a record keeps its label, and each feature becomes uniform over its range in the population,
            a whole number where the feature is one: out of distribution; gaps and padding stay, and a text gets any
            tokens).

    Source: Carlini et al., "The secret sharer" (2019), canaries and their exposure; mislabelled canaries as in Steinke,
    Nasr and Jagielski, "Privacy auditing with one (1) training run" (2023).
    """

    count: AtLeast1
    kind: CanaryKind = "mislabelled"

    @property
    def changes_records(self) -> bool:
        """Whether a canary has other features than the record that it replaces."""
        return self.kind == "uniform"

    def apply(self, population: Population, seed: int) -> Population:
        """The population with canaries, a function of (records, seed); both kinds replace the same records.

        Raises:
            InputError: no natural record would be left, or the records have groups already.
        """
        N = len(population)
        if self.count >= N:
            raise InputError(
                f"`canary.count` is {self.count}, which leaves no natural record of the {N} of {population.name}; "
                "lower it."
            )
        if population.group_N is not None:
            raise InputError(
                f"`canary.count` is {self.count}, but the records of {population.name} have groups of their own "
                f"({', '.join(population.group_names[:5])}), and canaries form one, too; set it to 0, or leave the "
                "groups out."
            )
        if self.kind == "mislabelled" and not population.task.has_classes:
            raise InputError(
                f"`canary.kind` is mislabelled, which is the label of another class, and under task="
                f"{population.task.name} there are none; set canary.kind=uniform."
            )
        index = torch.randperm(N, generator=generator(seed, "canaries"))[: self.count].sort().values
        draws = generator(seed, "canaries", self.kind)
        index = index.to(population.device)
        label_N, x_N = population.label_N, population.x_N
        if self.kind == "mislabelled":
            label_N = label_N.index_put((index,), _other_label(label_N[index], population.num_classes, draws))
        else:
            x_N = x_N.index_put((index,), _uniform(population, index, draws))
        group_N = torch.zeros(N, dtype=torch.int64, device=population.device).index_fill(0, index, 1)
        return replace(population, x_N=x_N, label_N=label_N, group_N=group_N, group_names=(NATURAL, CANARY))


def canary_mask(population: Population) -> Tensor | None:
    """Bool `[N]`, on the CPU: the records of the group "canary"; None where there is no such group."""
    if population.group_N is None or CANARY not in population.group_names:
        return None
    return (population.group_N == population.group_names.index(CANARY)).cpu()


def _other_label(label_M: Tensor, num_classes: int, draws: torch.Generator) -> Tensor:
    """A label drawn uniformly from the other classes: a step around the circle of classes, less than a whole turn."""
    step_M = torch.randint(1, num_classes, label_M.shape, generator=draws)
    return (label_M + step_M.to(label_M.device)) % num_classes


def _uniform(population: Population, index_M: Tensor, draws: torch.Generator) -> Tensor:
    """These records with features that are uniform over their ranges, whole where all values of a feature are.

    The draws are float64, so that whole numbers are uniform up to 2**53.
    """
    flat, count = population.entries_NF, len(index_M)
    low_F, high_F = _range(flat)
    is_whole_F = torch.ones_like(low_F, dtype=torch.bool)
    if flat.is_floating_point():
        is_whole_F = ((flat == flat.floor()) | flat.isnan()).all(0)
    width_F = high_F.double() - low_F.double()
    random_MF = torch.rand(count, flat.shape[1], generator=draws, dtype=torch.float64).to(flat.device)
    real_MF = low_F.double() + random_MF * width_F
    whole_MF = low_F.double() + (random_MF * (width_F + 1)).floor()
    drawn_MF = torch.where(is_whole_F, whole_MF, real_MF).to(flat.dtype)
    # Rounding to the records' type may step over an edge.
    drawn_MF = drawn_MF.clamp(low_F, high_F)
    if population.form is not None:
        drawn_MF = _kept(drawn_MF, flat[index_M], population.form)
    return population.stored(drawn_MF)


def _range(flat: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and largest value of each feature, gaps aside."""
    if not flat.is_floating_point():
        return flat.amin(0), flat.amax(0)
    low_F, high_F = flat.nan_to_num(torch.inf).amin(0), flat.nan_to_num(-torch.inf).amax(0)
    return low_F.nan_to_num(posinf=0.0), high_F.nan_to_num(neginf=0.0)


def _kept(drawn_MF: Tensor, own_MF: Tensor, form: Form) -> Tensor:
    """The draws, with the gaps and the padding of the records themselves; no token in them is padding."""
    drawn_MF = torch.where(own_MF.isnan(), own_MF, drawn_MF)
    for field, place in form.places():
        if field.padding is not None:
            own_ML, drawn_ML = own_MF[:, place], drawn_MF[:, place]
            drawn_ML = torch.where(drawn_ML == field.padding, (drawn_ML + 1) % field.sizes[0], drawn_ML)
            drawn_MF[:, place] = torch.where(field.is_real(own_ML), drawn_ML, own_ML)
    return drawn_MF
