"""Strategies: requests that are nearly right, and requests that are anything."""

import copy
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
import torch
from hypothesis import strategies as st
from safetensors.torch import save

WORDS = ("instances", "inputs", "outputs", "name", "shape", "datatype", "data", "id", "parameters", "x", "label", "")
TEXTS = st.sampled_from(
    [*WORDS, "UINT8", "BOOL", "FP64", "probabilities", "\ud800", "\0", "é" * 40, "1", "nan"]
) | st.text(max_size=5)
INTEGERS = st.integers(-2, 70) | st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**18, 10**30, 10**400, 10**4200])
FLOATS = st.floats() | st.sampled_from([1e308, -1e308, 5e-324])
SIZES = st.sampled_from([1, 25, 1000, 60_000])
LEAVES = st.none() | st.booleans() | INTEGERS | FLOATS | TEXTS


def nested(value: Any, depth: int) -> Any:
    """The value in so many lists."""
    for _ in range(depth):
        value = [value]
    return value


BROAD = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TEXTS, inner, max_size=4)
        | st.builds(lambda value, count: [value] * count, inner, st.sampled_from([1, 2, 63, 64, 65]))
    ),
    max_leaves=8,
)
VALUES = BROAD | st.builds(nested, BROAD, st.sampled_from([20, 70, 400]))  # deep once: json.dumps recurses too


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request, so that a failing example can be read."""

    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def of(self, client: httpx.Client) -> httpx.Response:
        headers = [(name.encode(), value.encode("latin-1")) for name, value in self.headers.items()]
        return client.request(self.method, self.path, content=self.body, headers=headers)


def places(node: Any) -> list[tuple[Any, ...]]:
    """The ways to what is in a JSON value: of long lists to their first and last, and none longer than 30 steps."""
    found, level = [], [((), node)]
    for _ in range(30):  # no recursion: how deep Python may go depends on who calls
        found += [way for way, _ in level]
        level = [((*way, key), value) for way, inner in level for key, value in parts(inner)]
    return found


def parts(node: Any) -> list[tuple[Any, Any]]:
    """What is directly in a JSON value, with its keys."""
    if isinstance(node, dict):
        return list(node.items())
    return [(at, node[at]) for at in {0, len(node) - 1}] if isinstance(node, list) and node else []


@st.composite
def changed(draw: st.DrawFn, right: Any) -> Any:
    """A JSON value with something in it replaced, left out or doubled."""
    made = copy.deepcopy(right)
    for _ in range(draw(st.integers(1, 3))):
        way = draw(st.sampled_from(places(made)))
        if not way:
            made = draw(VALUES)
            continue
        inner = made
        for key in way[:-1]:
            inner = inner[key]
        how = draw(st.sampled_from(["replace", "remove", "double", "add"]))
        if how == "remove":
            del inner[way[-1]]
        elif how == "replace":
            inner[way[-1]] = draw(VALUES)
        elif isinstance(inner, dict):
            inner[draw(TEXTS)] = draw(VALUES) if how == "add" else inner[way[-1]]
        else:
            inner.insert(way[-1], draw(VALUES) if how == "add" else inner[way[-1]])
    return made


@st.composite
def spoilt(draw: st.DrawFn, right: bytes) -> bytes:
    """Bytes of which some are replaced, left out or repeated."""
    made = right
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(made)))
        end = draw(st.integers(start, min(len(made), start + 20)))
        middle = draw(
            st.binary(max_size=6) | st.sampled_from([made[start:end] * 50, b'"', b"\\", b"\xff", b"[" * 30, b"{"])
        )
        made = made[:start] + middle + made[end:]
    return made


def json_bodies(right: Any) -> st.SearchStrategy[bytes]:
    """Right ones, changed ones, and what is no JSON."""
    text = json.dumps(right).encode()
    encoded = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])
    return st.one_of(
        st.just(text),
        changed(right).map(lambda value: json.dumps(value).encode()),
        changed(right).map(lambda value: json.dumps(value).encode()),
        spoilt(text),
        st.binary(max_size=60),
        st.builds(lambda name: json.dumps(right).encode(name), encoded),
        st.builds(
            lambda mark, count: mark * count, st.sampled_from([b"[", b'{"a":', b'"', b"\\", b"[],", b"1", b"-"]), SIZES
        ),
    )


CELLS = st.sampled_from(["0", "1.5", "-1", "nan", "inf", "1e999", "1_0", "", " 2 ", "x", "١", '"1"']) | st.floats().map(
    str
)


@st.composite
def csv_bodies(draw: st.DrawFn, size: int) -> bytes:
    """Lines of about so many cells."""
    rows = draw(
        st.lists(
            st.builds(
                lambda cell, count: ",".join([cell] * count), CELLS, st.sampled_from([1, size - 1, size, size + 1])
            ),
            max_size=4,
        )
    )
    text = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\x0b"])).join(rows) * draw(
        st.sampled_from([1, 1, 1, 30_000 // (1 + len(rows))])
    )
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-16"])), "replace") + draw(
        st.sampled_from([b"", b"\n", b"\xff"])
    )


DTYPES = st.sampled_from(["F32", "F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "U64", "F8_E4M3", "C64", "Q3", ""])
TENSOR = st.fixed_dictionaries(
    {
        "dtype": DTYPES,
        "shape": st.lists(st.sampled_from([0, 1, 2, 4, 6, 2**40]), max_size=4),
        "data_offsets": st.just([0, 96]),
    }
)


@st.composite
def safetensors_bodies(draw: st.DrawFn, right: dict[str, torch.Tensor]) -> bytes:
    """Right ones, other tensors, changed headers, and what is none."""
    content = save(right)
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    kind = draw(st.sampled_from(["right", "spoilt", "header", "tensors", "bytes", "deep", "long"]))
    if kind == "right":
        return content
    if kind == "spoilt":
        return draw(spoilt(content))
    if kind == "bytes":
        return draw(st.binary(max_size=80))
    if kind == "tensors":
        shape = draw(st.lists(st.integers(0, 5), max_size=4))
        fill = draw(st.sampled_from([0.0, 1.0, -1.0, float("nan"), 1e30]))
        dtype = draw(
            st.sampled_from([torch.float32, torch.int64, torch.bool, torch.float16, torch.uint8, torch.complex64])
        )
        of_float = torch.full(shape, fill).nan_to_num(7.0) if not dtype.is_floating_point else torch.full(shape, fill)
        return save({**right, draw(st.sampled_from(["x", "label", "z"])): of_float.to(dtype)})
    if kind == "deep":
        header["x"] = {"dtype": "F32", "shape": [1] * draw(st.sampled_from([30, 70, 900])), "data_offsets": [0, 4]}
        header, data = {"x": header["x"]}, data[:4]
    elif kind == "header":
        header = draw(changed(header) | st.dictionaries(TEXTS, TENSOR, max_size=3))
    text = json.dumps(header).encode()
    length = draw(st.sampled_from([len(text), len(text), 0, 2**62, len(text) + 1])) if kind == "long" else len(text)
    return length.to_bytes(8, "little") + text + data


HEADERS = st.dictionaries(
    st.sampled_from(
        ["Accept", "Content-Encoding", "X-Own", "Inference-Header-Content-Length", "Range", "Cookie", "TE"]
    ),
    st.sampled_from(["", "gzip", "text/csv", "*/*", "application/json", "0", "-1", "\u00e9", "a" * 500]),
    max_size=2,
)
FOREIGN = st.sampled_from(
    [
        *(
            {"Host": host}
            for host in ("evil.example", "", "127.0.0.1.evil.example", "[::1", "localhost@evil.example", "a b")
        ),
        *(
            {"Origin": origin}
            for origin in ("null", "", "http://evil.example", "http://127.0.0.1:1", "https://localhost")
        ),
    ]
)
TYPES = st.sampled_from(
    ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "text/csv", "application/octet-stream"]
)
OTHER_TYPES = st.sampled_from(
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", ";", "json"]
)


@st.composite
def requests(
    draw: st.DrawFn, routes: dict[str, st.SearchStrategy[tuple[str, bytes]]], others: tuple[str, ...]
) -> Asked:
    """A request.

    Args:
        routes: those that take a body, with their types and bodies.
        others: those that take none.
    """
    path = draw(st.sampled_from([*routes, *routes, *others]))
    type_, body = draw(routes[path]) if path in routes else ("", b"")
    headers = {"Content-Type": type_} if type_ else {}
    method = "POST" if path in routes else "GET"
    odd = draw(st.sampled_from(["", "", "", "", "", "method", "path", "type", "headers", "foreign", "body"]))
    if odd == "method":
        method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "ODD"]))
    elif odd == "path":
        text = quote(draw(st.text(st.characters(codec="utf-8"), max_size=8)), safe="/")
        path = draw(
            st.sampled_from([f"{path}{text}", f"/{text}", f"{path}?{text}", path.replace("1", text), f"/{text}{path}"])
        )
    elif odd == "type":
        headers = {"Content-Type": draw(TYPES | OTHER_TYPES)}
    elif odd == "headers":
        headers |= draw(HEADERS)
    elif odd == "foreign":
        headers |= draw(FOREIGN)
    elif odd == "body":
        body = draw(st.binary(max_size=30) | st.builds(lambda count: b" " * count, SIZES))
    return Asked(method=method, path=path, body=body, headers=headers)
