"""The v2 protocol: what is sent, and which of the outputs is the answer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from model_server import ModelServer, serving
from protocol_setup import population_of, setup_of

from mia_lightning.datasets.population import make_population
from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.interface import Endpoint
from mia_lightning.targets.endpoints.open_inference import OpenInference
from mia_lightning.targets.failures import RefusedError, TryAgainError

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
ROWS = [[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.25, 0.25, 0.5], [1.0, 0.0, 0.0]]


class V2:
    """Answers `outputs` to any `infer`, and `metadata` (status, body) to what asks for them."""

    def __init__(self, *outputs: dict[str, Any], metadata: tuple[int, Any] = (404, {"error": "none"})) -> None:
        self.outputs, self.metadata, self.body = outputs, metadata, None

    def __call__(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "GET":
            return self.metadata
        return 200, {"model_name": "m", "outputs": list(self.outputs)} if self.body is None else self.body


def output(
    data: Any, *, name: str = "scores", datatype: str = "FP32", shape: list[int] | None = None
) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [4, 3], "data": data}


FLAT = output([value for row in ROWS for value in row])


@contextmanager
def connected(answer: Callable[..., Any], **settings: Any) -> Iterator[tuple[Endpoint, ModelServer]]:
    population = settings.pop("population", population_of(X))
    with serving(ModelServer(answer)) as server:
        target = OpenInference(**{"url": server.url, "model": "my model", "token_variable": "", **settings})
        endpoint = target.connect(setup_of(population))
        try:
            yield endpoint, server
        finally:
            endpoint.close()


def asked(answer: Callable[..., Any], x: torch.Tensor = X, **settings: Any) -> Any:
    with connected(answer, **settings) as (endpoint, _):
        return endpoint.ask(x)


def test_the_request_is_that_of_the_protocol_and_float32_survives_exactly() -> None:
    with connected(V2(FLAT), version=3, output="scores") as (endpoint, server):
        assert server.requests == []  # nothing is asked before the first records
        assert endpoint.ask(X) == ROWS
        endpoint.ask(X)
        (get, get_path, _, _), (post, path, _, body), (again, *_) = server.requests
        assert endpoint.place == f"{server.url}/v2/models/my%20model/versions/3"
    assert (get, get_path) == ("GET", "/v2/models/my%20model/versions/3")
    assert (post, path, again) == ("POST", "/v2/models/my%20model/versions/3/infer", "POST")
    (tensor,) = body["inputs"]
    assert body["outputs"] == [{"name": "scores"}]
    assert (tensor["name"], tensor["shape"], tensor["datatype"]) == ("input-0", [4, 6], "FP32")
    assert np.array_equal(np.array(tensor["data"], dtype=np.float32).reshape(4, 6), X.numpy())
    assert np.array_equal(np.array(tensor["data"]), X.double().flatten().numpy())


def test_no_output_is_named_where_none_is_set() -> None:
    with connected(V2(FLAT)) as (endpoint, server):
        endpoint.ask(X)
        assert "outputs" not in server.requests[-1][3]


@pytest.mark.costly
@pytest.mark.parametrize(
    ("x", "datatype"),
    [
        (torch.ones(4, 6), "FP32"),
        (torch.ones(4, 6, dtype=torch.float16), "FP16"),
        (torch.ones(4, 6, dtype=torch.bfloat16), "FP32"),
        (torch.ones(4, 6, dtype=torch.uint8), "UINT8"),
        (torch.ones(4, 6, dtype=torch.int8), "INT8"),
        (torch.ones(4, 6, dtype=torch.int16), "INT16"),
        (torch.ones(4, 6, dtype=torch.int32), "INT32"),
        (torch.ones(4, 6, dtype=torch.int64), "INT64"),
    ],
)
def test_records_have_their_own_type_where_nothing_else_is_known(x: torch.Tensor, datatype: str) -> None:
    with connected(V2(FLAT)) as (endpoint, server):
        endpoint.ask(x)
        tensor = server.requests[-1][3]["inputs"][0]
    assert tensor["datatype"] == datatype
    assert tensor["data"] == [1] * 24
    assert {type(value) for value in tensor["data"]} == {float if datatype.startswith("FP") else int}


def metadata(*inputs: dict[str, Any]) -> tuple[int, Any]:
    return 200, {"name": "m", "inputs": list(inputs), "outputs": []}


def test_name_type_and_shape_come_from_the_metadata() -> None:
    known = metadata({"name": "image", "datatype": "FP64", "shape": [-1, 1, 2, 3]})
    with connected(V2(FLAT, metadata=known)) as (endpoint, server):
        endpoint.ask(X)
        tensor = server.requests[-1][3]["inputs"][0]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("image", "FP64", [4, 1, 2, 3])
    assert tensor["data"] == X.double().flatten().tolist()


@pytest.mark.costly
@pytest.mark.parametrize("shape", [None, [-1], [-1, -1], [-1, "n"], "many"])
def test_a_shape_that_is_open_leaves_that_of_the_records(shape: object) -> None:
    known = metadata({"name": "image", "datatype": "FP31", "shape": shape})
    with connected(V2(FLAT, metadata=known)) as (endpoint, server):
        endpoint.ask(X)
        tensor = server.requests[-1][3]["inputs"][0]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("image", "FP32", [4, 6])


def test_settings_come_before_metadata() -> None:
    known = metadata({"name": "mask", "datatype": "BOOL"}, {"name": "image", "datatype": "FP64", "shape": [-1, 6]})
    with connected(V2(FLAT, metadata=known), input="image") as (endpoint, server):
        endpoint.ask(X)
        assert server.requests[-1][3]["inputs"][0]["datatype"] == "FP64"
    with connected(V2(FLAT, metadata=known), input="other", datatype="FP32") as (endpoint, server):
        endpoint.ask(X)
        assert [method for method, *_ in server.requests] == ["POST"]
        assert server.requests[-1][3]["inputs"][0]["name"] == "other"
    with connected(V2(FLAT, metadata=known), input="unknown") as (endpoint, server):
        endpoint.ask(X)
        assert server.requests[-1][3]["inputs"][0]["name"] == "unknown"


@pytest.mark.costly
@pytest.mark.parametrize(
    "known",
    [
        (404, {}),
        (400, {}),
        (200, {"name": "m"}),
        (200, ["what"]),
        (200, {"inputs": [3]}),
        (200, {"inputs": 3}),
        (200, {"inputs": {"input-0": {}}}),
        (200, {"inputs": [{"name": "input-0", "datatype": ["FP32"], "shape": [-1, *[10**18] * 100_000]}]}),
    ],
)
def test_a_server_without_metadata_is_asked_all_the_same(known: tuple[int, Any]) -> None:
    assert asked(V2(FLAT, metadata=known)) == ROWS


def test_metadata_that_are_refused_or_busy_are_no_answers() -> None:
    with pytest.raises(RefusedError, match="status 401"):
        asked(V2(FLAT, metadata=(401, {})))
    with pytest.raises(TryAgainError, match="status 503") as failure:
        asked(V2(FLAT, metadata=(503, {})))
    assert not failure.value.was_asked


def test_what_does_not_fit_the_metadata_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"takes records of shape \[5\], but those of the data set have shape \[6\]"):
        asked(V2(FLAT, metadata=metadata({"name": "x", "datatype": "FP32", "shape": [-1, 5]})))
    with pytest.raises(RefusedError, match=r"has 2 inputs \(\['x', 'y'\]\)"):
        asked(V2(FLAT, metadata=metadata({"name": "x"}, {"name": "y"})))
    with pytest.raises(RefusedError, match=r"whole numbers \(INT64\)"):
        asked(V2(FLAT), datatype="INT64")
    assert asked(V2(FLAT), torch.ones(4, 6), datatype="UINT8") == ROWS


@pytest.mark.costly
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_flat_and_nested_data_are_the_same(datatype: str) -> None:
    assert asked(V2({**FLAT, "datatype": datatype})) == ROWS
    assert asked(V2(output(ROWS, datatype=datatype))) == ROWS
    assert asked(V2(output([[row] for row in ROWS], datatype=datatype, shape=[4, 1, 3]))) == ROWS


def test_the_first_output_with_a_number_for_each_class_is_the_answer_else_labels() -> None:
    labels = output([0, 1, 2, 0], name="predict", datatype="INT64", shape=[4])
    names = output(["a", "b", "c", "a"], name="predict", datatype="BYTES", shape=[4, 1])
    hidden = output([0.0] * 20, name="hidden", shape=[4, 5])
    assert asked(V2(hidden, labels, FLAT)) == ROWS
    assert asked(V2(hidden, labels)) == [0, 1, 2, 0]
    assert asked(V2(hidden, names)) == ["a", "b", "c", "a"]
    assert asked(V2(output([[0], [1], [2], [0]], datatype="INT32", shape=[4, 1]))) == [0, 1, 2, 0]
    assert asked(V2(FLAT, names), output="predict") == ["a", "b", "c", "a"]
    assert asked(V2(output([0.5, 2.0, 1.0, 0.0], shape=[4, 1]))) == [[0.5], [2.0], [1.0], [0.0]]  # judged elsewhere
    assert asked(V2(output(list(range(8)), datatype="INT64", shape=[4, 2]))) == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.costly
@pytest.mark.parametrize(
    ("outputs", "why"),
    [
        ([], "no output at all"),
        ([output([0.5] * 11)], r"11 values .* for 4 records in the output 'scores'"),
        ([output([])], "0 values"),
        ([output(["x"] * 12)], "which are no numbers"),
        ([{**FLAT, "datatype": ["FP32"]}], "no text"),
        ([{**FLAT, "name": {"a": 1}}], "no text"),
        ([output([["a"], {}, 1, None], datatype="BYTES"), output([0.5] * 4)], "no names of classes"),
    ],
)
def test_what_is_no_answer_is_refused(outputs: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(InputError, match=why):
        asked(V2(*outputs))


@pytest.mark.costly
@pytest.mark.parametrize("body", [{}, [], "no", {"outputs": 3}, {"outputs": [{"name": "x"}]}, {"outputs": [None]}])
def test_a_body_without_outputs_is_refused(body: object) -> None:
    answer = V2()
    answer.body = body
    with pytest.raises(InputError, match="has no `outputs` with `data`"):
        asked(answer)


def test_an_output_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(InputError, match=r"the outputs 'scores, other', none of which is target.output=predict_proba"):
        asked(V2(FLAT, output([1], name="other")), output="predict_proba")


def test_the_identity_is_of_what_answers_depend_on_and_of_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIA_TOKEN", "very-secret")
    setup = setup_of(population_of(X))
    target = OpenInference(url="http://host", model="m")
    identities = []
    for other in (
        target,
        replace(target, url="http://other"),
        replace(target, model="n"),
        replace(target, version="1"),
        replace(target, input="i"),
        replace(target, output="o"),
        replace(target, datatype="FP64"),
    ):
        endpoint = other.connect(setup)
        identities.append(repr(endpoint.identity))
        endpoint.close()
    assert len(set(identities)) == len(identities)
    assert "very-secret" not in repr(identities) + repr(target)


def test_the_most_probable_classes_by_name_with_their_probabilities() -> None:
    names = output(list("abbacbab"), name="labels", datatype="BYTES", shape=[4, 2])
    shares = output([0.5, 0.25, 0.75, 0.125, 0.5, 0.25, 1.0, 0.0], name="probabilities", datatype="FP64", shape=[4, 2])
    assert asked(V2(names, shares)) == [
        {"a": 0.5, "b": 0.25},
        {"b": 0.75, "a": 0.125},
        {"c": 0.5, "b": 0.25},
        {"a": 1.0, "b": 0.0},
    ]
    assert asked(V2(shares, names), output="labels") == [["a", "b"], ["b", "a"], ["c", "b"], ["a", "b"]]
    assert asked(V2(FLAT, output(list("abca"), name="label", datatype="BYTES", shape=[4]))) == ROWS
    twice = output(list("aabacbab"), name="labels", datatype="BYTES", shape=[4, 2])
    with pytest.raises(InputError, match="which name a class twice for one record"):
        asked(V2(twice, shares))


def test_of_two_classes_one_number_for_each_record_is_the_answer() -> None:
    of_two = replace(population_of(X), class_names=("no", "yes"), label_N=torch.tensor([0, 1, 0, 1]))
    labels = output([0, 1, 1, 0], name="predict", datatype="INT64", shape=[4])
    p = output([0.25, 0.75, 1.0, 0.0], name="p", shape=[4, 1])
    both = output([0.75, 0.25] * 4, name="both", shape=[4, 2])
    assert asked(V2(labels, p), population=of_two) == [[0.25], [0.75], [1.0], [0.0]]
    assert asked(V2(labels, p, both), population=of_two) == [[0.75, 0.25]] * 4
    assert asked(V2(labels, p)) == [0, 1, 1, 0]  # of three classes


def test_named_tensors_are_sent_under_their_names_and_in_their_types() -> None:
    ids = torch.tensor([[1, 2, 0], [3, 0, 0], [1, 1, 1]])
    kinds = {"ids": {"kind": "tokens", "padding": 0, "mask": "mask"}}
    population = make_population({"ids": ids, "x": X[:3]}, [0, 1, 2], kinds=kinds)
    named = [{"name": name, "datatype": kind} for name, kind in (("x", "FP32"), ("ids", "INT32"), ("mask", "INT64"))]
    answer = V2(output([value for row in ROWS[:3] for value in row], shape=[3, 3]), metadata=metadata(*named))
    with connected(answer, population=population) as (endpoint, server):
        assert endpoint.ask(population.x_N) == ROWS[:3]
        assert endpoint.identity["form"]
    sent = {each["name"]: each for each in server.requests[-1][3]["inputs"]}
    assert (sent["ids"]["datatype"], sent["ids"]["shape"]) == ("INT32", [3, 3])
    assert sent["ids"]["data"] == ids.flatten().tolist()
    assert sent["mask"]["data"] == (ids != 0).long().flatten().tolist()
    assert torch.equal(torch.tensor(sent["x"]["data"]).view(3, 6), X[:3])


def test_named_tensors_without_metadata_go_without_the_mask() -> None:
    kinds = {"ids": {"kind": "tokens", "padding": 0, "mask": "mask"}}
    population = make_population({"ids": torch.tensor([[1, 2, 0]] * 3), "x": X[:3]}, [0, 1, 2], kinds=kinds)
    with connected(V2(output(ROWS[0] * 3, shape=[3, 3])), population=population) as (endpoint, server):
        endpoint.ask(population.x_N)
    assert {each["name"] for each in server.requests[-1][3]["inputs"]} == {"ids", "x"}


def test_named_tensors_that_the_model_does_not_take_are_refused() -> None:
    population = make_population({"a": X[:3], "b": X[:3]}, [0, 1, 2])
    for names in (("a", "c"), ("a",), ("a", "b", "c")):
        answer = V2(FLAT, metadata=metadata(*({"name": name, "datatype": "FP32"} for name in names)))
        with connected(answer, population=population) as (endpoint, _), pytest.raises(RefusedError) as caught:
            endpoint.ask(population.x_N)
        for part in (*names, "`a`", "`b`"):
            assert part in str(caught.value)


def test_gaps_are_not_sent() -> None:
    x = X[:3].clone()
    x[1, 2] = torch.nan
    kinds = {"a": {"kind": "numeric", "has_gaps": True}}
    population = make_population({"a": x, "b": X[:3]}, [0, 1, 2], kinds=kinds)
    with connected(V2(FLAT), population=population) as (endpoint, _), pytest.raises(RefusedError, match=r"`a`.*NaN"):
        endpoint.ask(population.x_N)
