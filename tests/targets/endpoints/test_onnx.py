"""An ONNX model as a target: written by scikit-learn's converter, or node by node."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from given_setup import given_setup
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.answers import Reading
from mia_lightning.targets.endpoints.in_process import IN_PROCESS
from mia_lightning.targets.endpoints.onnx import Onnx, OnnxEndpoint

FLOAT = TensorProto.FLOAT


def write(
    path: Path,
    nodes: Sequence[Any],
    *,
    inputs: Sequence[tuple[str, int, Sequence[int | str]]] = (("x", FLOAT, ["N", 6]),),
    outputs: Sequence[tuple[str, int, Sequence[int | str]]] = (("y", FLOAT, ["N", 3]),),
    constants: Sequence[Any] = (),
) -> Path:
    def values(described: Any) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in described]

    graph = helper.make_graph(list(nodes), "graph", values(inputs), values(outputs), list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def linear(path: Path, *, rows: int | str = "N") -> tuple[Path, np.ndarray[Any, Any]]:
    """Logits of blobs, and the matrix that makes them."""
    weight = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    constant = helper.make_tensor("weight", FLOAT, weight.shape, weight.tobytes(), raw=True)
    node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    shapes: Any = {"inputs": [("x", FLOAT, [rows, 6])], "outputs": [("y", FLOAT, [rows, 3])]}
    return write(path, [node], constants=[constant], **shapes), weight


def converted(
    path: Path, population: Population, *, labels: Any = None, zipmap: bool = True
) -> tuple[Path, LogisticRegression]:
    x_N = population.x_N.flatten(1).float().numpy()
    estimator = LogisticRegression().fit(x_N, population.label_N.numpy() if labels is None else labels)
    model = to_onnx(estimator, x_N[:1], options={"zipmap": zipmap}, target_opset={"": 17, "ai.onnx.ml": 3})
    path.write_bytes(model.SerializeToString())
    return path, estimator


def endpoint(path: Path, population: Population, **options: Any) -> OnnxEndpoint:
    return Onnx(path=path, **options).connect(given_setup(population))


@pytest.mark.parametrize("zipmap", [True, False])
def test_a_converted_estimator_gives_its_probabilities(blobs: Population, tmp_path: Path, zipmap: bool) -> None:
    path, estimator = converted(tmp_path / "model.onnx", blobs, zipmap=zipmap)
    answers = endpoint(path, blobs).ask(blobs.x_N)
    np.testing.assert_allclose(np.array(answers), estimator.predict_proba(blobs.x_N.numpy()), atol=1e-6)


def test_maps_name_their_classes(blobs: Population, tmp_path: Path) -> None:
    turned = replace(blobs, class_names=("c", "a", "b", "d"))
    names = np.array(["c", "a", "b"])[blobs.label_N.numpy()]
    path, estimator = converted(tmp_path / "model.onnx", blobs, labels=names)
    answers = np.array(endpoint(path, turned).ask(blobs.x_N))
    np.testing.assert_allclose(answers[:, [1, 2, 0]], estimator.predict_proba(blobs.x_N.numpy()), atol=1e-6)
    assert (answers[:, 3] == 0).all()


@pytest.mark.parametrize("named", [False, True])
def test_labels_where_they_are_asked_for(blobs: Population, tmp_path: Path, named: bool) -> None:
    names = np.array(blobs.class_names)[blobs.label_N.numpy()] if named else None
    path, estimator = converted(tmp_path / "model.onnx", blobs, labels=names)
    answers = endpoint(path, blobs, output="output_label").ask(blobs.x_N)
    wanted = estimator.predict(blobs.x_N.numpy())
    assert [blobs.class_names[each] if named else each for each in answers] == wanted.tolist()


def test_logits_become_probabilities_where_they_are_said_to_be_logits(blobs: Population, tmp_path: Path) -> None:
    path, weight = linear(tmp_path / "model.onnx")
    answers = endpoint(path, blobs).ask(blobs.x_N)
    logit = blobs.x_N.numpy().astype(float) @ weight
    np.testing.assert_allclose(np.array(answers), logit, atol=1e-5)
    reading = Reading(place="here", class_names=blobs.class_names, answer="logits")
    log_probability, _ = reading.read(answers, range(120))
    np.testing.assert_allclose(log_probability.exp(), np.exp(logit) / np.exp(logit).sum(1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("rows", [1, 7, 120, 500])
def test_a_fixed_batch_is_filled_up(blobs: Population, tmp_path: Path, rows: int) -> None:
    path, weight = linear(tmp_path / "model.onnx", rows=rows)
    answers = endpoint(path, blobs).ask(blobs.x_N)
    np.testing.assert_allclose(np.array(answers), blobs.x_N.numpy() @ weight, atol=1e-5)


def test_pictures_come_in_the_models_shape_and_type_and_may_be_normalised(pictures: Population, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Slice", ["flat", "start", "stop", "axis"], ["y"]),
    ]
    constants = [
        helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("start", 0), ("stop", 3), ("axis", 1))
    ]
    shape: Any = {"inputs": [("x", FLOAT, ["N", 2, 6, 6])], "constants": constants}
    path = write(tmp_path / "model.onnx", nodes, **shape)
    first = pictures.x_N.flatten(1)[:, :3]
    np.testing.assert_array_equal(endpoint(path, pictures).ask(pictures.x_N), first.float().numpy())
    normalised = pictures.normalised(pictures.x_N).flatten(1)[:, :3]
    np.testing.assert_array_equal(endpoint(path, pictures, normalised=True).ask(pictures.x_N), normalised.numpy())
    of_any_size: Any = {"inputs": [("x", FLOAT, ["N", 2, "rows", "columns"])], "constants": constants}
    path_of_any_size = write(tmp_path / "any.onnx", nodes, **of_any_size)
    np.testing.assert_array_equal(endpoint(path_of_any_size, pictures).ask(pictures.x_N), first.float().numpy())
    flat = replace(pictures, x_N=pictures.x_N.flatten(1), mean=None, std=None)
    np.testing.assert_array_equal(endpoint(path, flat).ask(flat.x_N), first.float().numpy())


def test_pictures_are_flattened_for_a_model_of_rows(pictures: Population, tmp_path: Path) -> None:
    path, estimator = converted(tmp_path / "model.onnx", pictures)
    answers = endpoint(path, pictures).ask(pictures.x_N)
    wanted = estimator.predict_proba(pictures.x_N.flatten(1).numpy().astype(np.float32))
    np.testing.assert_allclose(np.array(answers), wanted, atol=1e-4)


def test_whole_numbers_are_not_cut_out_of_others(blobs: Population, tmp_path: Path) -> None:
    cast = helper.make_node("Cast", ["x"], ["y"], to=FLOAT)
    shape: Any = {"inputs": [("x", TensorProto.INT64, ["N", 6])], "outputs": [("y", FLOAT, ["N", 6])]}
    path = write(tmp_path / "model.onnx", [cast], **shape)
    with pytest.raises(InputError, match="takes int64 as 'x', which does not hold the records' float32"):
        endpoint(path, blobs).ask(blobs.x_N)
    whole = blobs.x_N.round()
    np.testing.assert_array_equal(endpoint(path, blobs).ask(whole), whole.numpy())


def test_several_inputs_and_outputs_are_told_apart_by_name(blobs: Population, tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    two: Any = {"outputs": [("y", FLOAT, ["N", 6]), ("z", FLOAT, ["N", 6])]}
    path = write(tmp_path / "two.onnx", nodes, **two)
    np.testing.assert_array_equal(endpoint(path, blobs).ask(blobs.x_N), blobs.x_N.numpy())
    np.testing.assert_array_equal(endpoint(path, blobs, output="z").ask(blobs.x_N), -blobs.x_N.numpy())
    assert endpoint(path, blobs, output="z").identity != endpoint(path, blobs).identity
    with pytest.raises(InputError, match=r"has no output 'w' \('y', 'z'\); name one of them in `target.output`"):
        endpoint(path, blobs, output="w")
    inputs: Any = {"inputs": [("x", FLOAT, ["N", 6]), ("w", FLOAT, ["N", 6])], "outputs": [("y", FLOAT, ["N", 6])]}
    path = write(tmp_path / "inputs.onnx", [helper.make_node("Add", ["x", "w"], ["y"])], **inputs)
    with pytest.raises(InputError, match=r"has several inputs \('x', 'w'\); name one of them in `target.input`"):
        endpoint(path, blobs)
    with pytest.raises(InputError, match="does not take records"):  # the other one is missing
        endpoint(path, blobs, input="w").ask(blobs.x_N)


def test_the_identity_follows_the_content(blobs: Population, tmp_path: Path) -> None:
    first, _ = converted(tmp_path / "first.onnx", blobs)
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(first.read_bytes())
    other, _ = linear(tmp_path / "other.onnx")
    opened = endpoint(first, blobs)
    assert endpoint(copy, blobs).identity == opened.identity != endpoint(other, blobs).identity
    assert endpoint(copy, blobs, normalised=True).identity != opened.identity
    assert (opened.place, opened.protocol) == ("first.onnx", "onnx")
    opened.close()


def test_what_cannot_be_used_is_refused(blobs: Population, pictures: Population, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a file; give an ONNX model"):
        endpoint(tmp_path / "none.onnx", blobs)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no model")
    with pytest.raises(InputError, match="cannot be loaded"):
        endpoint(damaged, blobs)
    path, _ = linear(tmp_path / "model.onnx")
    for providers in (["NoProvider"], []):
        with pytest.raises(InputError, match=r"`target.providers` is .*has .*CPUExecutionProvider"):
            endpoint(path, blobs, providers=providers)
    with pytest.raises(InputError, match=r"does not take records of shape \[72\] as 'x' of shape \['N', 6\]"):
        endpoint(path, pictures).ask(pictures.x_N)
    text: Any = {"inputs": [("x", TensorProto.STRING, ["N", 3])], "outputs": [("y", TensorProto.STRING, ["N", 3])]}
    path = write(tmp_path / "text.onnx", [helper.make_node("Identity", ["x"], ["y"])], **text)
    with pytest.raises(InputError, match=r"takes tensor\(string\) as 'x'"):
        endpoint(path, blobs)
    truth: Any = {"outputs": [("y", TensorProto.BOOL, ["N", 6])]}
    path = write(tmp_path / "truth.onnx", [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BOOL)], **truth)
    with pytest.raises(InputError, match=r"has no output of probabilities or labels \(y: tensor\(bool\)\)"):
        endpoint(path, blobs)


@pytest.mark.parametrize("kind", [FLOAT, TensorProto.INT64])
def test_answers_of_another_shape_are_refused(blobs: Population, tmp_path: Path, kind: int) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["z"], to=kind), helper.make_node("Transpose", ["z"], ["y"], perm=[1, 0])]
    path = write(tmp_path / "model.onnx", nodes, outputs=[("y", kind, [6, "N"])])
    with pytest.raises(InputError, match=r"of shape \[6, 120\] as 'y' for 120 records instead of"):
        endpoint(path, blobs).ask(blobs.x_N)


def test_without_onnx_runtime_one_sentence_says_so(
    blobs: Population, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("mia_lightning.targets.endpoints.onnx.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'mia-lightning\[onnx\]'"):
        endpoint(tmp_path / "model.onnx", blobs)
    assert Onnx(path="model.onnx").asking is IN_PROCESS


@pytest.mark.parametrize("shape", [["N"], ["N", 1]])
def test_one_probability_of_two_classes(blobs: Population, tmp_path: Path, shape: list[Any]) -> None:
    of_two = replace(blobs, label_N=blobs.label_N % 2, class_names=("no", "yes"))
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    keep = int(len(shape) == 2)
    nodes = [
        helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=keep),
        helper.make_node("Sigmoid", ["sum"], ["y"]),
    ]
    path = write(tmp_path / "model.onnx", nodes, outputs=[("y", FLOAT, shape)], constants=[axis])
    setup = given_setup(of_two)
    signals = Onnx(path=path).obtain(setup).observe(of_two)
    wanted = 1 / (1 + np.exp(-of_two.x_N.numpy().sum(1)))
    np.testing.assert_allclose(signals.log_probability_KANC[0, 0, :, 1].exp(), wanted, rtol=1e-3)
    assert any("probability of 'yes'" in each for each in setup.engine.stages.remarks)


def test_labels_are_found_by_name_regardless_of_case(blobs: Population, tmp_path: Path) -> None:
    names = np.array(["A", "b ", "C"])[blobs.label_N.numpy()]
    path, estimator = converted(tmp_path / "model.onnx", blobs, labels=names)
    answers = np.array(endpoint(path, blobs).ask(blobs.x_N))
    # scikit-learn sorts A, C, b
    np.testing.assert_allclose(answers[:, [0, 2, 1]], estimator.predict_proba(blobs.x_N.numpy()), atol=1e-6)
    signals = Onnx(path=path, output="output_label").obtain(given_setup(blobs)).observe(blobs)
    assert signals.log_probability_KANC[0, 0].argmax(1).tolist() == answers.argmax(1).tolist()
