"""Slips in Python calls: what a caller has switched on around a call, and objects of another kind than was meant."""

import io
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn

import mia_lightning as mia
from mia_lightning.attacks.shokri import default_training
from mia_lightning.datasets.csv import load_csv
from mia_lightning.datasets.npz import load_npz
from mia_lightning.errors import InputError
from mia_lightning.membership import Given
from mia_lightning.run.completion import config_of
from mia_lightning.training.precision import float32_products

rng = np.random.default_rng(0)
x = rng.normal(size=(80, 5)).astype("float32")
label = np.arange(80) % 3
GIVEN = Given(member_N=list(range(40)))


def linear() -> nn.Module:
    return nn.Linear(5, 3)


QUICK: dict[str, Any] = {
    "model": linear,
    "shadow": mia.Real(count=4),
    "attacks": [mia.Loss()],
    "training": mia.Recipe(epochs=2),
    "trainer": mia.TrainerSettings(accelerator="cpu"),
}


def audit(**changes: Any) -> mia.AuditReport:
    return mia.audit(x, label, **{**QUICK, **changes})


def sentence_of(work: Callable[[], object]) -> str:
    with pytest.raises(InputError) as refused:
        work()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture(scope="module")
def observed() -> mia.Observation:
    return mia.observe(x, label, **QUICK)


@contextmanager
def tf32() -> Iterator[None]:
    """By torch's newer interface, after which it refuses to be asked by the older one."""
    with float32_products(tf32=False):
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        yield


@pytest.mark.costly
@pytest.mark.parametrize(
    "around",
    [
        torch.no_grad,
        torch.inference_mode,
        partial(torch.autocast, "cpu", dtype=torch.bfloat16),
        partial(torch.device, "meta"),
        tf32,
    ],
    ids=["no_grad", "inference_mode", "autocast", "device", "tf32"],
)
def test_what_is_switched_on_around_a_call_changes_nothing(
    around: Callable[[], AbstractContextManager[object]], observed: mia.Observation
) -> None:
    shokri = mia.Shokri(training=replace(default_training(), epochs=2))  # which trains
    plain = audit().scores, mia.attack(observed, attacks=[shokri]).scores
    with around():
        within = audit().scores, mia.attack(observed, attacks=[shokri]).scores
        gradients = torch.is_grad_enabled()
    for one, other in zip(plain, within, strict=True):
        assert np.array_equal(one.score, other.score)
    assert gradients == (around not in (torch.no_grad, torch.inference_mode))


def test_an_attack_changes_what_is_cheap_alone(observed: mia.Observation) -> None:
    for given, part in (
        ({"seed": 3}, "`seed` is nothing that `attack` can change"),
        ({"membership": mia.Halves()}, "`membership` is nothing"),
        ({"attack": []}, "`attack` is nothing that `attack` can change (did you mean `attacks`?)"),
    ):
        assert part in sentence_of(lambda given=given: mia.attack(observed, **given))  # type: ignore[misc]
    assert "`observation` is None" in sentence_of(lambda: mia.attack(None))  # type: ignore[arg-type]


def test_equal_defences_are_a_slip() -> None:
    assert "holds top_k twice" in sentence_of(lambda: audit(defenses=[mia.TopK(), mia.TopK()]))
    assert audit(defenses=[mia.TopK(k=2), mia.TopK(k=1)]).defense.description == "top 2 classes, top 1 class"


def test_a_defence_that_hides_nothing_says_so() -> None:
    (warning,) = (each for each in audit(defenses=[mia.TopK(k=99)]).warnings if "top_k" in each)
    assert "`defense.top_k.k` is 99, and there are 3 classes" in warning
    assert not any("top_k" in each for each in audit(defenses=[mia.TopK(k=2)]).warnings)


@pytest.mark.parametrize("place", ["shadow", "target"])
def test_more_models_than_memory_can_note_are_refused_at_once(place: str) -> None:
    many = {"shadow": mia.Real(count=10**13)} if place == "shadow" else {"target": mia.Trained(count=10**13)}
    assert f"`{place}.count` is {10**13}" in sentence_of(lambda: audit(**many))


def test_memory_that_runs_out_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    module = sys.modules["mia_lightning.audit"]  # `mia_lightning.audit` is the function
    monkeypatch.setattr(module, "run_attacks", fails)
    assert sentence_of(audit).startswith("Memory ran out (DefaultCPUAllocator: can't allocate memory")
    monkeypatch.setattr(module, "run_attacks", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        audit()


class Weighted(nn.Module):
    """A network that computes with a weight of any kind."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + (self.weight.to_dense() if self.weight.is_sparse else self.weight).sum()  # type: ignore[no-any-return]


class WithoutGradient(nn.Linear):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class WholeNumbers(nn.Module):
    """A network of whole numbers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(15).reshape(5, 3) % 7, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.to(x)


@pytest.mark.parametrize(
    ("model", "part"),
    [
        (lambda: nn.Linear(5, 3, device="meta"), "`weight` on the meta device"),
        (lambda: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3, device="meta")), "`1.weight` on the meta device"),
        (lambda: Weighted(torch.eye(3).to_sparse()), "`weight` as a sparse tensor"),
        (lambda: WithoutGradient(5, 3), "have no gradient"),
    ],
    ids=["meta", "partly meta", "sparse", "without gradient"],
)
def test_models_that_cannot_be_trained(model: Callable[[], nn.Module], part: str) -> None:
    assert part in sentence_of(lambda: audit(model=model))


@pytest.mark.usefixtures("global_generators")
def test_targets_of_unusual_weights_are_run_as_they_are() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        targets = WholeNumbers(), Weighted(torch.eye(3).to_sparse()), Weighted(torch.ones(2, dtype=torch.int64))
    for target in targets:
        report = audit(target=target, membership=GIVEN)
        with torch.no_grad():
            right = float((target(torch.from_numpy(x)).argmax(1).numpy() == label)[:40].mean())
        assert report.target.train_accuracy == pytest.approx(right)


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_weights_of_another_kind_are_not_taken_for_the_models(tmp_path: Path, kind: torch.dtype, ending: str) -> None:
    state = {"weight": torch.ones(3, 5).to(kind), "bias": torch.ones(3).to(kind)}
    path = tmp_path / f"weights.{ending}"
    torch.save(state, path) if ending == "pt" else save_file(state, path)
    target = mia.Checkpoint(path=path)
    assert f"is {str(kind)[6:]} in the file" in sentence_of(lambda: audit(target=target, membership=GIVEN))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_of_optimisers_and_schedules_are_finite(value: float) -> None:
    adam = partial(torch.optim.Adam, lr=0.1, weight_decay=value)
    assert "`training.optimizer.weight_decay` is" in sentence_of(lambda: mia.Recipe(optimizer=adam))
    adam = partial(torch.optim.Adam, betas=(0.9, value))
    assert "`training.optimizer.betas` is" in sentence_of(lambda: mia.Recipe(optimizer=adam))
    decay = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=value)
    assert "`training.scheduler.gamma` is" in sentence_of(lambda: mia.Recipe(scheduler=decay))


def test_names_in_early_stopping_are_names() -> None:
    assert "`training.early_stopping` is {None: 1}" in sentence_of(lambda: mia.Recipe(early_stopping={None: 1}))


@pytest.mark.parametrize("text", ["a\0b", "\udcff", Path("a\0b")])
def test_text_that_no_file_can_hold_is_refused_where_it_is_set(text: str | Path) -> None:
    assert "`output` is " in sentence_of(lambda: audit(output=text))
    assert "`store.dir` is " in sentence_of(lambda: mia.Store(dir=text))
    assert "`dataset.path` is " in sentence_of(lambda: load_npz(path=text))
    assert "`config.a.b` is " in sentence_of(lambda: audit(config={"a": {"b": [str(text)]}}))


@pytest.mark.parametrize("make", [lambda path: mia.Store(dir=path), lambda path: load_npz(path=path)])
def test_a_home_folder_that_is_not_known(make: Callable[[str], object]) -> None:
    assert "'~nobody_such/x' and there is no such home folder" in sentence_of(lambda: make("~nobody_such/x"))


@pytest.mark.parametrize("name", ["x" * 300 + ".npz", "x" * 300 + ".csv"])
def test_what_the_system_refuses_is_named(name: str) -> None:
    load = partial(load_csv, label_column="y") if name.endswith("csv") else load_npz
    assert "File name too long" in sentence_of(lambda: load(path=name))


def test_a_file_without_the_right_to_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    np.savez(tmp_path / "my.npz", x=x, label=label)
    torch.save({}, tmp_path / "my.pt")
    monkeypatch.setattr(Path, "is_file", refuse)  # as below a folder that cannot be entered
    for work in (
        lambda: load_npz(path=tmp_path / "my.npz"),
        lambda: audit(target=mia.Checkpoint(path=tmp_path / "my.pt"), membership=GIVEN),
        lambda: audit(membership=Given(path=tmp_path / "rows.csv")),
    ):
        sentence = sentence_of(work)
        assert str(tmp_path) in sentence
        assert "Permission denied" in sentence


@pytest.mark.parametrize("name", ["my.npz", "rows.npy", "folder"])
def test_advice_to_load_objects_is_not_repeated(tmp_path: Path, name: str) -> None:
    """NumPy takes whatever it does not know for a pickle, and says how to load it all the same."""
    (tmp_path / "folder").mkdir()
    for path in ("my.npz", "rows.npy", "folder/x.npy", "folder/label.npy"):
        (tmp_path / path).write_bytes(b"GIF89a")
    given = Given(path=tmp_path / name)
    sentence = sentence_of(
        (lambda: audit(membership=given)) if name == "rows.npy" else lambda: load_npz(path=tmp_path / name)
    )
    assert "never loaded" in sentence
    assert not re.search("trust|unsafe|allow_pickle", sentence)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_key_that_stands_twice_in_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        for name, array in (("x", x), ("label", label), ("x", 2 * x)):
            np.save(content := io.BytesIO(), array)
            archive.writestr(f"{name}.npy", content.getvalue())
    assert "'x' twice" in sentence_of(lambda: load_npz(path=tmp_path / "twice.npz"))


class Records(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return len(x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(x[index]), int(label[index])


INSTEAD: dict[str, tuple[Callable[[], object], list[str]]] = {
    "model as label": (lambda: mia.audit(x, nn.Linear), ["`label`", "Linear", "model=Linear"]),
    "function as label": (lambda: mia.audit(Records(), linear), ["`label`", "model=linear"]),
    "trained model as label": (lambda: mia.audit(x, linear(), model=linear), ["`label`", "target=", "model="]),
    "number of shadow models": (lambda: audit(shadow=16), ["`shadow` is 16", "mia.Real(count=16)"]),
    "names of attacks": (lambda: audit(attacks=["loss"]), ["['loss']", "[mia.Loss()]"]),
    "name of a plan": (lambda: audit(membership="halves"), ["'halves'", "mia.Halves()"]),
    "names of defences": (lambda: audit(defenses=["top_k"]), ["['top_k']", "mia.TopK("]),
    "attack": (lambda: audit(attack=["lira"]), ["`attack`", "did you mean `attacks`?"]),
    "absent folder": (lambda: audit(target="no/such/run", membership=GIVEN), ["no/such/run", "folder of the run"]),
}


@pytest.mark.usefixtures("global_generators")
@pytest.mark.parametrize("case", INSTEAD)
def test_the_sentence_says_what_to_write_instead(case: str) -> None:
    work, parts = INSTEAD[case]
    sentence = sentence_of(work)
    assert all(part in sentence for part in parts), sentence


@pytest.mark.usefixtures("global_generators")
def test_a_plan_that_draws_is_left_out_where_the_data_say_what_a_target_was_trained_on() -> None:
    told = mia.make_population(x, label, member=np.arange(80) < 40)
    said = sentence_of(lambda: mia.Audit(told, model=linear, target=linear(), membership=mia.Halves()))
    assert "leave `membership` out" in said
    said = sentence_of(lambda: mia.Audit(x, label, model=linear, target=linear(), membership=mia.Halves()))
    assert "membership=given" in said


def test_a_configuration_repeats_the_epochs_that_nobody_has_set() -> None:
    config = {"training": {"epochs": None, "batch_size": 100}}
    open_, closed = mia.Audit(x, label, model=linear, config=config), mia.Audit(x, label, model=linear)
    assert config_of(open_)["training"] == {"epochs": 100, "batch_size": 100}
    assert config_of(closed) == {}
    assert config_of(replace(open_, config={"training": {"epochs": 3}}))["training"]["epochs"] == 3


@pytest.mark.parametrize("model", [DecisionTreeClassifier, DecisionTreeClassifier()], ids=["class", "object"])
def test_an_estimator_in_the_place_of_a_network_is_told_where_it_belongs(model: Any) -> None:
    assert re.search(r"^`model` is .*estimator.* target=", sentence_of(lambda: audit(model=model)))


def test_a_word_for_no_kind_of_shadow_models_is_refused() -> None:
    assert "`shadow.estimator` is 'rf'" in sentence_of(lambda: audit(shadow_estimator="rf"))


def test_gaps_are_named_where_a_network_hands_them_on() -> None:
    gaps = np.where(x > 1, np.float32("nan"), x)
    data = mia.make_population(gaps, label, kinds={"kind": "numeric", "has_gaps": True})
    assert "gaps, NaN" in sentence_of(lambda: mia.audit(data, **QUICK))
