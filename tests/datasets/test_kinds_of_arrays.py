"""Records, labels and constants of another kind than numbers in rows: one sentence that names which."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError

x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
label = np.arange(40) % 2
tensor = torch.from_numpy(x)


@pytest.mark.parametrize(
    ("records", "part"),
    [
        (tensor.to_sparse(), "layout sparse_coo"),
        (tensor.to_sparse(1), "layout sparse_coo"),
        (tensor.to_mkldnn(), "layout mkldnn"),
        (scipy.sparse.csr_matrix(x), "toarray()"),
        (scipy.sparse.coo_array(x), "toarray()"),
        (torch.empty(40, 5, device="meta"), "device meta"),
    ],
)
def test_records_without_all_their_numbers(records: Any, part: str) -> None:
    with pytest.raises(InputError, match=rf"^x of population 'mine' .*{re.escape(part)}"):
        make_population(records, label, name="mine")


@pytest.mark.parametrize(
    "column",
    [["a", "b"] * 20, pd.Categorical(["a", "b"] * 20), pd.array([None, 1] * 20, "Int64")],
    ids=["text", "categorical", "gaps"],
)
def test_a_table_is_refused_by_its_columns_that_are_no_numbers(column: Any) -> None:
    table = pd.DataFrame(x, columns=[*"vwxyz"])
    assert torch.equal(make_population(table, label).x_N, tensor)
    with pytest.raises(InputError, match=r"^x of population 'data' has columns .*'ward': .*load_table"):
        make_population(table.assign(ward=column), label)


@pytest.mark.parametrize("kind", [list, tuple])
def test_several_arrays_go_by_name(kind: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"^x of population 'data' is a (list|tuple) of 2 arrays .*by the names"):
        make_population(kind((x, x[:, :2])), label)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_records() -> None:
    nested = torch.nested.nested_tensor([torch.ones(5), torch.ones(5)])
    with pytest.raises(InputError, match=r"^x of population 'data' is a tensor of layout nested"):
        make_population(nested, [0, 1])


@pytest.mark.parametrize("labels", [torch.from_numpy(label).to_sparse(), torch.empty(40, device="meta")])
def test_labels_without_all_their_numbers(labels: Any) -> None:
    with pytest.raises(InputError, match=r"^label of population 'data' is "):
        make_population(x, labels)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"member": "x"}, "member of population 'data' has dtype <U1"),
        ({"member": [None] * 40}, "member of population 'data' has dtype object"),
        ({"scale": "x"}, "scale of population 'data' is 'x'"),
        ({"scale": True}, "scale of population 'data' is True"),
        ({"scale": torch.ones(5)}, "scale of population 'data' is a Tensor"),
        ({"mean": "x"}, "mean of population 'data' has dtype <U1"),
        ({"std": tensor[0].to_sparse()}, "std of population 'data' is a tensor of layout sparse_coo"),
        ({"remarks": "one"}, "remarks of population 'data' is 'one'"),
        ({"remarks": 5}, "remarks of population 'data' is 5"),
        ({"class_names": {"a", "b"}}, "class_names of population 'data' is a set"),
        ({"class_names": {0: "a", 1: "b"}}, "class_names of population 'data' is {0: 'a', 1: 'b'}"),
        ({"class_names": ["a\0", "b"]}, "class_names of population 'data' has 'a\\x00'"),
        ({"group": ["\udcff"] * 40}, "group_names of population 'data' has '\\udcff'"),
        ({"group": [[1], [2, 3]]}, "group of population 'data' is [[1], [2, 3]]"),
        ({"name": "\udcff"}, "name of population '\\udcff'"),
    ],
    ids=lambda value: ascii(value) if isinstance(value, str) else "",
)
def test_what_goes_with_the_records(given: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError) as refused:
        make_population(x, label, **given)
    assert part in str(refused.value)


@pytest.mark.parametrize("kind", [float, np.float64, lambda value: np.full(5, value), lambda value: [value] * 5])
def test_constants_may_be_numbers(kind: Callable[[float], Any]) -> None:
    made = make_population(x, label, mean=kind(0.5), std=kind(2.0))
    expected = (tensor - 0.5) / 2
    torch.testing.assert_close(made.records(torch.arange(40)), expected)


def test_a_population_that_is_built_without_make_population() -> None:
    fields: dict[str, Any] = {"name": "p", "x_N": tensor, "label_N": torch.from_numpy(label), "class_names": ("a", "b")}
    for name, value in (("x_N", x), ("label_N", [0, 1]), ("class_names", ["a", "b"]), ("mean", 0.5), ("name", 5)):
        with pytest.raises(InputError, match=name.removesuffix("_N")):
            Population(**{**fields, name: value})


def test_a_class_of_one_record_is_named() -> None:
    alone = np.where(np.arange(40) == 7, 2, label)
    (remark,) = make_population(x, alone, class_names=["a", "b", "rare"]).remarks
    assert "'rare'" in remark
    assert "a single record" in remark
