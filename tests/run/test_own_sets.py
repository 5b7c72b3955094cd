"""What a run makes of a user's own sets, and says of them."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from quick import quick_audit
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchvision import transforms

import mia_lightning as mia
from mia_lightning.datasets.marks import Mark
from mia_lightning.errors import InputError
from mia_lightning.membership import Given
from mia_lightning.run.preparation import engine_of, prepare
from mia_lightning.seeds import generator, isolated
from mia_lightning.terminal.progress import Stages

X_N = torch.randn(60, 4, generator=generator(0, "own sets"))
ALL = TensorDataset(X_N, torch.arange(60) % 3)
TRAIN, VAL = TensorDataset(*ALL[:40]), TensorDataset(*ALL[40:])
MODULE = pl.LightningDataModule.from_datasets(TRAIN, VAL, batch_size=8)


def network() -> nn.Module:
    with isolated(0, "network"):
        return nn.Linear(4, 3)


def prepared(data: Any, **options: Any) -> tuple[mia.Audit, Stages, Any]:
    audit = mia.Audit(data, **quick_audit(**{"shadow": mia.Real(count=2), **options}))
    stages = Stages()
    return audit, stages, prepare(engine_of(audit, stages), audit)


def test_the_sets_are_the_members_of_a_target_that_is_trained_already() -> None:
    audit, stages, setup = prepared(MODULE, target=network())
    assert isinstance(audit.membership, Given)
    assert setup.membership.member_KN[0].tolist() == [True] * 40 + [False] * 20
    (note,) = [each for each in stages.notes if "members" in each]
    assert all(part in note for part in ("40 records", "train_dataloader", "20 records", "val_dataloader"))
    assert stages.remarks == []


def test_so_are_those_of_a_member_column() -> None:
    member_N = torch.arange(60) < 10
    data = mia.make_population(X_N, torch.arange(60) % 3, member=member_N)
    _, _, setup = prepared(data, target=network())
    assert torch.equal(setup.membership.member_KN[0], member_N)


MEMBER_N = torch.arange(60) < 30


@pytest.mark.parametrize("is_apart", [False, True])
def test_a_file_of_members_says_too_whether_they_were_cut_more_often(tmp_path: Path, is_apart: bool) -> None:
    has_N = (torch.arange(60) < 20 if is_apart else torch.arange(60) % 3 == 0).numpy()
    mark = Mark(what="texts that were cut", has_N=has_N)
    data = replace(mia.make_population(X_N, torch.arange(60) % 3), marks=(mark,))
    listed = [f"{i},{int(MEMBER_N[i])}" for i in range(50)]  # the last ten are neither
    (tmp_path / "members.csv").write_text("\n".join(["row,member", *listed]))
    shares = ("66.7 %", "0.0 %") if is_apart else ("33.3 %", "35.0 %")
    for given in (mia.Given(path=tmp_path / "members.csv"), mia.Given(member_N=MEMBER_N)):
        _, stages, _ = prepared(data, target=network(), membership=given)
        (remark,) = [each for each in stages.remarks if "were cut" in each]
        of_all = shares if given.path is not None or is_apart else ("33.3 %", "33.3 %")
        assert remark.startswith("Texts that were cut: {} of the members and {} of the non-members".format(*of_all))
        assert ("more than chance explains" in remark) == is_apart


def test_the_marks_of_a_member_column_are_the_loaders() -> None:
    mark = Mark(what="texts that were cut", has_N=MEMBER_N.numpy())
    data = replace(mia.make_population(X_N, torch.arange(60) % 3, member=MEMBER_N), marks=(mark,))
    _, stages, _ = prepared(data, target=network())
    assert not any("were cut" in each for each in stages.remarks)


def test_another_plan_is_still_refused_for_it() -> None:
    with pytest.raises(InputError, match="membership=halves"):
        mia.Audit(MODULE, **quick_audit(target=network(), membership=mia.Halves()))
    with pytest.raises(InputError, match="membership=disjoint"):
        mia.Audit(MODULE, **quick_audit(target=network(), membership=mia.Disjoint(train_size=10)))
    with pytest.raises(InputError, match="membership=disjoint"):  # nothing says who its members are
        mia.Audit(TRAIN, **quick_audit(target=network()))


def test_a_file_of_members_goes_before_the_sets() -> None:
    _, stages, setup = prepared(MODULE, target=network(), membership=Given(member_N=[1, 50]))
    assert setup.membership.member_KN[0].nonzero().flatten().tolist() == [1, 50]
    assert any("one pool" in each and "membership=given" in each for each in stages.notes)


@pytest.mark.parametrize("plan", [mia.Disjoint(), mia.Halves()])
def test_from_scratch_the_sets_are_one_pool(plan: mia.Plan) -> None:
    _, stages, setup = prepared(MODULE, membership=plan)
    member_N = setup.membership.member_KN[0]
    assert 0 < int(member_N[40:].sum()) < 20
    assert any("one pool" in each and f"membership={plan.name}" in each for each in stages.notes)


def test_without_held_out_data_a_trained_target_is_refused() -> None:
    alone = pl.LightningDataModule.from_datasets(TRAIN, batch_size=8)
    with pytest.raises(InputError, match=r"LightningDataModule has no held-out data.*val_dataloader.*nonmembers"):
        prepared(alone, target=network())
    _, stages, _ = prepared(alone)
    assert any("one pool" in each for each in stages.notes)


def test_a_split_that_nobody_can_repeat_is_no_evidence() -> None:
    class Forgetful(pl.LightningDataModule):
        def setup(self, stage: str) -> None:
            self.parts = random_split(ALL, [40, 20])

        def train_dataloader(self) -> Any:
            return DataLoader(self.parts[0])

        def val_dataloader(self) -> Any:
            return DataLoader(self.parts[1])

    with isolated(0, "split"):
        population = mia.Population.of(Forgetful())
    _, stages, _ = prepared(population, target=network())
    (broken,) = stages.broken
    assert all(part in broken for part in ("Forgetful", "torch", "random_split"))
    _, stages, _ = prepared(population)
    assert stages.broken == []
    assert any("Forgetful" in each and "random_split" in each for each in stages.notes)


def test_records_in_both_sets_are_counted() -> None:
    both = TensorDataset(*ALL[35:])
    population = mia.Population.of(TRAIN, nonmembers=both)
    _, stages, _ = prepared(population)
    (remark,) = stages.remarks
    assert all(part in remark for part in ("5 records", "training set", "held-out"))


def fair() -> tuple[torch.Tensor, torch.Tensor, nn.Module]:
    """90 records, and a network that knows their classes but has seen none of them."""
    label_N = torch.arange(90) % 3
    x_N = 3 * torch.eye(4)[label_N] + torch.randn(90, 4, generator=generator(2, "own sets"))
    model = network()
    with torch.no_grad():
        model.weight.copy_(torch.eye(4)[:3])
        model.bias.zero_()
    return x_N, label_N, model


@pytest.mark.costly
@pytest.mark.parametrize("num_equal", [0, 5])
@pytest.mark.parametrize("given_by", ["sets", "column", "plan"])
def test_non_members_that_equal_members_let_nothing_be_cleared(given_by: str, num_equal: int) -> None:
    """They stand at other places, so that their values alone show it."""
    x_N, label_N, target = fair()
    row_N = torch.cat([torch.arange(45), torch.arange(45 - num_equal, 90)])
    x_N, label_N, member_N = x_N[row_N], label_N[row_N], torch.arange(90 + num_equal) < 45
    train, held_out = (TensorDataset(x_N[each], label_N[each]) for each in (member_N, ~member_N))
    data = {
        "sets": lambda: mia.Population.of(train, nonmembers=held_out),
        "column": lambda: mia.make_population(x_N, label_N, member=member_N),
        "plan": lambda: mia.make_population(x_N, label_N),
    }[given_by]()
    plan = Given(member_N=member_N) if given_by == "plan" else Given()
    options = quick_audit(shadow=mia.Real(count=2), target=target, membership=plan)
    report = mia.audit(data, **options, gate=mia.Gate(metric="auc", limit=0.999))
    assert report.gate is not None
    if not num_equal:
        assert report.broken == ()
        assert report.headline.startswith("No membership leakage found")
        assert report.gate.status == "below"
        return
    (broken,) = report.broken
    assert "5 of 50 non-members" in broken
    assert "membership.path" in broken
    assert report.headline.startswith("Leakage may be understated")
    assert (report.gate.status, report.gate.exit_code) == ("undetermined", 4)
    assert broken in report.gate.sentence


@pytest.mark.parametrize(("num_nonmembers", "is_broken"), [(1000, False), (999, True)])
def test_one_in_a_thousand_non_members_may_equal_a_member(num_nonmembers: int, is_broken: bool) -> None:
    x_N = torch.randn(40 + num_nonmembers, 4, generator=generator(1, "own sets"))
    x_N[40] = x_N[0]
    data = mia.make_population(x_N, torch.arange(len(x_N)) % 3, member=torch.arange(len(x_N)) < 40)
    _, stages, _ = prepared(data, target=network())
    assert bool(stages.broken) == is_broken


@pytest.mark.parametrize(("copies", "is_broken"), [(1, False), (2, True)])
@pytest.mark.parametrize("side", [0, 1])
def test_copies_within_a_side_let_nothing_be_cleared(copies: int, is_broken: bool, side: int) -> None:
    """Each record of one side stands there so often: as many records as before, and more of them alike."""
    x_N = torch.randn(80, 4, generator=generator(3, "own sets"))
    part = slice(0, 40) if side == 0 else slice(40, 80)
    x_N[part] = x_N[part][: 40 // copies].repeat(copies, 1)
    data = mia.make_population(x_N, torch.arange(80) % 3, member=torch.arange(80) < 40)
    _, stages, _ = prepared(data, target=network())
    assert bool(stages.broken) == is_broken
    if is_broken:
        assert all(
            part in stages.broken[0] for part in (f"40 {('members', 'non-members')[side]}", "20 different", "1.4")
        )


@pytest.mark.parametrize(("members", "nonmembers"), [(range(40), range(40)), (range(20), range(60)), (range(60), [3])])
def test_a_split_of_which_nothing_is_left_is_refused(members: Any, nonmembers: Any) -> None:
    """The same records, in datasets of their own."""
    train, held_out = (TensorDataset(*ALL[list(rows)]) for rows in (members, nonmembers))
    both = len({*members} & {*nonmembers})
    with pytest.raises(InputError, match=f"{both} of {len(nonmembers)} non-members.*{both} of its {len(members)} "):
        prepared(mia.Population.of(train, nonmembers=held_out), target=network())
    _, stages, _ = prepared(mia.Population.of(train, nonmembers=held_out))  # a pool has other non-members
    assert stages.broken == []


class Coloured(TensorDataset):
    """Pictures in three colours, each given to its transform as a PIL image."""

    def __init__(self, transform: Any) -> None:
        draws = generator(0, "coloured")
        super().__init__(torch.randint(0, 256, (40, 6, 6, 3), generator=draws, dtype=torch.uint8), torch.arange(40) % 2)
        self.transform = transform

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return self.transform(Image.fromarray(x.numpy())), y


class Pictures(TensorDataset):
    def __init__(self, transform: Any) -> None:
        super().__init__(torch.rand(40, 1, 6, 6, generator=generator(0, "pictures")), torch.arange(40) % 2)
        self.transform = transform

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return self.transform(x), y


def test_random_steps_of_the_training_transform_are_those_of_training() -> None:
    flipped = Pictures(transforms.RandomHorizontalFlip())
    audit, stages, setup = prepared(flipped)
    assert audit.training.augment == setup.recipe.augment == (mia.Flip(),)
    assert any("Flip" in each for each in stages.notes)
    audit, _, _ = prepared(flipped, guess=mia.Guess(training=mia.Recipe(epochs=2)))
    assert audit.guess is not None
    assert audit.guess.training is not None
    assert audit.guess.training.augment == (mia.Flip(),)
    own = mia.Recipe(epochs=1, batch_size=8, optimizer=partial(torch.optim.Adam, lr=0.1), augment=[mia.Crop(padding=1)])
    audit, stages, _ = prepared(flipped, training=own)
    assert audit.training.augment == (mia.Crop(padding=1),)
    assert any("Crop" in each and "Flip" in each and "training.augment" in each for each in stages.notes)


def test_another_random_transform_is_trained_with_and_kept(tmp_path: Path) -> None:
    """In a stack and one after another, in chunks and from the store: the same models."""
    jittered = Coloured(transforms.Compose([transforms.ColorJitter(0.5), transforms.ToTensor()]))
    population = mia.Population.of(jittered, eval_dataset=Coloured(transforms.ToTensor()))
    answers = []
    for execution, chunk in (("stack", 4), ("loop", 1), ("stack", 4)):
        training = mia.Recipe(
            epochs=2, batch_size=8, optimizer=partial(torch.optim.Adam, lr=0.02), execution=execution, chunk=chunk
        )
        options = quick_audit(shadow=mia.Real(count=4), training=training)
        observation = mia.observe(population, store=mia.Store(dir=tmp_path / execution), **options)
        answers.append(observation.shadow_signals.log_probability_KANC)
        assert observation.engine.reused["shadow"].found == (4 if len(answers) == 3 else 0)
        assert any("ColorJitter" in each for each in observation.engine.stages.notes)
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-4, atol=1e-4, equal_nan=True)
    torch.testing.assert_close(answers[0], answers[2], rtol=0, atol=0, equal_nan=True)
    without = mia.observe(mia.Population.of(Coloured(transforms.ToTensor())), **options)
    assert not torch.allclose(without.shadow_signals.log_probability_KANC, answers[0], atol=1e-3, equal_nan=True)


def test_labels_beside_a_dataset_are_refused() -> None:
    for data, name in ((MODULE, "LightningDataModule"), (TRAIN, "TensorDataset"), (TensorDataset, "TensorDataset")):
        with pytest.raises(InputError, match=f"`label`.*{name}"):
            mia.Audit(data, torch.arange(60), model=network)
