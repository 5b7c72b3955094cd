"""The attack networks of all folds as one stack: each fold is as trained by itself."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from shokri_toys import Recording, attack, engine, planted, simulate
from torch import Tensor

from mia_lightning.attacks.interface import Evidence
from mia_lightning.attacks.leave_one_out import fold_masks, score_each
from mia_lightning.attacks.shokri import UNKNOWN, Shokri
from mia_lightning.attacks.vectors import scales
from mia_lightning.errors import InputError
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.signals import Signals
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings


@pytest.mark.parametrize("is_log", [True, False])
def test_the_scale_of_each_fold_is_that_of_all_vectors_it_keeps(is_log: bool) -> None:
    random = torch.Generator().manual_seed(0)
    x_KNC = torch.randn(5, 40, 3, generator=random) * torch.tensor([1.0, 0.01, 5.0]) - torch.tensor([1.0, 30.0, 2.0])
    scored_KN = torch.rand(5, 40, generator=random) < 0.5
    scored_KN[3] = False
    kept_FK = torch.tensor([[True, True, False, True, True], [False, False, True, False, False]])
    mean_FC, std_FC = scales(x_KNC, scored_KN, kept_FK, is_log=is_log)
    for kept_K, mean_C, std_C in zip(kept_FK, mean_FC, std_FC, strict=True):
        rows = np.stack([x_KNC[k, n].double().numpy() for k, n in (scored_KN & kept_K[:, None]).nonzero().tolist()])
        rows = np.exp(rows) if is_log else rows
        np.testing.assert_allclose(mean_C.numpy(), rows.mean(0), rtol=2e-7)
        np.testing.assert_allclose(std_C.numpy(), np.maximum(rows.std(0), 1e-6), rtol=2e-6)


def pairs(num_models: int = 8) -> Evidence:
    """Shadow models in complementary pairs, the first two of which are fold 0 of three."""
    shadows, _ = simulate(planted, num_classes=3, num_models=num_models, num_records=120)
    return replace(shadows, block_K=torch.arange(num_models) // 2)


def ragged() -> Evidence:
    """The same; outside fold 0 there is no non-member of class 1, and records of class 2 are few outside fold 1."""
    shadows = pairs()
    fold_FK = fold_masks(shadows.block_K, 3)
    one_KN, two_KN = (~fold_FK[f][:, None] & (shadows.label_N == c) for f, c in ((0, 1), (1, 2)))
    few_KN = two_KN & (torch.rand(two_KN.shape, generator=torch.Generator().manual_seed(5)) < 0.7)
    return replace(shadows, member_KN=(shadows.member_KN | one_KN) & ~few_KN, scored_KN=~few_KN)


class Failing(Recording):
    """An engine that says of the networks at some places that they failed."""

    failed: tuple[int, ...] = ()

    def run(self, job: TrainingJob) -> TrainedStack:
        trained = super().run(job)
        is_failed_K = torch.isin(torch.arange(trained.stack.num_models), torch.tensor(self.failed))
        return replace(trained, failed_epoch_K=torch.where(is_failed_K, 0, -1))


def failing(*places: int) -> Failing:
    engine = Failing(seed=0, settings=TrainerSettings(accelerator="cpu"))
    object.__setattr__(engine, "failed", places)
    return engine


def fold_after_fold(attack: Shokri, shadows: Evidence, signals: Signals) -> tuple[Tensor, list[str]]:
    """Scores of all models, each from an attack that is fitted without its fold, and the remarks of all of them."""
    score_KN = torch.full(shadows.member_KN.shape, torch.nan, dtype=torch.float64)
    remarks: list[str] = []
    for fold_K in fold_masks(shadows.block_K, 3):
        fitted = attack.fit(shadows.select(~fold_K), engine(precision="64"))
        score_KN[fold_K] = fitted.score(signals.select(fold_K), shadows.label_N)
        remarks += fitted.remarks
    return score_KN, remarks


@pytest.mark.costly
@pytest.mark.parametrize("make", [pairs, ragged])
@pytest.mark.parametrize("execution", [{}, {"chunk": 2}, {"execution": "loop"}], ids=["stack", "chunks", "loop"])
def test_all_folds_at_once_score_as_one_after_the_other(
    make: Callable[[], Evidence], execution: dict[str, object]
) -> None:
    shadows = make()
    signals = Signals(log_probability_KANC=shadows.signals.log_probability_KANC - 0.1)  # as behind a defence
    plain = attack(epochs=3)
    expected_KN, remarks = fold_after_fold(plain, shadows, signals)
    together = replace(plain, training=replace(plain.training, **execution))
    scored = score_each(together, shadows, signals, engine(precision="64"), folds=3)
    torch.testing.assert_close(scored.score_TN, expected_KN, rtol=0, atol=1e-9)
    assert torch.equal(scored.is_flagged_TN, scored.score_TN >= 0.5)
    assert scored.remarks == tuple(f"{remark} (1 of 3 folds)" for remark in remarks)
    assert len(remarks) == (1 if make is ragged else 0)


def test_folds_draw_the_vectors_that_each_would_draw_by_itself() -> None:
    shadows = pairs()
    signals = Signals(log_probability_KANC=shadows.signals.log_probability_KANC - 0.1)
    few = attack(epochs=3, max_vectors=60)
    expected_KN, remarks = fold_after_fold(few, shadows, signals)
    scored = score_each(few, shadows, signals, engine(precision="64"), folds=3)
    torch.testing.assert_close(scored.score_TN, expected_KN, rtol=0, atol=1e-9)
    everything = score_each(attack(epochs=3), shadows, signals, engine(precision="64"), folds=3)
    assert float((everything.score_TN - scored.score_TN).abs().max()) > 1e-3
    # The first fold holds four of the eight models out, the others two each, so that these say the same.
    assert [f"180 of {available} " in remark for available, remark in zip((480, 720, 720), remarks, strict=True)] == [
        True
    ] * 3
    assert scored.remarks == (f"{remarks[0]} (1 of 3 folds)", f"{remarks[1]} (2 of 3 folds)")


def test_one_stack_holds_a_network_for_each_fold_and_class_which_has_both_sides() -> None:
    recording = Recording(seed=0, settings=TrainerSettings(accelerator="cpu"))
    shadows = ragged()
    scored = score_each(attack(epochs=1), shadows, shadows.signals, recording, folds=3)
    population, records_K = recording.job.population, recording.job.records_K
    assert recording.job.models == [0, 2, 0, 1, 2, 0, 1, 2]  # seeded alike in every fold
    num_records = shadows.scored_KN.shape[1]
    assert len(population) == shadows.scored_KN.numel()  # every vector once, not once for each fold
    assert len({len(records) for records in records_K}) > 3
    for f, records_of_fold in zip((0, 0, 1, 1, 1, 2, 2, 2), records_K, strict=True):
        assert bool(shadows.scored_KN.flatten()[records_of_fold].all())
        assert not bool((records_of_fold // num_records // 2 % 3 == f).any())
    is_blind_KN = fold_masks(shadows.block_K, 3)[0][:, None] & (shadows.label_N == 1)
    assert torch.equal(scored.score_TN == UNKNOWN, is_blind_KN)


def test_what_is_held_out_of_a_fold_reaches_none_of_its_networks() -> None:
    shadows = pairs()
    fold_FK = fold_masks(shadows.block_K, 3)
    changed = torch.where(
        fold_FK[1][:, None, None, None],
        (40 * shadows.signals.log_probability_KANC).log_softmax(-1),
        shadows.signals.log_probability_KANC,
    )
    altered = replace(
        shadows,
        signals=Signals(log_probability_KANC=changed),
        member_KN=shadows.member_KN ^ fold_FK[1][:, None],
    )
    before, after = (
        [
            fitted.score(shadows.signals, shadows.label_N)
            for fitted in attack(epochs=2).fit_folds(each, fold_FK, engine(precision="64"))
        ]
        for each in (shadows, altered)
    )
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=1e-12)
    for f in (0, 2):  # these have learnt from what was changed
        assert float((after[f] - before[f]).abs().mean()) > 0.01


def test_a_network_that_failed_is_missed_by_the_targets_of_its_fold_alone() -> None:
    shadows = pairs()
    scored = score_each(attack(epochs=1), shadows, shadows.signals, failing(3 + 2), folds=3)
    is_blind_KN = fold_masks(shadows.block_K, 3)[1][:, None] & (shadows.label_N == 2)
    assert torch.equal(scored.score_TN == UNKNOWN, is_blind_KN)
    (remark,) = scored.remarks
    assert "networks of the classes [2] was not finite" in remark
    assert remark.endswith("(1 of 3 folds)")


def test_a_fold_without_any_network_is_refused() -> None:
    shadows = pairs()
    with pytest.raises(InputError, match="The loss of all 3 attack networks of attack=shokri was no longer finite"):
        score_each(attack(epochs=1), shadows, shadows.signals, failing(6, 7, 8), folds=3)
    others_K = ~fold_masks(shadows.block_K, 3)[2]
    shadows = replace(shadows, member_KN=shadows.member_KN | others_K[:, None])
    with pytest.raises(InputError, match="No class has both members and non-members of shadow models"):
        score_each(attack(epochs=1), shadows, shadows.signals, engine(), folds=3)
