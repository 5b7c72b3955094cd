"""What is wrong with a target is found on every road by which one comes; what is right passes on each."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
from onnx import TensorProto, helper
from quick import slow_but
from rich.console import Console
from safetensors.torch import save_file
from scripted_server import Answer, Request, scripted_server
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import mia_lightning as mia
from mia_lightning.attacks.lira import Lira
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.gate import Gate, judge
from mia_lightning.reports.console import render_summary
from mia_lightning.reports.files import read_report
from mia_lightning.reports.schema import AuditReport
from mia_lightning.reports.sentences import headline, verdict
from mia_lightning.targets.checkpoint import Checkpoint
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.onnx import Onnx
from mia_lightning.targets.endpoints.open_inference import OpenInference
from mia_lightning.targets.endpoints.predict_v1 import PredictV1
from mia_lightning.targets.endpoints.predictions import Predictions
from mia_lightning.targets.endpoints.sagemaker import SageMaker
from mia_lightning.targets.endpoints.sklearn import Sklearn
from mia_lightning.targets.existing import Existing

pytestmark = pytest.mark.usefixtures("global_generators")  # of networks that the tests make

N, CLASSES = 600, ("low", "mid", "top")
REMOTE = {"asking": Asking(sentinels=0, batch_size=256), "kind": "network"}


class Net(nn.Sequential):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(nn.Linear(6, 48), nn.BatchNorm1d(48), nn.Tanh(), nn.Linear(48, num_classes))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A target and what it is said to be.

    Attributes:
        network: sees normalised records.
        order_N: the record to which each answer belongs, for roads without records; else the records are so ordered.
    """

    network: nn.Module
    population: Population
    member_N: np.ndarray
    order_N: np.ndarray

    def probability_NC(self, x_N: Any) -> np.ndarray:
        """From records as they are in the data set."""
        with torch.no_grad():
            records = self.population.normalised(torch.as_tensor(np.asarray(x_N), dtype=torch.float32))
            return self.network(records.view(-1, 6)).double().softmax(1).numpy()

    @property
    def moved(self) -> "Case":
        """As a data set in which labels stand beside other records, for roads on which answers follow the records."""
        order = torch.from_numpy(self.order_N)
        return replace(self, population=replace(self.population, x_N=self.population.x_N[order]))


@cache
def right() -> Case:
    rng = np.random.default_rng(0)
    z_N = rng.normal(size=(N, 6)).astype(np.float32)
    label_N = (z_N[:, :3] + 0.6 * rng.normal(size=(N, 3))).argmax(1)
    population = make_population(
        10 * z_N + 50, label_N, class_names=CLASSES, mean=torch.tensor(50.0), std=torch.tensor(10.0)
    )
    member_N = rng.permutation(N) < 200
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Net()
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        members = torch.from_numpy(member_N.nonzero()[0])
        for _ in range(150):
            optimizer.zero_grad()
            answer = network(population.records(members))
            nn.functional.cross_entropy(answer, population.label_N[members]).backward()
            optimizer.step()
    return Case(network=network.eval(), population=population, member_N=member_N, order_N=np.arange(N))


def other_weights(change: Callable[[dict[str, Tensor]], None]) -> Case:
    network = Net().eval()
    state = {name: value.clone() for name, value in right().network.state_dict().items()}
    change(state)
    network.load_state_dict(state)
    return replace(right(), network=network)


def classes(state: dict[str, Tensor]) -> None:
    for name in ("3.weight", "3.bias"):
        state[name] = state[name].roll(1, 0)


def two_classes(state: dict[str, Tensor]) -> None:
    for name in ("3.weight", "3.bias"):
        state[name] = state[name][[0, 2, 1]]


def normalisation(state: dict[str, Tensor]) -> None:
    """As if it took its records in another scale, around another mean."""
    state["0.bias"] += state["0.weight"].sum(1) * 4
    state["0.weight"] *= 0.2


def train_mode(state: dict[str, Tensor]) -> None:
    """It worked with the statistics of its batches; its running ones are of something else."""
    state["1.running_mean"] += 3 * state["1.running_var"].sqrt()
    state["1.running_var"] *= 0.1


WRONG: dict[str, Callable[[], Case]] = {
    "classes": lambda: other_weights(classes),
    "two classes": lambda: other_weights(two_classes),
    "normalisation": lambda: other_weights(normalisation),
    "train mode": lambda: other_weights(train_mode),
    "members from 1": lambda: replace(right(), member_N=np.roll(right().member_N, 1)),
    "members from -1": lambda: replace(right(), member_N=np.roll(right().member_N, -1)),
    "members exchanged": lambda: replace(right(), member_N=~right().member_N),
    "rows + 1": lambda: replace(right(), order_N=np.roll(np.arange(N), 1)),
    "rows - 1": lambda: replace(right(), order_N=np.roll(np.arange(N), -1)),
    "shuffled": lambda: replace(right(), order_N=np.random.default_rng(1).permutation(N)),
}


class Estimator:
    """Somebody's object with `predict_proba`."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def predict_proba(self, x_NF: np.ndarray) -> np.ndarray:
        return self.case.probability_NC(x_NF)


def as_module(case: Case, folder: Path, stack: ExitStack) -> tuple[Case, Any]:
    return case.moved, case.network


def as_checkpoint(case: Case, folder: Path, stack: ExitStack) -> tuple[Case, Any]:
    save_file(case.network.state_dict(), folder / "net.safetensors")
    return case.moved, Checkpoint(path=folder / "net.safetensors")


def as_sklearn(case: Case, folder: Path, stack: ExitStack) -> tuple[Case, Any]:
    return case.moved, Sklearn(estimator=Estimator(case), kind="network")


def as_onnx(case: Case, folder: Path, stack: ExitStack) -> tuple[Case, Any]:
    state = {name: value.double() for name, value in case.network.state_dict().items()}
    factor = state["1.weight"] / (state["1.running_var"] + 1e-5).sqrt()
    constants = {
        "w1": (state["0.weight"] * factor[:, None] / 10).T,
        "b1": factor * (state["0.bias"] - state["1.running_mean"] - 5 * state["0.weight"].sum(1)) + state["1.bias"],
        "w2": state["3.weight"].T,
        "b2": state["3.bias"],
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["tanh"]),
        helper.make_node("Gemm", ["tanh", "w2", "b2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"]),
    ]
    tensors = [
        helper.make_tensor(name, TensorProto.FLOAT, value.shape, value.float().contiguous().numpy().tobytes(), raw=True)
        for name, value in constants.items()
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])] for name, size in (("x", 6), ("y", 3))
    ]
    graph = helper.make_graph(nodes, "graph", *ends, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "net.onnx"))
    return case.moved, Onnx(path=folder / "net.onnx")


def as_predictions(case: Case, folder: Path, stack: ExitStack) -> tuple[Case, Any]:
    answers = case.probability_NC(case.population.x_N)[case.order_N]
    table = pa.table({name: answers[:, c] for c, name in enumerate(CLASSES)})
    pa.csv.write_csv(table, folder / "predictions.csv")
    return case, Predictions(path=folder / "predictions.csv", kind="network")


def served(case: Case, stack: ExitStack) -> str:
    """The address of a server that speaks the routes of all three protocols."""

    def answer(request: Request) -> Answer:
        if not request.body:
            return Answer(b"{}", status=404)
        body = json.loads(request.body)
        if "inputs" in body:
            tensor = body["inputs"][0]
            found = case.probability_NC(np.array(tensor["data"]).reshape(tensor["shape"]))
            output = {"name": "y", "datatype": "FP64", "shape": list(found.shape), "data": found.flatten().tolist()}
            return Answer(json.dumps({"model_name": "m", "outputs": [output]}).encode())
        return Answer(json.dumps({"predictions": case.probability_NC(body["instances"]).tolist()}).encode())

    return str(stack.enter_context(scripted_server(answer)).url)


def as_v1(case: Case, folder: Path, stack: ExitStack) -> tuple[Case, Any]:
    return case.moved, PredictV1(url=served(case, stack), model="m", **REMOTE)


def as_v2(case: Case, folder: Path, stack: ExitStack) -> tuple[Case, Any]:
    return case.moved, OpenInference(url=served(case, stack), model="m", **REMOTE)


def as_sagemaker(case: Case, folder: Path, stack: ExitStack) -> tuple[Case, Any]:
    return case.moved, SageMaker(endpoint_name="m", region="eu-west-1", endpoint_url=served(case, stack), **REMOTE)


ROADS = {
    road.__name__.removeprefix("as_"): road
    for road in (as_module, as_checkpoint, as_sklearn, as_onnx, as_predictions, as_v1, as_v2, as_sagemaker)
}


def audit(case: Case, target: Any, **options: Any) -> AuditReport:
    return mia.audit(
        case.population,
        model=options.pop("model", Net),
        target=target,
        membership=mia.Given(member_N=case.member_N),
        shadow=mia.Real(count=8),
        attacks=[mia.Loss(), Lira(online=False)],
        training=mia.Recipe(epochs=15, batch_size=50, optimizer=partial(torch.optim.Adam, lr=0.02)),
        trainer=mia.TrainerSettings(accelerator="cpu"),
        **options,
    )


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


def image_network(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(108, 10))


@dataclass(frozen=True, kw_only=True)
class Images:
    """uint8 images of digits, some labels wrong, and a network trained on them under a normalisation."""

    network: nn.Module
    population: Population
    member_N: np.ndarray


def images(mean: list[float], std: list[float], *, scale: float = 1 / 255) -> Images:
    digits = load_digits()
    rng = np.random.default_rng(0)
    label_N = np.where(rng.random(900) < 1 / 7, rng.integers(0, 10, 900), digits.target[:900])
    C = len(mean)
    x_N = np.repeat(np.round(digits.images[:900] * 15.9375).astype("uint8")[:, None], C, axis=1)
    constants = [torch.tensor(each).view(C, 1, 1) for each in (mean, std)]
    right_population = make_population(x_N, label_N, scale=scale, mean=constants[0], std=constants[1])
    member_N = rng.permutation(900) < 300
    members = torch.from_numpy(member_N.nonzero()[0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = image_network(C)
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        records = right_population.records(members)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(records), right_population.label_N[members]).backward()
            optimizer.step()
    return Images(network=network.eval(), population=right_population, member_N=member_N)


NORMALISATIONS = {
    "one channel": ([0.485], [0.225]),
    "from -1 to 1": ([0.5], [0.5]),
    "ImageNet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "MNIST": ([0.1307], [0.3081]),
}


@pytest.mark.parametrize("name", NORMALISATIONS)
@pytest.mark.slow
def test_the_normalisation_that_mends_is_named(name: str) -> None:
    mean, std = NORMALISATIONS[name]
    made = images(mean, std)
    plain = replace(made.population, mean=None, std=None)
    as_case = partial(Case, network=made.network, member_N=made.member_N, order_N=np.arange(900))
    options: Any = {"model": partial(image_network, len(mean))}
    config = {"dataset": {"mean": None, "std": None, "scale": None}}
    wrong = audit(as_case(population=plain), made.network, config=config, **options)
    assert wrong.trust.verdict == "void"
    numbers = [",".join(f"{each:g}" for each in part) for part in (mean, std)]
    if len(mean) > 1:
        numbers = [f"[{each}]" for each in numbers]
    assert wrong.trust.mend == f"set dataset.mean={numbers[0]} dataset.std={numbers[1]}"
    assert wrong.trust.cause is not None
    assert wrong.trust.cause.startswith("preprocessing")
    of_python = audit(as_case(population=plain), made.network, **options)
    assert of_python.trust.mend is not None
    assert f"mean={numbers[0]}, std={numbers[1]}" in of_python.trust.mend
    assert audit(as_case(population=made.population), made.network, **options).trust.verdict == "sound"


@pytest.mark.slow
def test_records_that_were_not_to_be_scaled() -> None:
    made = images([0.0], [1.0], scale=1.0)
    case = Case(
        network=made.network,
        population=replace(made.population, scale=1 / 255),
        member_N=made.member_N,
        order_N=np.arange(900),
    )
    found = audit(case, made.network, model=partial(image_network, 1), config={"dataset": {"mean": 0, "scale": None}})
    assert found.trust.verdict in ("void", "unconfirmed")
    if found.trust.verdict == "void":
        assert "dataset.scale=1" in str(found.trust.mend)


class Standardised:
    """Somebody's estimator, which takes columns brought to mean 0 and deviation 1."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def predict_proba(self, x_NF: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.case.network(torch.from_numpy(x_NF).float()).double().softmax(1).numpy()


def test_an_estimator_that_takes_normalised_records_is_told_from_one_that_does_not() -> None:
    case = right()
    found = audit(case, Sklearn(estimator=Standardised(case), kind="network"), config={"dataset": {"mean": 50}})
    assert found.trust.verdict == "void"
    assert "mean 0 and deviation 1" in str(found.trust.cause)
    mended = audit(case, Sklearn(estimator=Standardised(case), kind="network", normalised=True))
    assert mended.trust.verdict == "sound"


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
