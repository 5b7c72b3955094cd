"""A training service whose server is broken or hostile: an answer, or one sentence."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_server import RawServer, http
from safetensors.torch import save
from strange_answers import SECRET, is_one_sentence, junk, near

from mia_lightning.errors import InputError
from mia_lightning.targets import http_client
from mia_lightning.targets.services.http import HttpService
from mia_lightning.targets.services.interface import ServiceJob

X = torch.arange(12, dtype=torch.float32).reshape(4, 3)
JOBS = [ServiceJob(name=f"target {k}", x_N=X, label_N=torch.tensor([0, 1, 0, 1]), num_classes=2) for k in range(2)]
PROBABILITY = torch.tensor([[0.25, 0.75]] * 4, dtype=torch.float64)
DONE = {"state": "done", "models": {"target 0": "target 0", "target 1": None}}


@pytest.fixture(autouse=True, scope="module")
def _token() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_TOKEN", SECRET)
        yield


class _WaitedEnoughError(Exception):
    pass


@dataclass
class Server:
    """Answers of each route; `made` is of the project, `state` of its training, `predicted` of a model."""

    made: bytes = json.dumps({"project": "p", "service": "scripted"}).encode()
    state: bytes = json.dumps(DONE).encode()
    predicted: bytes = save({"probability": PROBABILITY})
    other: bytes = b"{}"
    waits: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def pieces(self, request: bytes) -> list[bytes]:
        method, path, _ = request.split(b" ", 2)
        if path == b"/v1/projects":
            return [http(self.made)]
        if path.endswith(b":predict"):
            return [http(self.predicted)]
        return [http(self.state if method == b"GET" else self.other)]

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        if len(self.waits) > 8:
            raise _WaitedEnoughError

    def ask(self, pieces: Callable[[bytes], Any] | None = None) -> Any:
        """The models' names, and the answer of the first."""
        with RawServer(pieces or self.pieces) as server:
            service = HttpService(
                "scripted", server.url, token_variable="MY_TOKEN", wait=self.wait, note=self.notes.append
            )
            names = service.train(JOBS)
            model = names[0]
            return names, None if model is None else service.predict(model, X)


def refusal(server: Server, pieces: Callable[[bytes], Any] | None = None) -> str:
    with pytest.raises(InputError) as refused:
        server.ask(pieces)
    assert is_one_sentence(str(refused.value))
    return str(refused.value)


def test_a_server_that_is_as_it_should_be() -> None:
    names, probability = Server().ask()
    assert names == ["target 0", None]
    assert torch.equal(probability, PROBABILITY)


@pytest.mark.parametrize(
    "made", [{}, [], {"service": ["scripted"]}, {"service": "scripted"}, {"service": "scripted", "project": 3}]
)
def test_a_project_that_is_none(made: Any) -> None:
    assert "`target.url`" in refusal(Server(made=json.dumps(made).encode()))


@pytest.mark.parametrize(
    "state",
    [
        {"state": "done"},
        {"state": "done", "models": None},
        {"state": "done", "models": [["target 0", "a"]]},
        {"state": "done", "models": {"target 0": "a"}},
        {"state": "done", "models": {"target 0": "a", "target 1": ["b"]}},
        {"state": 3},
        {"state": ["done"]},
        {"state": "failed", "error": {"\x1b[31m": [1]}},
        {"state": "failed"},
        {},
    ],
)
def test_a_state_that_is_none(state: Any) -> None:
    sentence = refusal(Server(state=json.dumps(state).encode()))
    assert "could not train" in sentence or "`target.url`" in sentence


@pytest.mark.costly
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04pickle",
        b"\xff" * 100,
        save({"other": PROBABILITY}),
        save({"probability": PROBABILITY})[:-1],
        save({"probability": PROBABILITY.long()}),
        save({"probability": PROBABILITY.to(torch.float8_e4m3fn)}),
        (2**63).to_bytes(8, "little") + b"{}",
        (8).to_bytes(8, "little") + b"[" * 8,
    ],
    ids=len,
)
def test_probabilities_that_are_none(content: bytes) -> None:
    assert "cannot be read" in refusal(Server(predicted=content))


def test_a_body_that_never_ends_is_read_no_further_than_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "LARGEST_BODY", 2**20)
    sent = 0

    def endless(_: bytes) -> Any:
        nonlocal sent
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        while sent < 2**26:
            yield b"8000\r\n" + b" " * 0x8000 + b"\r\n"
            sent += 0x8000

    assert "1 MiB" in refusal(Server(), endless)
    assert sent < 2**25


def test_a_pause_that_the_server_asks_for_is_told_and_kept() -> None:
    server = Server()
    answers = iter([("429 Busy", "90"), ("503 Busy", "99999999"), ("503 Busy", "0"), ("503 Busy", "soon")])

    def pieces(request: bytes) -> list[bytes]:
        status, after = next(answers, ("", ""))
        return [http(b"", status, Retry_After=after)] if status else server.pieces(request)

    server.ask(pieces)
    assert server.waits[:2] == [90.0, 600.0]
    assert server.waits[2] > 0  # though the server asks for none
    assert 0 < server.waits[3] <= 2
    assert len(server.notes) == 2
    assert "90 s" in server.notes[0]
    assert "10 min" in server.notes[1]


states = near(DONE) | near({"state": "failed", "error": "a sentence"}) | near({"state": "training"}) | junk


@settings(max_examples=60, deadline=None)
@given(
    made=near({"project": "p", "service": "scripted"}), state=states, cut=st.integers(0, 400), flip=st.integers(0, 400)
)
def test_any_service_is_an_answer_or_one_sentence(made: Any, state: Any, cut: int, flip: int) -> None:
    content = bytearray(Server().predicted)
    if flip < len(content):
        content[flip] ^= 0x21
    server = Server(made=made, state=state, predicted=bytes(content[: cut or None] if cut < 300 else content))
    sentence = "An answer."
    try:
        names, probability = server.ask()
    except InputError as error:
        sentence = str(error)
    except _WaitedEnoughError:
        pass  # a training may last
    else:
        assert all(isinstance(name, str | None) for name in names)
        assert probability is None or probability.is_floating_point()
    assert is_one_sentence(sentence)


def test_the_fuzzer_would_see_a_secret() -> None:
    assert not is_one_sentence(f"A {SECRET[:10]}.")
    assert not is_one_sentence("A\x1b[1m.")
    assert is_one_sentence("A sentence.")
