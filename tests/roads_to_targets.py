"""A target that is right or wrong in some way, on every road by which one comes."""

import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.csv
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from scripted_server import Answer, Request, scripted_server
from torch import Tensor, nn

import mia_lightning as mia
from mia_lightning.attacks.lira import Lira
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.reports.schema import AuditReport
from mia_lightning.store.artefacts import Store
from mia_lightning.targets.checkpoint import Checkpoint
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.onnx import Onnx
from mia_lightning.targets.endpoints.open_inference import OpenInference
from mia_lightning.targets.endpoints.predict_v1 import PredictV1
from mia_lightning.targets.endpoints.predictions import Predictions
from mia_lightning.targets.endpoints.sagemaker import SageMaker
from mia_lightning.targets.endpoints.sklearn import Sklearn

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


@cache
def shadow_models() -> tuple[Store, Any]:
    """Where they are kept, since targets by many roads have the same ones; and the folder, while it is there."""
    folder = tempfile.TemporaryDirectory(prefix="mia_lightning_shadows_")
    return Store(dir=folder.name, answers=False), folder


def audit(case: Case, target: Any, **options: Any) -> AuditReport:
    store, _ = shadow_models()
    return mia.audit(
        case.population,
        model=options.pop("model", Net),
        target=target,
        membership=mia.Given(member_N=case.member_N),
        shadow=mia.Real(count=8),
        attacks=[mia.Loss(), Lira(online=False)],
        training=mia.Recipe(epochs=15, batch_size=50, optimizer=partial(torch.optim.Adam, lr=0.02)),
        trainer=mia.TrainerSettings(accelerator="cpu"),
        store=store,
        **options,
    )
