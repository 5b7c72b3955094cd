"""Mixup: the blends and their losses against a loop over records, the draws against their laws."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from mia_lightning.defenses.interface import OutputDefense, TrainingDefense
from mia_lightning.defenses.mixup import Mixup, mix
from mia_lightning.defenses.relaxloss import RelaxLoss
from mia_lightning.errors import InputError
from mia_lightning.seeds import generator
from mia_lightning.training.step.recipe import Recipe, default_recipe

KEY = torch.tensor([11, 12, 13])


def batch(*features: int, B: int = 9) -> tuple[Tensor, Tensor]:
    numbers = generator(0, "mixup")
    x = torch.randn(3, B, *features, generator=numbers, dtype=torch.float64)
    return x, torch.arange(3 * B).view(3, B)  # every label names its record


@pytest.mark.parametrize("features", [(), (5,), (2, 3, 3)])
@pytest.mark.parametrize("has_padding", [False, True])
def test_every_record_is_the_blend_that_its_labels_and_share_say(features: tuple[int, ...], has_padding: bool) -> None:
    x, label_KB = batch(*features)
    is_real_KB = torch.arange(9) < torch.tensor([[9], [4], [1]]) if has_padding else None
    blended, second_KB, share_KB = mix(x, label_KB, KEY, 3, is_real_KB, alpha=0.5)
    for k in range(3):
        for b in range(9):
            partner = int(second_KB[k, b]) - 9 * k
            assert 0 <= partner < 9  # of the model's own batch
            expected = share_KB[k, b] * x[k, b] + (1 - share_KB[k, b]) * x[k, partner]
            torch.testing.assert_close(blended[k, b], expected, rtol=1e-12, atol=1e-12)
            if is_real_KB is not None:
                assert bool(is_real_KB[k, b]) == bool(is_real_KB[k, partner])


def test_partners_are_a_permutation_of_the_real_records_wherever_they_stand() -> None:
    x, label_KB = batch(2)
    is_real_KB = torch.tensor([[1, 0, 1, 1, 0, 1, 0, 1, 1], [0] * 8 + [1], [1] * 9]).bool()
    _, second_KB, _ = mix(x, label_KB, KEY, 0, is_real_KB, alpha=1.0)
    for k in range(3):
        assert sorted(second_KB[k, is_real_KB[k]].tolist()) == label_KB[k, is_real_KB[k]].tolist()
    assert second_KB[1, 8] == label_KB[1, 8]  # alone, it is its own partner


def test_the_draws_depend_on_the_key_the_step_and_the_place_alone() -> None:
    x, label_KB = batch(2)
    _, second_KB, share_KB = mix(x, label_KB, KEY, 5, None, alpha=1.0)
    _, alone, share = mix(x[1:2], label_KB[1:2], KEY[1:2], 5, None, alpha=1.0)
    assert torch.equal(alone[0], second_KB[1])
    assert torch.equal(share[0], share_KB[1])
    assert not torch.equal(share_KB, mix(x, label_KB, KEY, 6, None, alpha=1.0)[2])
    assert not torch.equal(share_KB[0], share_KB[1])
    padded, labels = torch.cat([x, 1e6 * x[:, :2]], 1), torch.cat([label_KB, label_KB[:, :2]], 1)
    is_real_KB = (torch.arange(11) < 9).expand(3, -1)
    longer, second, shares = mix(padded, labels, KEY, 5, is_real_KB, alpha=1.0)
    assert torch.equal(second[:, :9], second_KB)
    assert torch.equal(shares[:, :9], share_KB)
    assert torch.equal(longer[:, :9], mix(x, label_KB, KEY, 5, None, alpha=1.0)[0])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_follow_the_beta_distribution_and_partners_are_any_record(alpha: float) -> None:
    """Kolmogorov-Smirnov and chi-square at a level of 1e-4, under this seed."""
    K, B = 500, 8
    x, label_KB = torch.zeros(K, B, 1, dtype=torch.float64), torch.arange(B).expand(K, B)
    _, second_KB, share_KB = mix(x, label_KB, torch.arange(K), 0, None, alpha=alpha)
    assert stats.kstest(share_KB.flatten().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    for b in range(B):
        assert stats.chisquare(np.bincount(second_KB[:, b].numpy(), minlength=B)).pvalue > 1e-4
    assert abs(np.corrcoef(share_KB.flatten().numpy(), second_KB.flatten().numpy())[0, 1]) < 4 / math.sqrt(K * B)


def test_the_loss_is_the_cross_entropy_from_blended_labels() -> None:
    """λ ℓ(y₁) + (1 − λ) ℓ(y₂) of the cross-entropy is that from λ y₁ + (1 − λ) y₂."""
    numbers = generator(1, "mixup")
    logits, share = torch.randn(20, 4, generator=numbers), torch.rand(20, generator=numbers)
    first, second = (torch.randint(0, 4, (20,), generator=numbers) for _ in range(2))
    objective = Mixup().adapt(default_recipe()).objective
    blended = share * objective(logits[None], first[None])[0] + (1 - share) * objective(logits[None], second[None])[0]
    soft = share[:, None] * nn.functional.one_hot(first, 4) + (1 - share[:, None]) * nn.functional.one_hot(second, 4)
    torch.testing.assert_close(blended, nn.functional.cross_entropy(logits, soft, reduction="none"))


def test_what_it_cannot_be_combined_with_is_refused() -> None:
    with pytest.raises(InputError, match=r"defense=mixup .*defense=relaxloss"):
        Mixup().adapt(RelaxLoss().adapt(default_recipe()))
    with pytest.raises(InputError, match=r"defense=relaxloss .*defense=mixup"):
        RelaxLoss().adapt(Mixup().adapt(default_recipe()))
    with pytest.raises(InputError, match=r"mixes records already"):
        Mixup().adapt(Mixup().adapt(default_recipe()))


def test_it_says_what_it_is_and_changes_nothing_else() -> None:
    recipe = Recipe(epochs=2, batch_size=4, optimizer=partial(torch.optim.SGD, lr=0.1))
    adapted = Mixup(alpha=0.3).adapt(recipe)
    assert (adapted.epochs, adapted.objective, adapted.optimizer) == (2, recipe.objective, recipe.optimizer)
    assert recipe.mix is None
    assert (Mixup().name, Mixup(alpha=0.25).describe()) == ("mixup", "mixup 0.25")
    assert isinstance(Mixup(), TrainingDefense)
    assert not isinstance(Mixup(), OutputDefense)
