"""What the store keeps of audits of estimators, for later runs, for shards and after a kill."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from estimator_audits import areas, noise, of, settings
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

import mia_lightning as mia
from mia_lightning.errors import InputError


@pytest.mark.slow
def test_what_the_store_holds_is_not_fitted_again(tmp_path: Path) -> None:
    x, label = noise()
    store = mia.Store(dir=tmp_path)
    forest = RandomForestClassifier(5)
    first = mia.audit(x, label, target=of(forest), store=store, **settings())
    places = store.places("models")
    assert len(places) == 9
    assert all(artefact is not None and artefact.content is None for artefact in map(store.get, places))
    again = mia.audit(x, label, target=of(forest), store=store, **settings())
    assert {role: (each.found, each.trained) for role, each in again.run.store.items()} == {
        "target": (1, 0),
        "shadow": (8, 0),
    }
    assert areas(again) == areas(first)
    store.forget(places[3])
    mended = mia.audit(x, label, target=of(forest), store=store, **settings())
    assert sum(each.trained for each in mended.run.store.values()) == 1
    assert areas(mended) == areas(first)
    more = mia.audit(x, label, target=of(forest), store=store, **settings(shadow=mia.Real(count=10)))
    assert more.run.store["shadow"].found == 8
    other = mia.audit(x, label, target=of(RandomForestClassifier(6)), store=store, **settings())
    assert sum(each.found for each in other.run.store.values()) == 0


@pytest.mark.slow
def test_pickles_are_kept_where_they_are_asked_for_alone(tmp_path: Path) -> None:
    x, label = noise()
    store = mia.Store(dir=tmp_path, estimators=True)
    few = settings(shadow=mia.Real(count=4), attacks=[mia.Loss()])
    mia.audit(x, label, target=of(DecisionTreeClassifier()), store=store, **few)
    artefacts = [store.get(place) for place in store.places("models")]
    assert artefacts
    assert all(artefact is not None and artefact.content is not None for artefact in artefacts)


def test_weights_that_are_none_are_not_saved() -> None:
    x, label = noise()
    with pytest.raises(InputError, match="estimators have no weights"):
        mia.Audit(x, label, target=of(DecisionTreeClassifier), save_models=True)


@pytest.mark.slow
def test_an_audit_finds_what_shards_have_fitted(tmp_path: Path) -> None:
    """And the scores are those of one job; a shard fits no model of another."""
    x, label = noise(N=80)
    how = settings(target=of(DecisionTreeClassifier()), shadow=mia.Real(count=4), attacks=[mia.CalibratedLoss()])
    store = mia.Store(dir=tmp_path)
    for number, part in enumerate(("1 shadow model ", "1 shadow model ", "2 shadow models ")):
        said = mia.train_shard(x, label, shard=mia.Shard(number=number, count=3), store=store, **how)
        assert part in said
    found, alone = mia.audit(x, label, store=store, **how), mia.audit(x, label, **how)
    reused = found.run.store["shadow"]
    assert (reused.found, reused.trained) == (4, 0)
    assert found.scores is not None
    assert alone.scores is not None
    np.testing.assert_array_equal(found.scores.score, alone.scores.score)


def test_shards_of_what_the_store_cannot_keep_are_refused(tmp_path: Path) -> None:
    x, label = noise()

    shard = mia.Shard(number=0, count=2)
    with (tmp_path / "open").open("w") as file:

        def make() -> DecisionTreeClassifier:
            assert not file.closed
            return DecisionTreeClassifier()

        how = settings(target=of(make), shard=shard, store=mia.Store(dir=tmp_path / "store"))
        with pytest.raises(InputError, match=r"shadow\.shards.*store"):
            mia.train_shard(x, label, **how)


DIES = """
import os
import sys

import numpy as np
from sklearn.tree import DecisionTreeClassifier

import mia_lightning as mia


class Dies(DecisionTreeClassifier):
    def fit(self, x, y):
        os.environ["FITS"] = str(int(os.environ.get("FITS", "0")) + 1)
        if os.environ.get("DIES") and os.environ["FITS"] == "6":
            os.kill(os.getpid(), 9)
        return super().fit(x, y)


if __name__ == "__main__":
    draw = np.random.default_rng(0)
    report = mia.audit(
        draw.normal(size=(80, 3)).astype(np.float32),
        draw.integers(0, 2, 80),
        target=mia.Estimator(Dies(), processes=1),
        membership=mia.Halves(),
        shadow=mia.Real(count=6),
        attacks=[mia.Loss()],
        store=mia.Store(dir=sys.argv[1]),
    )
    print(report.run.store["shadow"].found, report.run.store["shadow"].trained)
"""


@pytest.mark.slow
def test_a_killed_run_loses_the_fits_in_flight_alone(tmp_path: Path, forks: Path) -> None:
    script = tmp_path / "dies.py"
    script.write_text(DIES)
    command = [str(forks / "python"), str(script), str(tmp_path / "store")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(command, env={**environment, "DIES": "1"}, capture_output=True, check=False, timeout=300)
    assert killed.returncode == -9
    resumed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    # The target takes two fits, and the first shadow model two: the sixth fit is that of shadow model 2.
    assert resumed.stdout.split() == ["2", "4"], resumed.stderr
