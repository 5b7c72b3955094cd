"""Limits hold before a body is read: what would take time and memory is counted first."""

import asyncio
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import save
from serving import served

from mia_lightning.serve import app, records, training
from mia_lightning.serve.records import Form, check_answers, numbers, parsed
from mia_lightning.serve.refusals import RefusedError

V1, V2 = "/v1/models/target:predict", "/v2/models/target/infer"
JSON, CSV = {"Content-Type": "application/json"}, {"Content-Type": "text/csv"}


def never(*_: object, **__: object) -> NoReturn:
    raise AssertionError("the body is read")


def said(response: httpx.Response) -> tuple[int, str]:
    assert list(response.json()) == ["error"]
    return response.status_code, response.json()["error"]


@pytest.mark.parametrize("path", [V1, V2, "/invocations"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"instances": [' + b"[]," * 30_000 + b"[]]}", 413),
        (b"[" + b"{}," * 30_000 + b"{}]", 413),
        (b'{"instances": [[' + b"0," * 700_000 + b"0]]}", 413),
        (b"[" + b'"",' * 40_000 + b"0]", 413),
        (b'"' + b"\\" * 50_000, 413),
        (b'"' * 70_000, 413),
        (b"[" * 100_000, 400),
        (b"[]" * 10 + b"[" * 2_000_000, 400),
        (b" " * 3_000_000 + b"[" * 25, 400),  # in another block of bytes than the first
    ],
    ids=["lists", "objects", "numbers", "texts", "escapes", "quotes", "depth", "much depth", "late depth"],
)
def test_json_is_not_read_that_no_records_have(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, path: str, body: bytes, status: int
) -> None:
    monkeypatch.setattr(records, "json", SimpleNamespace(loads=never, JSONDecodeError=json.JSONDecodeError))
    assert said(client.post(path, content=body, headers=JSON))[0] == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"0\n" * 40_000, 413),
        (b"\n" * 40_000, 413),
        (b"0\n" * 20_000, 413),
        (b",".join([b"0"] * 64) + b"\n" + b"0," * 700_000, 400),
        (b"0," * 700_000, 400),
        (b"9" * 1_000_000, 400),
    ],
)
def test_csv_is_not_read_that_no_records_have(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, body: bytes, status: int
) -> None:
    monkeypatch.setattr(records, "float", never, raising=False)
    assert said(client.post("/invocations", content=body, headers=CSV))[0] == status


@pytest.mark.costly
@pytest.mark.parametrize("shape", [(1,), (64,), (3, 4, 5), (5, 1, 1), (1, 1, 5), (2, 1, 3, 1)])
def test_the_most_records_may_come_in_any_form(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(records, "_SPARE", 4)
    form = Form(shape=shape, dtype=torch.float32, max_records=500)
    x_B = np.zeros((500, *shape))
    for content in (
        {"instances": x_B.tolist()},
        {"instances": x_B.reshape(500, -1).tolist()},
        {"instances": [{"input": each} for each in x_B.tolist()]},
        {"data": x_B.ravel().tolist()},
        x_B.tolist(),
    ):
        assert parsed(json.dumps(content).encode(), form) == content
    lines = "".join(",".join(["0"] * math.prod(shape)) + "\r\n" for _ in x_B)
    np.testing.assert_array_equal(form.rows(lines.encode()), x_B.reshape(500, -1))
    with pytest.raises(RefusedError, match="has 501 records"):
        form.rows(lines.encode() + lines.encode()[: len(lines) // 500])


@pytest.mark.parametrize("body", [b"1_0,2", b"1,2\n3", b"1,x", b"1,2\r3,4", "1,٢".encode(), b"\xff,1", b"1;2"])
def test_csv_that_is_no_numbers(body: bytes) -> None:
    with pytest.raises(RefusedError, match="no CSV of numbers, 2 to a line") as raised:
        Form(shape=(2,), dtype=torch.float32).rows(body)
    assert raised.value.status == 400


def test_one_long_text_among_many_takes_no_room() -> None:
    """As an array of texts this would take 4 TB."""
    with pytest.raises(TypeError):
        numbers(["a" * 10**7, *[""] * 10**5])


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ([[1], [1, 2]], ValueError),
        ([[1, 2], 3], ValueError),
        ([[], [1]], ValueError),
        ([{}], TypeError),
        ([None], TypeError),
        (["1"], TypeError),
        ([2**64], TypeError),
    ],
)
def test_lists_that_are_no_array_of_numbers(values: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        numbers(values)


def test_numbers_keep_their_kind() -> None:
    assert numbers([True, False]).dtype == np.uint8
    assert numbers([2**63, 1]).tolist() == [2**63, 1]
    assert numbers([[-(2**63)]]).tolist() == [[-(2**63)]]
    assert numbers([1, 0.5, True]).tolist() == [1.0, 0.5, 1.0]


def test_a_body_in_small_pieces_is_one_body(run_folder: Path) -> None:
    body = json.dumps({"instances": [[0] * 64]}).encode()
    with served(str(run_folder), "--max-bytes", str(len(body))) as client:
        for more, status in ((b"", 200), (b" ", 413)):
            pieces = (bytes([each]) for each in body + more)
            assert client.post(V1, content=pieces, headers=JSON).status_code == status


def test_a_body_that_drips_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "LONGEST_BODY", 0.2)
    came: list[str] = []

    async def receive() -> Any:
        if came:  # the first piece is there at once
            await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def read() -> None:
        in_time = app._in_time(receive)
        while True:
            came.append((await in_time())["type"])

    with pytest.raises(RefusedError) as raised:
        asyncio.run(read())
    assert raised.value.status == 408
    assert came


def test_the_wait_for_a_client_to_leave_has_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "LONGEST_BODY", 0.2)
    messages = [{"type": "http.request", "body": b"{}"}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        message = messages.pop(0)
        await asyncio.sleep(0.3 if message["type"] == "http.disconnect" else 0)
        return message

    async def read() -> list[str]:
        in_time = app._in_time(receive)
        return [(await in_time())["type"] for _ in range(2)]

    assert asyncio.run(read()) == ["http.request", "http.disconnect"]


def test_an_answer_that_is_no_number_is_refused() -> None:
    with pytest.raises(RefusedError, match="for record 1 the model's answer is not a number"):
        check_answers(torch.tensor([[0.5, 0.5], [torch.nan, 0.0]]))


def test_a_header_of_safetensors_is_not_read_that_two_tensors_do_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    content = save({str(n): torch.zeros(1) for n in range(1000)})
    monkeypatch.setattr(training, "load", never)
    with pytest.raises(RefusedError, match="the body is no safetensors"):
        training._tensors(content, ("x",))
