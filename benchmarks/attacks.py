"""Seconds of each attack, once models are trained and observed.

    python benchmarks/attacks.py [--attacks NAME ...] [--models 256] [--records 60000] [--classes 10] [--rounds 3]
                                 [--asked 16] [--json] [--quick]

Two times for each attack, on random log probabilities (no time depends on what they are):

- `fit and score`: learn from K shadow models, threshold included, and score one target on N records;
- `each a target`: score every shadow model, as the run does that attacks each of them: attacks that compare record by
  record with all others but its complement, others by what they learnt on the other folds of eight. Attacks that train
  networks are left out here: their time is that of so many networks, which `shadow_training.py` measures.

Label-only attacks are given random answers for their views: these times are those of an attack that has them. What
they cost is asking: a second table has the seconds of asking `--asked` networks (64-128-128-10, on images of 8 x 8)
about the views of 1,000 records, which grow in proportion to networks and to records.

The models are complementary pairs over nine tenths of the records; the others are the population that RMIA takes.
After a warm-up on few records the attacks take turns, round after round, and the medians are printed. `peak` is the
most memory that the process has held up to the end of the attack's first round, the log probabilities included.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch
from tables import render
from this_machine import machine
from torch import Tensor

from mia_lightning.attacks.attack_p import AttackP
from mia_lightning.attacks.attack_r import AttackR
from mia_lightning.attacks.calibrated_loss import CalibratedLoss
from mia_lightning.attacks.gap import Gap
from mia_lightning.attacks.interface import Attack, Evidence, FittedAttack, FittedReference
from mia_lightning.attacks.label_only import AugmentationLabelOnly, BoundaryLabelOnly
from mia_lightning.attacks.leave_one_out import score_each
from mia_lightning.attacks.lira import Lira
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.quantile_regression import QuantileRegression
from mia_lightning.attacks.rmia import Rmia
from mia_lightning.attacks.shokri import Shokri
from mia_lightning.attacks.thresholds import (
    ClassConfidence,
    ClassEntropy,
    ClassModifiedEntropy,
    Confidence,
    Entropy,
    ModifiedEntropy,
)
from mia_lightning.attacks.views import observe_views
from mia_lightning.datasets.population import Population
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import generator
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.signals import Signals, ViewSignals
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

Result = TypeVar("Result")

SEED = 0
ENGINE = Engine(seed=SEED, settings=TrainerSettings(accelerator="cpu", progress_bar=False))
HEADER = ("attack", "fit and score, s", "min to max", "each a target, s", "min to max", "peak, GiB")
ASKED_HEADER = ("attack", "views", "asking about 1,000 records, s", "min to max", "us for a model's answer")
IMAGE = (8, 8)


def attacks() -> dict[str, Attack]:
    """By the command that chooses them."""
    plain: list[Attack] = [Gap(), Loss(), Confidence(), Entropy(), ModifiedEntropy()]
    plain += [ClassConfidence(), ClassEntropy(), ClassModifiedEntropy(), AttackP(), QuantileRegression(), Shokri()]
    found = {attack.name: attack for attack in (*plain, CalibratedLoss(), AttackR())}
    for online in (False, True):
        for variance in ("fixed", "record"):
            attack = Lira(online=online, variance=variance)
            found[f"{attack.name} variance={variance}"] = attack
    found["lira_online published=true"] = Lira(published=True)
    for online in (False, True):
        rmia = Rmia(online=online)
        found[f"{rmia.name} a=0.5"] = replace(rmia, a=0.5)
        found[f"{rmia.name} a=auto"] = rmia
        found[f"{rmia.name} a=auto gamma=auto temperature=auto"] = replace(rmia, gamma="auto", temperature="auto")
        found[f"{rmia.name} a=0.5 trim=0.2"] = replace(rmia, a=0.5, trim=0.2)
    labels_only: list[Attack] = [AugmentationLabelOnly(image_shape=IMAGE), BoundaryLabelOnly()]
    return found | {attack.name: attack for attack in labels_only}  # last: their answers take memory of their own


def make_evidence(num_models: int, num_records: int, num_classes: int) -> tuple[Evidence, Signals]:
    """Shadow models and a target."""
    numbers = generator(SEED, "benchmark", "log probabilities")
    log_probability_KANC = torch.empty(num_models + 1, 1, num_records, num_classes)
    for model_ANC in log_probability_KANC:  # one at a time: memory beside the result would be counted as the attacks'
        model_ANC.copy_(torch.randn(1, num_records, num_classes, generator=numbers).log_softmax(-1))
    population_N = torch.arange(num_records) >= num_records - num_records // 10
    label_N = torch.randint(num_classes, (num_records,), generator=numbers)
    population = Population(
        name="random",
        x_N=torch.zeros(num_records, 1),
        label_N=label_N,
        class_names=tuple(str(c) for c in range(num_classes)),
    )
    evidence = Evidence(
        signals=Signals(log_probability_KANC=log_probability_KANC[:-1]),
        member_KN=make_pairs(num_models, ~population_N),
        scored_KN=(~population_N).expand(num_models, -1),
        block_K=torch.arange(num_models) // 2,
        label_N=label_N,
        num_classes=num_classes,
        target_scored_N=~population_N,
        population_N=population_N,
        population=population,
        plan_name="halves",
    )
    return evidence, Signals(log_probability_KANC=log_probability_KANC[-1:])


def with_views(signals: Signals, attack: Attack) -> Signals:
    """The same with random answers for the views of the attack."""
    K, _, N, _ = signals.log_probability_KANC.shape
    numbers = generator(SEED, "benchmark", "views", attack.name)
    is_correct_KAN = torch.empty(K, len(attack.needs.views), N, dtype=torch.bool)
    for is_correct_AN in is_correct_KAN:
        is_correct_AN.copy_(torch.rand(is_correct_AN.shape, generator=numbers) < 0.8)
    return replace(
        signals,
        views=ViewSignals(
            names=tuple(view.name for view in attack.needs.views),
            scaled_logit_KAN=torch.zeros(1, 1, 1).expand(is_correct_KAN.shape),  # not to be looked at
            is_correct_KAN=is_correct_KAN,
        ),
    )


def make_pairs(num_models: int, source_N: Tensor) -> Tensor:
    """`member_KN` of complementary halves of the source."""
    numbers = generator(SEED, "benchmark", "pairs")
    index = source_N.nonzero().squeeze(1)
    member_KN = torch.zeros(num_models, len(source_N), dtype=torch.bool)
    for j in range(num_models // 2):
        member_KN[2 * j, index[torch.randperm(len(index), generator=numbers)[: len(index) // 2]]] = True
        member_KN[2 * j + 1] = source_N & ~member_KN[2 * j]
    return member_KN


@dataclass(kw_only=True)
class Measured:
    """Times of one attack, in seconds, one for each round."""

    name: str
    attack: Attack
    once_R: list[float] = field(default_factory=list)
    each_R: list[float] = field(default_factory=list)
    peak: float = 0.0  # GiB

    def measure(self, shadows: Evidence, target: Signals) -> None:
        if self.attack.needs.views:
            shadows = replace(shadows, signals=with_views(shadows.signals, self.attack))
            target = with_views(target, self.attack)

        def once() -> FittedAttack:
            fitted = self.attack.fit(shadows, ENGINE)
            fitted.score(target, shadows.label_N)
            return fitted

        seconds, fitted = timed(once)
        self.once_R.append(seconds)
        if isinstance(fitted, FittedReference):
            rows = torch.arange(shadows.num_models)
            self.each_R.append(timed(lambda: fitted.score_left_out(shadows, rows))[0])
        elif not hasattr(self.attack, "training"):
            self.each_R.append(timed(lambda: score_each(self.attack, shadows, shadows.signals, ENGINE, folds=8))[0])
        bytes_of_unit = 1 if sys.platform == "darwin" else 2**10
        self.peak = self.peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_of_unit / 2**30

    def row(self) -> tuple[str, ...]:
        return (self.name, *cells(self.once_R), *cells(self.each_R), f"{self.peak:.1f}")

    def record(self) -> dict[str, object]:
        return {
            "attack": self.name,
            "fit_and_score_seconds": self.once_R,
            "each_a_target_seconds": self.each_R,
            "peak_gib": round(self.peak, 2),
        }


@dataclass(kw_only=True)
class Asking:
    """Times of asking trained models about the views of one attack, in seconds, one for each round."""

    attack: Attack
    models: TrainedStack
    images: Population
    seconds_R: list[float] = field(default_factory=list)

    @property
    def num_views(self) -> int:
        return len(self.attack.needs.views)

    def measure(self) -> None:
        def ask() -> ViewSignals:
            return observe_views(self.models, self.images, self.attack.needs.views, SEED)

        self.seconds_R.append(timed(ask)[0])

    def row(self) -> tuple[str, ...]:
        answers = self.models.num_models * len(self.images) * self.num_views
        one = statistics.median(self.seconds_R) / answers * 1e6
        return (self.attack.name, str(self.num_views), *cells(self.seconds_R), f"{one:#.2g}")

    def record(self) -> dict[str, object]:
        return {"attack": self.attack.name, "views": self.num_views, "asking_seconds": self.seconds_R}


def make_asked(num_models: int, num_records: int = 1000) -> tuple[TrainedStack, Population]:
    """Networks of the size of digits, and random images; no time depends on what they have learnt."""
    numbers = generator(SEED, "benchmark", "images")
    images = Population(
        name="random images",
        x_N=torch.randn(num_records, *IMAGE, generator=numbers),
        label_N=torch.randint(10, (num_records,), generator=numbers),
        class_names=tuple(map(str, range(10))),
    )
    recipe = Recipe(epochs=1, batches_per_epoch=1, optimizer=torch.optim.Adam, execution="stack", chunk=None)
    job = TrainingJob(
        seed=ENGINE.seed,
        role="asked",
        make_network=partial(MLP, IMAGE, 10, hidden=(128, 128), activation="tanh"),
        population=images,
        records_K=[torch.arange(num_records)] * num_models,
        recipe=recipe,
    )
    return ENGINE.run(job), images


def cells(seconds_R: list[float]) -> tuple[str, str]:
    """Median and range."""
    if not seconds_R:
        return "–", "–"
    return f"{statistics.median(seconds_R):#.3g}", f"{min(seconds_R):#.3g} to {max(seconds_R):#.3g}"


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seconds of each attack, once models are trained and observed.")
    names = list(attacks())
    parser.add_argument("--attacks", nargs="+", choices=names, default=names, metavar="NAME", help="by default all")
    parser.add_argument("--models", type=int, default=None, help="shadow models K, an even number (default: 256)")
    parser.add_argument("--records", type=int, default=None, help="records N (default: 60000)")
    parser.add_argument("--classes", type=int, default=10, help="classes C (default: 10)")
    parser.add_argument("--asked", type=int, default=None, help="networks that are asked about views (default: 16)")
    parser.add_argument("--rounds", type=int, default=None, help="of all attacks in turn (default: 3)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="16 models, 500 records, 2 asked, 1 round: a test of it")
    parsed = parser.parse_args(given)
    for name, value, quick in (("models", 256, 16), ("records", 60_000, 500), ("asked", 16, 2), ("rounds", 3, 1)):
        if getattr(parsed, name) is None:
            setattr(parsed, name, quick if parsed.quick else value)
    if parsed.models < 6 or parsed.models % 2:
        parser.error("--models must be an even number of at least 6")
    if parsed.records < 20 or parsed.classes < 2 or min(parsed.rounds, parsed.asked) < 1:
        parser.error("--records must be at least 20, --classes at least 2, --rounds and --asked at least 1")
    return parsed


def main() -> int:
    args = arguments()
    heading = machine(torch.device("cpu"))
    measured = [Measured(name=name, attack=attack) for name, attack in attacks().items() if name in args.attacks]
    few = make_evidence(args.models, 100, args.classes)
    for each in measured:
        Measured(name=each.name, attack=each.attack).measure(*few)
    models, images = make_asked(args.asked)
    asking = [Asking(attack=e.attack, models=models, images=images) for e in measured if e.attack.needs.views]
    shadows, target = make_evidence(args.models, args.records, args.classes)
    for _ in range(args.rounds):
        for each in measured:
            each.measure(shadows, target)
        for asked in asking:
            asked.measure()
    if args.json:
        setting = {name: getattr(args, name) for name in ("models", "records", "classes", "asked", "rounds")}
        rows = {"attacks": [each.record() for each in measured], "asking": [each.record() for each in asking]}
        print(json.dumps({"machine": heading, **setting, **rows}, indent=2))
        return 0
    print(f"{heading}\n\n{render(HEADER, [each.row() for each in measured])}\n")
    if asking:
        print(f"{render(ASKED_HEADER, [each.row() for each in asking])}\n\n{args.asked} networks are asked.\n")
    rounds = f"{args.rounds} round" if args.rounds == 1 else f"{args.rounds} rounds"
    print(
        f"K = {args.models} shadow models, N = {args.records} records, C = {args.classes} classes; medians over "
        f"{rounds}, attacks in turn, after a warm-up."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
