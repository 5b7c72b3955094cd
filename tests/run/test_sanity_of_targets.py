"""What is wrong with a target is found on every road by which one comes; what is right passes on each."""

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
from quick import slow_but
from rich.console import Console
from roads_to_targets import ROADS, WRONG, Estimator, N, Net, as_predictions, audit, right, served
from safetensors.torch import save_file
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

import mia_lightning as mia
from mia_lightning.errors import InputError
from mia_lightning.gate import Gate, judge
from mia_lightning.reports.console import render_summary
from mia_lightning.reports.files import read_report
from mia_lightning.reports.sentences import headline, verdict
from mia_lightning.targets.checkpoint import Checkpoint
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.predict_v1 import PredictV1
from mia_lightning.targets.endpoints.predictions import Predictions
from mia_lightning.targets.endpoints.sklearn import Sklearn
from mia_lightning.targets.existing import Existing

pytestmark = pytest.mark.usefixtures("global_generators")  # of networks that the tests make


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ExitStack]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDOFATEST",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-a-test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with ExitStack() as opened:
        yield opened


LOOSE = Gate(metric="auc", limit=0.99)  # that every target here would pass

QUICK = [
    *(("module", wrong) for wrong in ("classes", "normalisation", "train mode", "members from 1")),
    *(("predictions", wrong) for wrong in ("rows + 1", "shuffled")),
    ("onnx", "two classes"),
    ("v1", "classes"),
]


@pytest.mark.costly
@pytest.mark.parametrize(("road", "wrong"), slow_but(QUICK, [(road, wrong) for road in ROADS for wrong in WRONG]))
def test_a_wrong_target_is_never_cleared(road: str, wrong: str, tmp_path: Path, stack: ExitStack) -> None:
    case, target = ROADS[road](WRONG[wrong](), tmp_path, stack)
    report = audit(case, target)
    assert report.trust.verdict in ("void", "unconfirmed"), report.trust
    said = {"void": "This audit cannot be trusted", "unconfirmed": "This audit could not be confirmed"}
    assert headline(report) == said[report.trust.verdict]
    assert report.warnings[0].startswith(headline(report))
    assert verdict(report)[0] == report.warnings[0]
    assert not any("no better than chance" in sentence for sentence in verdict(report))
    assert judge(report, LOOSE).exit_code == 4
    if wrong in ("classes", "two classes"):
        assert "classes" in str(report.trust.cause)
    if wrong.startswith("members from"):
        assert "rows stand one too" in str(report.trust.cause)
    if wrong == "members exchanged":
        assert "exchanged" in str(report.trust.cause)


@pytest.mark.costly
@pytest.mark.parametrize(
    "road",
    [
        "module",
        "predictions",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("checkpoint", "sklearn", "onnx", "v1", "v2", "sagemaker")
        ),
    ],
)
def test_a_right_target_is_sound(road: str, tmp_path: Path, stack: ExitStack) -> None:
    case, target = ROADS[road](right(), tmp_path, stack)
    report = audit(case, target)
    assert report.trust.verdict == "sound", report.trust
    assert report.trust.understated is None
    assert headline(report).startswith("Membership leaks")
    assert judge(report, LOOSE).exit_code == 0


@pytest.mark.parametrize("num_outputs", [2, 4])
def test_another_number_of_classes_is_refused(num_outputs: int, tmp_path: Path) -> None:
    network = Net(num_outputs).eval()
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    answers = np.full((N, num_outputs), 1 / num_outputs)
    table = pa.table({f"p{c}": answers[:, c] for c in range(num_outputs)})
    pa.csv.write_csv(table, tmp_path / "predictions.csv")
    targets = (network, Checkpoint(path=tmp_path / "net.safetensors"), Predictions(path=tmp_path / "predictions.csv"))
    for target in targets:
        with pytest.raises(InputError):
            audit(right(), target)


@pytest.mark.costly
@pytest.mark.parametrize("repairs", [False, True])
def test_a_repair_spends_no_budget_unless_it_is_wanted(repairs: bool) -> None:
    case, wrong = right(), WRONG["normalisation"]()
    with ExitStack() as stack:
        asking = Asking(sentinels=0, batch_size=256, budget=10 * N, repairs=repairs)
        target = PredictV1(url=served(wrong, stack), model="m", kind="network", asking=asking)
        report = audit(case, target)
    assert report.endpoint is not None
    assert (report.endpoint.num_sent > N) == repairs
    assert report.trust.verdict in ("void", "unconfirmed")


def test_a_budget_that_is_spent_ends_no_audit() -> None:
    with ExitStack() as stack:
        asking = Asking(sentinels=0, batch_size=256, budget=N, repairs=True)
        target = PredictV1(url=served(WRONG["normalisation"](), stack), model="m", kind="network", asking=asking)
        report = audit(right(), target)
    assert report.endpoint is not None
    assert report.endpoint.num_sent == N
    assert report.trust.verdict in ("void", "unconfirmed")


@pytest.mark.slow
def test_the_classes_in_the_order_of_a_server_are_named_as_the_setting_that_mends_it(tmp_path: Path) -> None:
    with ExitStack() as stack:
        case, target = as_predictions(WRONG["classes"](), tmp_path, stack)
        table = pa.csv.read_csv(tmp_path / "predictions.csv").rename_columns(["p0", "p1", "p2"])
        pa.csv.write_csv(table, tmp_path / "predictions.csv")
        wrong = audit(case, target)
        assert wrong.trust.mend == "set target.asking.classes=[top,low,mid]"
        mended = audit(case, replace(target, asking=replace(target.asking, classes=("top", "low", "mid"))))
    assert mended.trust.verdict == "sound"


@pytest.mark.slow
def test_the_expected_accuracy_is_that_of_non_members() -> None:
    case = right()
    seen = audit(case, case.network).target.test_accuracy
    for expected, verdict_then in ((seen, "sound"), (seen - 0.2, "void"), (min(1.0, seen + 0.2), "void")):
        found = audit(case, Existing(network=case.network, expected_accuracy=expected))
        assert found.trust.verdict == verdict_then


@pytest.mark.slow
def test_trees_that_networks_imitate_are_said_to_be_understated(tmp_path: Path) -> None:
    case = right()
    x_NF, members = case.population.x_N.numpy(), case.member_N
    forest = RandomForestClassifier(50, random_state=0).fit(x_NF[members], case.population.label_N.numpy()[members])
    found = audit(case, Sklearn(estimator=forest))
    assert found.trust.verdict == "sound"
    assert "ensemble of trees" in str(found.trust.understated)
    assert "understated" in headline(found)
    assert found.warnings[0] == found.trust.understated
    assert judge(found, LOOSE).exit_code == 4
    assert judge(found, Gate(metric="auc", limit=0.01)).exit_code == 3
    linear = LogisticRegression(max_iter=2000).fit(x_NF[members], case.population.label_N.numpy()[members])
    assert audit(case, Sklearn(estimator=linear)).trust.understated is None


@pytest.mark.slow
def test_a_file_is_of_unknown_kind_until_it_is_said(tmp_path: Path) -> None:
    with ExitStack() as stack:
        case, target = as_predictions(right(), tmp_path, stack)
    found = audit(case, replace(target, kind=None))
    assert "target.kind" in str(found.trust.understated)
    assert not headline(found).startswith("No membership leakage")
    assert "ensemble of trees" in str(audit(case, replace(target, kind="trees")).trust.understated)


def test_a_target_that_is_trained_here_is_not_checked() -> None:
    case = right()
    found = mia.audit(
        case.population,
        model=Net,
        membership=mia.Disjoint(train_size=50),
        shadow=mia.Real(count=2),
        attacks=[mia.Loss()],
        training=mia.Recipe(epochs=2, batch_size=50, optimizer=partial(torch.optim.Adam, lr=0.02)),
        trainer=mia.TrainerSettings(accelerator="cpu"),
    )
    assert (found.trust.verdict, found.trust.understated) == ("not checked", None)


def test_the_verdict_opens_the_report_the_terminal_and_the_page(tmp_path: Path) -> None:
    case = WRONG["classes"]()
    report = audit(case, case.network, output=tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    assert set(list(content)[:3]) == {"schema", "headline", "trust"}
    assert content["trust"]["verdict"] == "void"
    page = (tmp_path / "report.html").read_text()
    assert (
        page.index("This audit cannot be trusted") < page.index("classes of its answers") < page.index("Threat model")
    )
    console = Console(file=io.StringIO(), width=80)
    console.print(render_summary(report))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().startswith("This audit cannot be trusted")
    assert read_report(tmp_path / "report.json").trust == report.trust


class AtRandom(Estimator):
    """Somebody's object that draws its answers, as dropout in train mode does; `num_asked` counts its records."""

    num_asked = 0

    def predict_proba(self, x_NF: np.ndarray) -> np.ndarray:
        self.num_asked += len(x_NF)
        logits = np.log(super().predict_proba(x_NF)) + np.random.default_rng(self.num_asked).normal(size=(len(x_NF), 3))
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.slow
def test_a_target_that_answers_at_random_lets_nothing_be_cleared() -> None:
    case = right()
    report = audit(case, Sklearn(estimator=AtRandom(case), kind="network"))
    (sentence,) = report.broken
    assert "at random" in sentence
    assert judge(report, LOOSE).exit_code == 4
    assert audit(case, Sklearn(estimator=Estimator(case), kind="network")).broken == ()
