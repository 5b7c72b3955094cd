"""Runs that share a store: what one has trained or asked the others take over, side by side or one after another."""

import json
import multiprocessing
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from quick import QUICK_SHOKRI, quick_audit

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.rounding import Rounding
from mia_lightning.reports.run_section import ReuseSection
from mia_lightning.shadows.model_based import ModelBased
from mia_lightning.store.artefacts import Store
from mia_lightning.targets.services.google_prediction import GooglePrediction
from mia_lightning.training.trained import TrainedStack

PLAN: dict[str, Any] = {"membership": mia.Disjoint(train_size=30), "shadow": mia.Real(count=6)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(dir=tmp_path / "store")


def settings(**options: Any) -> dict[str, Any]:
    return quick_audit(**{**PLAN, **options})


def reuse(report: mia.AuditReport) -> dict[str, tuple[int, int]]:
    return {role: (one.found, one.trained) for role, one in report.run.store.items()}


def test_a_second_attack_trains_and_asks_nobody(
    blobs: Population, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = mia.audit(blobs, **settings(store=store))
    assert reuse(first) == {"target": (0, 1), "shadow": (0, 6)}
    monkeypatch.setattr(TrainedStack, "log_probability", lambda *_: pytest.fail("a model was asked"))
    second = mia.audit(
        blobs, **settings(store=store, attacks=[mia.Loss(), QUICK_SHOKRI], defenses=[Rounding(digits=2)])
    )
    assert reuse(second) == {"target": (1, 0), "shadow": (6, 0)}
    again = mia.audit(blobs, **settings(store=store))
    assert again.attacks == first.attacks
    assert (again.scores.score == first.scores.score).all()  # type: ignore[union-attr]


def test_without_a_store_the_figures_are_the_same(blobs: Population, store: Store) -> None:
    kept, plain = mia.audit(blobs, **settings(store=store)), mia.audit(blobs, **settings())
    assert kept.attacks == plain.attacks
    assert plain.run.store == {}


def test_answers_are_not_kept_where_nobody_wants_them(blobs: Population, store: Store) -> None:
    store = replace(store, answers=False)
    first = mia.audit(blobs, **settings(store=store))
    assert store.places("answers") == []
    assert mia.audit(blobs, **settings(store=store)).attacks == first.attacks


def test_more_shadow_models_train_only_the_new_ones(blobs: Population, store: Store) -> None:
    mia.audit(blobs, **settings(store=store, membership=mia.Halves(), shadow=mia.Real(count=4)))
    grown = settings(store=store, membership=mia.Halves(), shadow=mia.Real(count=8))
    assert reuse(mia.audit(blobs, **grown)) == {"target": (1, 0), "shadow": (4, 4)}


def test_every_model_a_target_once_shares_with_the_shadow_models_of_one(blobs: Population, store: Store) -> None:
    """They are the same models, whoever is attacked."""
    plan = {"membership": mia.Halves(), "shadow": mia.Real(count=4), "store": store}
    mia.audit(blobs, **settings(**plan))
    assert reuse(mia.audit(blobs, **settings(**plan, target=mia.LeaveOneOut(folds=2)))) == {"shadow": (4, 0)}


def test_a_service_trains_its_models_once(blobs: Population, store: Store) -> None:
    service = {"target": GooglePrediction(), "store": store, "shadow": mia.Real(count=2)}
    first = mia.audit(blobs, **settings(**service))
    places = store.places("models")
    assert len(places) == 3
    assert mia.audit(blobs, **settings(**service)).attacks == first.attacks
    assert store.places("models") == places


@pytest.mark.parametrize("defenses", [[], [Rounding(digits=1)]])
@pytest.mark.slow
def test_a_target_is_asked_for_shadow_records_once(
    defenses: list[Any], blobs: Population, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ModelBased(count=2, records_per_class=6)
    given = settings(store=store, shadow=source, defenses=defenses)
    first = mia.audit(blobs, **given)
    made = ModelBased.synthesise
    asked: list[int] = []

    def counted(self: ModelBased, *arguments: Any, **named: Any) -> Any:
        asked.append(1)
        return made(self, *arguments, **named)

    monkeypatch.setattr(ModelBased, "synthesise", counted)
    second = mia.audit(blobs, **given)
    assert asked == []
    assert second.shadow == first.shadow
    assert second.attacks == first.attacks
    changed = [] if defenses else [Rounding(digits=1)]
    mia.audit(blobs, **{**given, "defenses": changed})
    mia.audit(blobs, **{**given, "seed": 1})
    mia.audit(blobs, **{**given, "shadow": replace(source, records_per_class=5)})
    assert len(asked) == 3


def _race(folder: str, x_N: torch.Tensor, label_N: torch.Tensor, barrier: Any, done: Any) -> None:
    torch.set_num_threads(1)
    barrier.wait()
    training = mia.Recipe(epochs=30, batch_size=5, optimizer=torch.optim.Adam)
    report = mia.audit(x_N, label_N, **settings(store=Store(dir=folder), training=training))
    done.put(({role: (one.found, one.trained) for role, one in report.run.store.items()}, report.attacks[0].overall))


@pytest.mark.slow
def test_two_processes_that_need_one_stack_train_it_once(blobs: Population, store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, done = context.Barrier(2), context.Queue()
    given = (str(store.folder), blobs.x_N, blobs.label_N, barrier, done)
    processes = [context.Process(target=_race, args=given) for _ in range(2)]
    for process in processes:
        process.start()
    (first, figures), (second, others) = (done.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    assert figures == others
    for role, count in (("target", 1), ("shadow", 6)):
        assert first[role][1] + second[role][1] == count, (first, second)
        assert sum(first[role]) == sum(second[role]) == count


@pytest.mark.costly
@pytest.mark.parametrize(
    "plan", [PLAN, {"membership": mia.Halves(), "target": mia.LeaveOneOut(folds=2), "shadow": mia.Real(count=8)}]
)
def test_three_shards_equal_one_job(plan: dict[str, Any], blobs: Population, store: Store) -> None:
    whole = mia.audit(blobs, **settings(**plan))
    given = settings(**plan, store=store)
    sentences = [mia.train_shard(blobs, **given, shard=mia.Shard(number=n, count=3)) for n in range(3)]
    assert sentences[2] in (
        "Shard 2 of 3: 2 shadow models in the store.",
        "Shard 2 of 3: 3 shadow models in the store.",
    )
    joined = mia.audit(blobs, **given)
    assert all(trained == 0 for _, trained in reuse(joined).values())
    for one, other in zip(joined.attacks, whole.attacks, strict=True):
        assert one.overall.auc.value == pytest.approx(other.overall.auc.value, abs=1e-6)
    assert torch.allclose(*(torch.from_numpy(report.scores.score) for report in (joined, whole)), atol=1e-4)  # type: ignore[union-attr]


def test_more_shards_than_models_leave_some_idle(blobs: Population, store: Store) -> None:
    given = settings(store=store, shadow=mia.Real(count=2))
    sentences = [mia.train_shard(blobs, **given, shard=mia.Shard(number=n, count=3)) for n in range(3)]
    assert sentences[0] == "Shard 0 of 3: 0 shadow models in the store."
    assert reuse(mia.audit(blobs, **given))["shadow"] == (2, 0)


@pytest.mark.parametrize(
    ("number", "count", "sentence"),
    [
        (3, 3, "`shadow.shard` is 3, but with shadow.shards=3 shards go from 0 to 2"),
        (-1, 3, "`shadow.shard` is -1; it must be a whole number of at least 0"),
        (0, 0, "`shadow.shards` is 0; it must be a whole number of at least 1"),
        (0, "two", "`shadow.shards` is 'two'"),
    ],
)
def test_there_is_no_such_shard(number: Any, count: Any, sentence: str) -> None:
    with pytest.raises(mia.InputError) as error:
        mia.Shard(number=number, count=count)
    assert str(error.value).startswith(sentence)


def test_models_of_a_service_cannot_be_shared_out(blobs: Population, store: Store) -> None:
    given = settings(store=store, target=GooglePrediction(), shadow=mia.Real(count=2))
    with pytest.raises(mia.InputError, match="are trained by its service"):
        mia.train_shard(blobs, **given, shard=mia.Shard(number=0, count=2))


def test_a_plan_says_what_is_there(blobs: Population, store: Store) -> None:
    given = settings(store=store)
    mia.audit(blobs, **given)
    places = store.places()
    sentences = mia.estimate(blobs, **settings(store=store, shadow=mia.Real(count=8)))
    assert sentences[0].startswith("1 target model x 4 epochs: ")
    assert sentences[0].endswith("; 1 of them is in the store")
    assert sentences[1].startswith("8 shadow models x 4 epochs: ")
    assert sentences[1].endswith("; 6 of them are in the store")
    assert store.places() == places


def command(forks: Path, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    quick = ["logger=none", "shadow.count=4", "training.epochs=2", "dataset.train_size=40", "trainer.accelerator=cpu"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "MIA_"))}
    return subprocess.run(
        [forks / "mia-lightning", "attack=loss", *quick, *arguments],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_the_command_keeps_its_models_in_the_folder_store_and_says_what_it_found(tmp_path: Path, forks: Path) -> None:
    shards = [
        command(forks, tmp_path, "shadow.shards=2", f"shadow.shard={n}", f"hydra.run.dir=shard_{n}") for n in range(2)
    ]
    assert [done.returncode for done in shards] == [0, 0], shards[0].stderr
    assert "Shard 1 of 2: 2 shadow models in the store." in shards[1].stdout
    assert not (tmp_path / "shard_0" / "report.json").exists()
    done = command(forks, tmp_path, "shadow.shards=2", "hydra.run.dir=run")
    assert "Models found in the store, or trained: target 1 found, 0 trained, shadow 4 found, 0 trained" in " ".join(
        done.stdout.split()
    )
    stored = json.loads((tmp_path / "run" / "report.json").read_text())["run"]["store"]
    assert ReuseSection(**stored["shadow"]) == ReuseSection(found=4, trained=0)
    assert (tmp_path / "store" / "models").is_dir()
    scores = pq.read_table(tmp_path / "run" / "scores.parquet")
    elsewhere = command(forks, tmp_path, "hydra.run.dir=elsewhere", MIA_STORE=str(tmp_path / "other"))
    assert elsewhere.returncode == 0
    assert (tmp_path / "other" / "models").is_dir()
    assert pq.read_table(tmp_path / "elsewhere" / "scores.parquet").column("score").to_pylist() == pytest.approx(
        scores.column("score").to_pylist(), abs=1e-4
    )
    nothing = command(forks, tmp_path, "store.dir=null", "hydra.run.dir=nothing")
    assert "from the store" not in nothing.stdout
    for arguments, sentence in (
        (["store.dir=/proc/nowhere"], "the store /proc/nowhere cannot be used ("),
        (["store.dir=null", "shadow.shards=2", "shadow.shard=0"], "`shadow.shards` is 2, and `store.dir` is null, so"),
        (["shadow.shards=2", "shadow.shard=2"], "`shadow.shard` is 2, but with shadow.shards=2 shards go from 0 to 1"),
        (
            ["store.checkpoint_minutes=often"],
            "`store.checkpoint_minutes` is 'often'; it must be a number of at least 0",
        ),
        (["store.directory=x"], "there is no setting `store.directory`"),
        (["+store.directory=x"], "`store.directory` is no setting; the settings are dir, "),
        (["store=here"], "`store` is 'here'; it must be the settings store.dir (null for none) and others."),
    ):
        done = command(forks, tmp_path, *arguments)
        assert done.returncode == 2, arguments
        assert done.stderr.startswith(f"mia-lightning: {sentence}"), done.stderr
        assert done.stderr.count("\n") == 1
