"""The fits of a role under way: what the store has, what is fitted, and what is said of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mia_lightning.training.engine import Engine, Reuse
from mia_lightning.training.estimators.fitting import Answered, Fit, FitKind, fit_and_answer
from mia_lightning.training.estimators.kept import KeptFits
from mia_lightning.training.estimators.making import Making
from mia_lightning.training.estimators.pool import in_pool
from mia_lightning.training.kept_answers import KeptAnswers


class Fitting:
    """The fits of one role under way."""

    def __init__(
        self,
        making: Making,
        engine: Engine,
        kind: FitKind,
        fits: Sequence[Fit],
        folder: Path,
        asked: Sequence[Tensor],
        kept: KeptFits | None,
        role: str,
    ) -> None:
        self._making, self._engine, self._kind, self._fits = making, engine, kind, fits
        self._folder, self._asked, self._kept, self._role = folder, asked, kept, role
        self.processes = making.used(engine.stages.remark)

    def run(self, answers: KeptAnswers | None) -> list[Answered]:
        """What came of each fit, its answers in files."""
        found, places = self._found(answers), self._engine.places(self._role, len(self._fits))
        missing = [fit for fit in self._fits if fit.number not in found and fit.number in places]
        if self._kept is not None:
            self._engine.reused[self._role] = Reuse(found=len(found), trained=len(missing))
            if found:
                self._engine.stages.note(f"{self._role}: {len(found)} of {len(self._fits)} models from the store.")
        with self._engine.stages.stage(self._role, 0, len(missing)) as bar:
            for each in self._fitted(missing):
                found[each.number] = each
                self._keep(each, answers)
                bar.count(1)
        self._say(found)
        self._engine.made(self._role, len(self._fits), is_kept=self._kept is not None)
        return [found[fit.number] for fit in self._fits]

    def _found(self, answers: KeptAnswers | None) -> dict[int, Answered]:
        found: dict[int, Answered] = {}
        if self._kept is None or answers is None:
            return found
        for fit in self._fits:
            known = self._kept.find(fit.number)
            log_AnC = None if known is None else answers.read_one(fit.number, 1, self._kind.num_outputs)
            if known is not None and log_AnC is not None:
                np.save(answers_path(self._folder, fit.number), log_AnC[0].numpy())
                found[fit.number] = known
        return found

    def _fitted(self, missing: Sequence[Fit]) -> Iterator[Answered]:
        """Each as it comes; the first is fitted twice, to see whether its seed decides about all of it."""
        calls = [(fit, self._kind.records, self._asked[fit.number].numpy(), False) for fit in missing]
        if missing:
            first = missing[0]
            calls.insert(1, (first, self._kind.records, self._asked[first.number].numpy(), True))
        twice: list[Answered] = []
        for each in in_pool(fit_and_answer, (self._kind,), calls, processes=self.processes):
            if each.number == missing[0].number:
                twice.append(each)
                if len(twice) == 2:
                    self._compare(*twice)
                    continue
            yield each

    def _compare(self, first: Answered, second: Answered) -> None:
        if first.log_nC is None or second.log_nC is None or np.array_equal(first.log_nC, second.log_nC):
            return
        self._engine.stages.remark(
            f"{self._role}: {self._making.name} is not determined by its seed: fitted twice on the same records, it "
            f"answers otherwise, by up to {np.abs(first.log_nC - second.log_nC).max():.3g}"
            f"{'' if self._kind.outputs == 'numbers' else ' nats'}, so that this run cannot be repeated to the digit."
        )

    def _keep(self, each: Answered, answers: KeptAnswers | None) -> None:
        if each.log_nC is None:
            return
        np.save(answers_path(self._folder, each.number), each.log_nC)
        if self._kept is not None:
            self._kept.keep(each, self._fits[each.number].path)
            if answers is not None and not answers.models.store.is_read_only:
                answers.keep_one(each.number, torch.from_numpy(each.log_nC)[None])

    def _say(self, found: dict[int, Answered]) -> None:
        said = dict.fromkeys(sentence for each in found.values() for sentence in each.said)
        for sentence in [*said][:3]:
            count = sum(sentence in each.said for each in found.values())
            self._engine.stages.remark(f"{self._role}: {count} of {len(found)} estimators warned: {sentence}")


def answers_path(folder: Path, number: int) -> Path:
    return folder / f"{number}.npy"
