import re
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from quick import quick_audit

import mia_lightning as mia
from mia_lightning.datasets import Population, make_population
from mia_lightning.errors import InputError

X = torch.arange(12.0).reshape(4, 3)
LABEL = torch.tensor([0, 1, 1, 0])


def images(seed: int = 0) -> Population:
    generator = np.random.default_rng(seed)
    return make_population(
        generator.integers(0, 256, (6, 3, 4, 5), dtype=np.uint8),
        np.array([0, 1, 2, 0, 1, 2]),
        name="images",
        scale=1 / 255,
        mean=torch.tensor([0.5, 0.4, 0.3]).reshape(3, 1, 1),
        std=torch.tensor([0.2, 0.3, 0.4]).reshape(3, 1, 1),
    )


def test_images_stay_uint8_and_are_normalised_when_they_are_read() -> None:
    population = images()
    assert population.x_N.dtype == torch.uint8
    assert population.input_shape == (3, 4, 5)
    index = torch.tensor([[5, 0], [2, 2]])
    found = population.records(index)
    assert found.dtype == torch.float32
    x = population.x_N.numpy().astype(np.float64)
    for position in np.ndindex(2, 2):
        for channel, (mean, std) in enumerate([(0.5, 0.2), (0.4, 0.3), (0.3, 0.4)]):
            expected = (x[index[position], channel] / 255 - mean) / std
            np.testing.assert_allclose(found[(*position, channel)].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_records_take_the_dtype_that_is_asked_for() -> None:
    assert images().records(torch.tensor([1]), torch.float64).dtype == torch.float64


@given(
    x=npst.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 4))),
    scale=st.floats(1e-3, 1e3),
)
def test_scale_multiplies_every_value(x: np.ndarray, scale: float) -> None:
    population = make_population(x, np.arange(len(x)), class_names=list("abcde"), scale=scale)
    found = population.records(torch.arange(len(x)), torch.float64).numpy()
    np.testing.assert_allclose(found, x * np.float64(scale), rtol=1e-12)


def test_to_moves_every_tensor_and_keeps_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    population = replace(images(), member_N=torch.tensor([True, False] * 3))
    assert population.to("cpu") is population
    # The meta device is there on every machine, but holds no values to check.
    monkeypatch.setattr("mia_lightning.datasets.population.check_population", lambda _: None)
    moved = population.to("meta")
    for field in fields(Population):
        before, after = getattr(population, field.name), getattr(moved, field.name)
        if isinstance(before, torch.Tensor):
            assert (after.device.type, after.shape, after.dtype) == ("meta", before.shape, before.dtype)
        else:
            assert after == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_records_are_the_same_on_the_accelerator() -> None:
    population, index = images(), torch.tensor([3, 1])
    moved = population.to("cuda")
    assert moved.device.type == moved.label_N.device.type == "cuda"
    assert moved.fingerprint() == population.fingerprint()
    torch.testing.assert_close(moved.records(index.cuda()).cpu(), population.records(index))


def test_fingerprint_is_of_values_labels_order_shape_and_type() -> None:
    base = make_population(X, LABEL)
    assert base.fingerprint() == make_population(X.clone(), LABEL.clone(), name="other").fingerprint()
    order = torch.tensor([1, 0, 2, 3])
    changed = [
        make_population(X[order], LABEL[order]),
        make_population(X[order], LABEL),
        make_population(X + (X == 5), LABEL),
        make_population(X, 1 - LABEL),
        make_population(X.reshape(4, 3, 1), LABEL),
        make_population(X.to(torch.uint8), LABEL),
    ]
    assert len({each.fingerprint() for each in [base, *changed]}) == len(changed) + 1


def test_fingerprint_does_not_depend_on_strides() -> None:
    assert make_population(X.T.contiguous().T, LABEL).fingerprint() == make_population(X, LABEL).fingerprint()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("float16", torch.float16),
        ("float32", torch.float32),
        ("float64", torch.float32),
        ("longdouble", torch.float32),
        (">f4", torch.float32),
        (">f8", torch.float32),
        ("uint8", torch.uint8),
        ("int16", torch.int16),
        (">i4", torch.int32),
        ("int64", torch.int64),
        ("uint16", torch.int64),
        ("uint64", torch.int64),
        ("bool", torch.uint8),
    ],
)
def test_numpy_types(given: str, kept: torch.dtype) -> None:
    x = np.array([[0, 1], [1, 0]]).astype(given)
    population = make_population(x, np.array([0, 1], "uint16"))
    assert population.x_N.dtype == kept
    assert population.label_N.dtype == torch.int64
    assert population.x_N.tolist() == [[0, 1], [1, 0]]
    assert population.label_N.tolist() == [0, 1]
    assert len(population.fingerprint()) == 64


@pytest.mark.parametrize(
    ("given", "kept"),
    [(torch.float64, torch.float32), (torch.bool, torch.uint8), (torch.uint16, torch.int64)],
)
def test_tensor_types(given: torch.dtype, kept: torch.dtype) -> None:
    population = make_population(torch.tensor([[0, 1], [1, 0]]).to(given), torch.tensor([0, 1]))
    assert population.x_N.dtype == kept
    assert population.x_N.tolist() == [[0, 1], [1, 0]]


def test_numpy_views_that_torch_cannot_hold() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    x.flags.writeable = False
    assert make_population(x[::-1], np.array([0, 1])[::-1]).x_N.tolist() == [[3, 4, 5], [0, 1, 2]]
    assert make_population(x, np.array([0, 1])).x_N.tolist() == x.tolist()


def test_classes_are_named_by_number_or_as_given() -> None:
    assert make_population(X, torch.tensor([0, 2, 2, 0])).class_names == ("0", "1", "2")
    named = make_population(X, LABEL, class_names=["cat", "dog", "never seen"])
    assert (named.class_names, named.num_classes) == (("cat", "dog", "never seen"), 3)


def test_members_as_numpy_or_tensor() -> None:
    member = np.array([True, False, True, False])
    for given_as in (member, torch.from_numpy(member)):
        population = make_population(X, LABEL, member=given_as)
        assert population.member_N is not None
        assert population.member_N.tolist() == member.tolist()


def bad(**changes: object) -> dict[str, object]:
    return {"x": X, "label": LABEL, "name": "mine", **changes}


NAN = X.clone()
NAN[2, 1] = torch.nan
NAN[3, 0] = torch.nan
DEEP = torch.zeros(4, 2, 3, 3)
DEEP[1, 0, 2, 1] = -torch.inf
REFUSED = {
    "x without features": (bad(x=X[:, 0]), r"x of population 'mine' has shape \(4,\): give it the shape"),
    "x of no features": (bad(x=X[:, :0]), r"has shape \(4, 0\).*at least one feature"),
    "x of text": (bad(x=np.array([["a"]] * 4)), "x of population 'mine' has dtype <U1: give numbers"),
    "x of objects": (bad(x=np.array([[None]] * 4)), "has dtype object: give numbers"),
    "x complex numpy": (bad(x=np.zeros((4, 1), complex)), "has dtype complex128: give numbers"),
    "x complex": (bad(x=X.to(torch.complex64)), "has dtype torch.complex64: give numbers"),
    "lengths": (bad(label=LABEL[:3]), r"has 4 records in x but labels of shape \(3,\): give one label"),
    "label of three axes": (bad(label=LABEL[:, None, None]), r"labels of shape \(4, 1, 1\): give one label"),
    "label of two axes": (
        bad(label=LABEL[:, None].expand(4, 2)),
        r"rows of 2 numbers, and that of record 0 is \[0, 0\]",
    ),
    "no records": (bad(x=X[:0], label=LABEL[:0]), "population 'mine' has no records: give"),
    "float labels": (
        bad(label=LABEL.double() / 2),
        "has dtype torch.float64 and is 0.5 at record 1, .* give class numbers of an integer type.* task=regression",
    ),
    "float labels numpy": (
        bad(label=np.full(4, 0.25)),
        "has dtype float64 and is 0.25 at record 0, .* give class numbers of an integer type",
    ),
    "labels of bytes": (
        bad(label=np.array(list("abab")).astype("S")),
        "label of population 'mine' has dtype .S1: give",
    ),
    "one class": (bad(label=LABEL * 0), "population 'mine' has 1 class: .* at least two classes"),
    "no class": (bad(class_names=[]), "population 'mine' has 0 class"),
    "negative label": (
        bad(label=LABEL - 1),
        "label -1 of record 0 of population 'mine' is outside 0 to 0|1 class",
    ),
    "label below": (bad(label=torch.tensor([0, 1, -1, 3])), "label -1 of record 2 .* is outside 0 to 3"),
    "label above": (bad(label=LABEL * 2, class_names=["a", "b"]), "label 2 of record 1 .* outside 0 to 1"),
    "names twice": (bad(class_names=["a", "b", "a"]), "class name 'a' of population 'mine' appears twice"),
    "NaN": (bad(x=NAN), "record 2 of population 'mine' has the value nan at feature 1: replace or leave out"),
    "infinite image": (bad(x=DEEP), "record 1 .* has the value -inf at feature 0, 2, 1: replace"),
    "beyond float32": (bad(x=np.full((4, 1), 1e300)), "record 0 .* inf at feature 0: .* finite in float32"),
    "member short": (bad(member=np.ones(3, bool)), r"member of population 'mine' has shape \(3,\) and dtype"),
    "member dtype": (bad(member=LABEL), r"dtype torch.int64: give one bool for each of the 4 records"),
    "mean shape": (bad(mean=torch.zeros(2)), r"mean of population 'mine' has shape \(2,\), which does not"),
    "mean axes": (bad(mean=torch.zeros(1, 3)), r"shape \(1, 3\), which does not broadcast .* shape \(3,\)"),
    "mean NaN": (bad(mean=torch.tensor([torch.nan])), r"mean \[nan\] of population 'mine' must be finite$"),
    "std zero": (bad(std=torch.tensor([1.0, 0.0, 1.0])), r"std \[1.0, 0.0, 1.0\] .* finite and above zero"),
    "scale zero": (bad(scale=0.0), "scale 0.0 of population 'mine' must be finite and not zero"),
    "scale infinite": (bad(scale=float("inf")), "scale inf of population 'mine' must be finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    arguments, sentence = REFUSED[case]
    with pytest.raises(InputError, match=sentence):
        make_population(**arguments)  # type: ignore[arg-type]


def test_refused_when_built_without_make_population() -> None:
    def build(x: torch.Tensor = X, label: torch.Tensor = LABEL) -> None:
        Population(name="mine", x_N=x, label_N=label, class_names=("a", "b"))

    build()
    with pytest.raises(InputError, match=re.escape("label of population 'mine' has dtype torch.int32")):
        build(label=LABEL.int())
    with pytest.raises(InputError, match="x of population 'mine' is complex: give real numbers"):
        build(x=X.to(torch.complex64))
    with pytest.raises(InputError, match="'mine' lie on cpu and meta: put them on one device"):
        build(label=LABEL.to("meta"))


def test_lists_are_taken_as_arrays() -> None:
    population = make_population([[0.5, 1], [2, 3], [4, 5]], [0, 1, 1], name=5, member=[True, False, True])
    assert population.name == "5"
    assert population.x_N.tolist() == [[0.5, 1], [2, 3], [4, 5]]
    assert population.label_N.tolist() == [0, 1, 1]
    assert population.member_N.tolist() == [True, False, True]
    with pytest.raises(InputError, match=r"x of population 'data' is no array .* rows of equal length"):
        make_population([[1, 2], [3]], [0, 1])
    with pytest.raises(InputError, match=r"label of population 'data' has dtype float64"):
        make_population([[1], [2]], [0.0, 1.5])


def test_numbers_of_which_more_would_be_classes_than_there_are_records_are_names_unless_these_are_given() -> None:
    for highest in (600_000, 4, 10**12):
        made = make_population(X, torch.tensor([0, 1, highest, 0]))
        assert (made.label_N.tolist(), made.class_names) == ([0, 1, 2, 0], ("0", "1", str(highest)))
        assert f"0, 1, {highest} are the classes 0 to 2" in made.remarks[0]
    named = make_population(X, torch.tensor([0, 1, 4, 0]), class_names=list("abcde"))
    assert (named.num_classes, named.label_N.tolist()) == (5, [0, 1, 4, 0])


@pytest.mark.parametrize("class_names", ["ab", 5])
def test_class_names_are_a_list(class_names: object) -> None:
    with pytest.raises(InputError, match=r"class_names of population 'data' is .*: give a list"):
        make_population(X, LABEL, class_names=class_names)


def test_masked_values_are_refused_and_a_mask_of_none_is_nothing() -> None:
    x = np.ma.masked_array(np.arange(8.0).reshape(4, 2), mask=np.eye(4, 2, dtype=bool))
    with pytest.raises(InputError, match=r"x of population 'data' has 2 masked values, and a mask is not kept: fill"):
        make_population(x, [0, 1, 0, 1])
    with pytest.raises(InputError, match="label of population 'data' has 1 masked values"):
        make_population(x.data, np.ma.masked_array([0, 1, 0, 1], mask=[0, 0, 0, 1]))
    whole = make_population(np.ma.masked_array(x.data), [0, 1, 0, 1])
    assert whole.x_N.tolist() == x.data.tolist()


@pytest.mark.parametrize(
    ("shape", "is_said"),
    [
        ((9, 8, 3), True),
        ((28, 28, 1), True),
        ((32, 32, 4), True),
        ((3, 8, 8), False),
        ((1, 8, 3), False),
        ((64,), False),
    ],
)
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_channels_at_the_end_are_said(shape: tuple[int, ...], is_said: bool, kind: Any) -> None:
    remarks = make_population(kind(np.random.default_rng(0).random((30, *shape))), [0, 1] * 15).remarks
    assert [str(shape) in each and "x.transpose(0, 3, 1, 2)" in each for each in remarks] == [True] * is_said


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, lambda x: np.asarray(x).tolist()])
def test_features_that_look_like_identifiers_are_said(kind: Any) -> None:
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(300, 4))
    x[:, 1], x[:, 2] = numbers.permutation(300), numbers.integers(50, size=300)
    (remark,) = make_population(kind(x), [0, 1] * 150).remarks
    assert remark.startswith("Feature 1 of population 'data' looks like an identifier")
    assert make_population(kind(x[:, [0, 2, 3]]), [0, 1] * 150).remarks == ()


def test_classes_that_nobody_has_are_said() -> None:
    (remark,) = make_population(np.eye(4), [0, 2, 3, 2]).remarks
    assert "has the class '1': 1 of 4 classes are empty; see that labels count from 0" in remark
    named = make_population(np.eye(4), [0, 1, 0, 1], class_names=["a", "b", "c", "d"])
    assert "has the class 'c', 'd': 2 of 4 classes" in named.remarks[0]
    assert named.part(slice(0, 2)).remarks == named.remarks


def test_labels_that_are_a_measurement_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"label of population 'data' has \d+ different numbers .* measurement and no class"
    ):
        make_population(np.zeros((200, 2)), np.random.default_rng(0).integers(150, size=200))
    assert make_population(np.zeros((200, 2)), np.arange(200) % 40).num_classes == 40


@pytest.mark.parametrize("given", ["label", "member", "group", "weight"])
def test_pandas_indexes_in_another_order_are_refused(given: str) -> None:
    table = pd.DataFrame({"a": [0.5, 1.5, 2.5, 3.5], "class": [0, 1, 1, 0]})
    values = table["class"].astype(bool) if given == "member" else table["class"]
    named: dict[str, Any] = {"label": table["class"].to_numpy(), given: values}
    label = named.pop("label")
    shuffled = table[["a"]].iloc[[2, 0, 3, 1]]
    with pytest.raises(InputError, match=rf"x and {given} of population 'data' .* {given}\.loc\[x\.index\]"):
        make_population(shuffled, label, **named)
    named = {name: values.loc[shuffled.index] for name, values in named.items()}
    label = table["class"].loc[shuffled.index]
    assert make_population(shuffled, label, **named).label_N.tolist() == [1, 0, 0, 1]
    assert make_population(shuffled, [1, 0, 0, 1]).label_N.tolist() == [1, 0, 0, 1]
    apart = shuffled.set_axis([7, 8, 9, 10])
    assert make_population(apart, table["class"]).label_N.tolist() == [0, 1, 1, 0]


def test_members_of_a_plan_with_the_index_in_another_order_are_refused() -> None:
    x = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3))).iloc[::-1]
    plan = mia.Given(member_N=pd.Series(np.arange(40) < 20))
    with pytest.raises(InputError, match=r"x and `member_N` of .* give member_N\.loc\[x\.index\]"):
        mia.Audit(x, np.arange(40) % 2, **quick_audit(membership=plan))
    in_order = mia.Given(member_N=plan.member_N.loc[x.index])
    assert (
        mia.Audit(x, np.arange(40) % 2, **quick_audit(membership=in_order)).population.label_N.tolist() == [0, 1] * 20
    )


def test_members_in_memory_that_torch_cannot_hold() -> None:
    is_member = np.array([True, False, False, False])
    read_only = is_member.copy()
    read_only.setflags(write=False)
    for each in (is_member[::-1], read_only):
        member_N = make_population(X, LABEL, member=each).member_N
        assert member_N is not None
        assert member_N.tolist() == each.tolist()


def test_remarks_about_the_records_reach_the_report() -> None:
    x = np.random.default_rng(0).normal(size=(120, 3)).astype("float32")
    x[:, 0] = np.arange(120)
    report = mia.audit(
        x, np.arange(120) % 2, **quick_audit(membership=mia.Disjoint(train_size=20), shadow=mia.Real(count=4))
    )
    assert any("Feature 0 of population 'data' looks like an identifier" in each for each in report.warnings)
