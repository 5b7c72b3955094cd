"""How strong attacks are with 4 to 128 shadow models, and by how much they differ.

    python benchmarks/few_shadows.py --data location [--folder FOLDER] [--models 132] [--counts 4 8 ...] [--json FILE]
    python benchmarks/few_shadows.py --data digits --quick   # to test the script; its figures mean little

132 models are trained on complementary halves of the records (a tenth is RMIA's population), and kept in a store
(`--store`). For K shadow models they are dealt into groups of K + 2, that is K / 2 + 1 pairs, as many as there are: in
each group every model is the target once, and its shadow models are the others without its complement. RMIA chooses `a`
on the other folds of the group; nothing else is learnt, since AUC and TPR take no threshold of an attack.

Values are means over targets. Differences are paired: of the same targets on the same records, with 95 % intervals for
new records and new trainings on them. Their variance is that of the crossed bootstrap over pairs of targets and over
records, in closed form (`metrics.intervals.crossed`), from the differences of the contributions of each record; the
contributions to a TPR at a FPR are those of members at the threshold, and of non-members through the slope of the ROC.
Where fewer than 10 false positives are allowed in each target, a TPR has no interval.

LiRA is the attack of Carlini et al. (2022): one variance for all records below 64 shadow models, one for each from
there on. BaVarIA-n is `lira_online` and `lira_offline` as they are by default, BASE is `ratio_online` and
`ratio_offline`. Offline attacks use out-models alone, half of the K.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student
from tables import render
from this_machine import machine
from torch import Tensor

import mia_lightning as mia
from mia_lightning.attacks.interface import Attack, Evidence, FittedReference
from mia_lightning.attacks.leave_one_out import score_each
from mia_lightning.datasets.adult import load_adult
from mia_lightning.datasets.cifar import load_cifar10
from mia_lightning.datasets.digits import load_digits
from mia_lightning.datasets.location import load_location
from mia_lightning.datasets.population import Population
from mia_lightning.metrics.intervals.crossed import auc_contributions
from mia_lightning.models.cnn import CNN
from mia_lightning.models.mlp import MLP
from mia_lightning.run.scoring import evidence_of
from mia_lightning.training.engine import Engine

SEED = 0
COUNTS = (4, 8, 16, 32, 64, 128)
RECORD_VARIANCE = 64  # shadow models from which LiRA has a variance of each record
MAX_FPR = 0.01
FEWEST_ALARMS = 10  # false positives that are allowed in each target, for an interval
FIGURES = ("AUC", f"TPR at {MAX_FPR:.0%} FPR")
ENGINE = Engine(seed=SEED)
Made = tuple[Population, Callable[..., Any], mia.Recipe]
Contributions = tuple[Tensor, Tensor]
"""A figure of each pair of targets, `[P]`, and how much it changes with the weight of each record, `[P, N]`."""


def lira(num_models: int, *, online: bool) -> Attack:
    return mia.Lira(online=online, variance="record" if num_models >= RECORD_VARIANCE else "fixed")


def attacks(num_models: int, *, online: bool) -> dict[str, Attack]:
    """By name; the first two are what the others are compared with."""
    found: dict[str, Attack] = {
        "LiRA": lira(num_models, online=online),
        "RMIA": mia.Rmia(online=online),
        "BaVarIA-n": mia.Lira(online=online),
        "BASE": mia.Ratio(online=online),
    }
    others: dict[str, Attack] = {"Attack R": mia.AttackR(), "calibrated loss": mia.CalibratedLoss()}
    return found | ({"BaVarIA-t": mia.Bavaria()} if online else others)


# --- models ----------------------------------------------------------------------------------------------


def some(population: Population, count: int) -> Population:
    chosen = torch.randperm(len(population), generator=torch.Generator().manual_seed(SEED))[:count]
    return population.chosen(torch.zeros(len(population), dtype=torch.bool).index_fill(0, chosen, True))


def recipe(epochs: int, **settings: Any) -> mia.Recipe:
    return mia.Recipe(epochs=epochs, optimizer=partial(torch.optim.Adam, lr=0.005), **settings)


def digits(folder: Path) -> Made:
    return some(load_digits(), 600), partial(MLP, hidden=(128,), activation="tanh"), recipe(100)


def location(folder: Path) -> Made:
    return load_location(root=folder / "location"), partial(MLP, hidden=(128,), activation="tanh"), recipe(30)


def adult(folder: Path) -> Made:
    people = some(load_adult(root=folder / "adult"), 3000)
    return people, partial(MLP, hidden=(128,), activation="tanh"), recipe(40)


def cifar10(folder: Path) -> Made:
    images = some(load_cifar10(root=folder / "cifar10"), 1000)
    network = partial(CNN, channels=(16, 16), hidden=64, kernel_size=3, activation="relu")
    return images, network, mia.Recipe(epochs=12, batch_size=50, optimizer=partial(torch.optim.Adam, lr=0.003))


SETS: Mapping[str, Callable[[Path], Made]] = {
    "digits": digits,
    "location": location,
    "adult": adult,
    "cifar10": cifar10,
}


def observed(made: Made, num_models: int, store: Path | None) -> Evidence:
    """All models as shadow models, trained on complementary halves, or found in the store."""
    population, network, training = made
    observation = mia.observe(
        population,
        model=network,
        membership=mia.Halves(),
        target=mia.LeaveOneOut(),
        shadow=mia.Real(count=num_models),
        attacks=[mia.Lira(), mia.Rmia()],
        training=training,
        store=None if store is None else mia.Store(dir=store),
        seed=SEED,
    )
    is_right_KN = observation.target_signals.log_probability_KANC[:, 0].argmax(-1) == population.label_N
    member_KN = observation.membership.member_KN
    other_KN = observation.membership.scored_KN & ~member_KN
    train, test = (float(is_right_KN[of_KN].double().mean()) for of_KN in (member_KN, other_KN))
    print(
        f"{population.name}: {int(member_KN[0].sum())} members and {int(other_KN[0].sum())} non-members, "
        f"train accuracy {train:.3f}, test accuracy {test:.3f}",
        flush=True,
    )
    return evidence_of(observation.membership, observation.population, observation.shadow_signals)


# --- attacks ---------------------------------------------------------------------------------------------


def groups(evidence: Evidence, num_shadows: int) -> Iterator[Evidence]:
    """Disjoint groups of `num_shadows` + 2 models, whole pairs."""
    width = num_shadows // 2 + 1
    blocks = evidence.block_K.unique()
    for start in range(0, len(blocks) - width + 1, width):
        yield evidence.select(torch.isin(evidence.block_K, blocks[start : start + width]))


def scored(attack: Attack, evidence: Evidence) -> Callable[[Evidence], Tensor]:
    """What gives the scores `[T, N]` of each model of a group as a target of the others.

    Only RMIA's constants are learnt, in each group anew. What is in closed form takes no more from a fit than its
    settings, so that one on the first few models will do.
    """
    if isinstance(attack, mia.Rmia):
        return lambda group: score_each(attack, group, group.signals, ENGINE, folds=8).score_TN
    fitted = attack.fit(next(groups(evidence, 8)), ENGINE)
    assert isinstance(fitted, FittedReference)
    return lambda group: fitted.score_left_out(group, torch.arange(group.num_models))


def tpr_contributions(score_TN: Tensor, member_TN: Tensor, scored_TN: Tensor) -> Contributions:
    """TPR at `MAX_FPR` of each target and the contributions of its records, `[T]` and `[T, N]`.

    The threshold is the largest score of a non-member that is not to be flagged, so that tied records move together.
    """
    outside_TN, inside_TN = scored_TN & ~member_TN, scored_TN & member_TN
    n1_T1, n0_T1 = (each_TN.sum(1, keepdim=True).double() for each_TN in (inside_TN, outside_TN))
    descending_TN = score_TN.masked_fill(~outside_TN, -torch.inf).sort(1, descending=True).values

    def rate(max_fpr: float) -> tuple[Tensor, Tensor, Tensor]:
        place_T1 = (max_fpr * n0_T1 + 1e-9).floor().long()
        hit_TN = score_TN > descending_TN.gather(1, place_T1)
        tpr_T1 = (hit_TN & inside_TN).sum(1, keepdim=True) / n1_T1
        return hit_TN, tpr_T1, (hit_TN & outside_TN).sum(1, keepdim=True) / n0_T1

    hit_TN, tpr_T1, fpr_T1 = rate(MAX_FPR)
    (_, high, high_fpr), (_, low, low_fpr) = rate(2 * MAX_FPR), rate(MAX_FPR / 2)
    slope = float((high - low).mean() / (high_fpr - low_fpr).mean().clamp(min=1e-9))
    contribution_TN = (hit_TN.double() - tpr_T1) / n1_T1 * inside_TN
    contribution_TN -= slope * (hit_TN.double() - fpr_T1) / n0_T1 * outside_TN
    return tpr_T1.squeeze(1), contribution_TN


def of_pairs(value_T: Tensor, contribution_TN: Tensor) -> Contributions:
    """Means over the two models of each pair, which stand beside each other."""
    return value_T.view(-1, 2).mean(1), contribution_TN.view(-1, 2, contribution_TN.shape[1]).mean(1)


def measured(attack: Attack, evidence: Evidence, num_shadows: int) -> list[Contributions]:
    """The figures of the attack against each pair of targets."""
    scores = scored(attack, evidence)
    dealt = list(groups(evidence, num_shadows))
    parts = [(scores(group), group.member_KN, group.scored_KN) for group in dealt]
    score_TN, member_TN, scored_TN = (torch.cat(each) for each in zip(*parts, strict=True))
    return [of_pairs(*of(score_TN, member_TN, scored_TN)) for of in (auc_contributions, tpr_contributions)]


# --- figures ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over targets and the limits of 95 %, None where there are none."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def alone(cls, value_P: Tensor, contribution_PN: Tensor) -> "Estimate":
        return cls(value=float(value_P.mean()))

    @classmethod
    def of(cls, value_P: Tensor, contribution_PN: Tensor) -> "Estimate":
        """For new records and new trainings, as `crossed_interval`, but of a figure of either sign."""
        P, N = contribution_PN.shape
        mean = float(value_P.mean())
        trainings = float((value_P - mean).square().sum()) / (P * (P - 1))
        answers = float(contribution_PN.sum(0).square().sum()) * (1 - 1 / P) / P**2
        answers += float(contribution_PN.square().sum()) / P**2
        variance = trainings + answers
        if variance == 0:
            return cls(value=mean, low=mean, high=mean)
        freedom = variance**2 / (trainings**2 / (P - 1) + answers**2 / (N - 1))
        reach = float(student.ppf(0.975, freedom)) * sqrt(variance)
        return cls(value=mean, low=mean - reach, high=mean + reach)

    def signed(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:+.3f}".replace("-", "−")
        mark = "" if self.low <= 0 <= self.high else " *"
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]{mark}".replace("-", "−")


def table(evidence: Evidence, counts: Sequence[int], *, online: bool) -> list[dict[str, Any]]:
    """One entry for each number of shadow models, attack and figure."""
    rows = []
    allowed = MAX_FPR * int((evidence.scored_KN & ~evidence.member_KN).sum(1).min())
    for num_shadows in counts:
        of = {
            name: measured(attack, evidence, num_shadows)
            for name, attack in attacks(num_shadows, online=online).items()
        }
        for place, figure in enumerate(FIGURES):
            estimate = Estimate.of if figure == "AUC" or allowed >= FEWEST_ALARMS else Estimate.alone
            for name, figures in of.items():
                row: dict[str, Any] = {"models": num_shadows, "online": online, "figure": figure, "attack": name}
                row["pairs"] = len(figures[place][0])
                row["value"] = vars(estimate(*figures[place]))
                for other in ("LiRA", "RMIA"):
                    if name != other:
                        (mine, my_part), (theirs, their_part) = figures[place], of[other][place]
                        row[f"less {other}"] = vars(estimate(mine - theirs, my_part - their_part))
                rows.append(row)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]], *, online: bool, figure: str) -> str:
    """Shadow models in the rows; values of attacks, then differences from LiRA and from RMIA."""
    chosen = [row for row in rows if row["online"] == online and row["figure"] == figure]
    names = list(dict.fromkeys(row["attack"] for row in chosen))
    cells = {(row["models"], row["attack"]): row for row in chosen}
    counts = sorted({row["models"] for row in chosen})
    header = ["shadow models", *names]
    body = [[str(count), *(f"{cells[count, name]['value']['value']:.3f}" for name in names)] for count in counts]
    parts = [render(header, body)]
    for other in ("LiRA", "RMIA"):
        rest = [name for name in names if name != other]
        body = [
            [str(count), *(Estimate(**cells[count, name][f"less {other}"]).signed() for name in rest)]
            for count in counts
        ]
        parts.append(render([f"less {other}", *rest], body))
    return "\n\n".join(parts)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", choices=list(SETS), required=True)
    parser.add_argument(
        "--folder", type=Path, default=Path(os.environ.get("MIA_DATA", "data")), help="of the data sets"
    )
    parser.add_argument("--models", type=int, default=132, help="that are trained")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="of shadow models")
    parser.add_argument("--store", type=Path, help="a folder that keeps the models")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--quick", action="store_true", help="12 models, 4 and 8 shadow models, few epochs")
    options = parser.parse_args(given)
    made = SETS[options.data](options.folder)
    num_models, counts = options.models, options.counts
    if options.quick:
        num_models, counts = 12, (4, 8)
        made = (some(made[0], 300), made[1], recipe(10))
    evidence = observed(made, num_models, options.store)
    rows = [row for online in (True, False) for row in table(evidence, counts, online=online)]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    for online in (True, False):
        for figure in FIGURES:
            print(f"\n{figure}, {'online' if online else 'offline'}\n\n{markdown(rows, online=online, figure=figure)}")
    print(f"\n{machine(torch.device('cpu'))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
