"""Populations of named tensors, tokens, waveforms and categories: what is taken, what is refused, what it becomes."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from formed import LENGTH, VOCABULARY, labels, table_population, text_population, texts
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import mia_lightning as mia
from mia_lightning.datasets.canaries import Canaries
from mia_lightning.datasets.duplicates import duplicate_group
from mia_lightning.datasets.form import Field, Form
from mia_lightning.datasets.near_duplicates import near_duplicates
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.datasets.vectors import WIDTH, Vectors
from mia_lightning.errors import InputError
from mia_lightning.metrics.model_free import model_free_warning
from mia_lightning.seeds import generator

LABEL = [0, 1, 0, 1]
NUMBERS = torch.arange(8.0).view(4, 2)
IDS = torch.tensor([[1, 2, 0], [3, 4, 5], [1, 0, 0], [2, 2, 2]])


def records(population: Population, *rows: int) -> dict[str, Tensor]:
    found = population.records(torch.tensor(rows))
    assert isinstance(found, dict)
    return found


def test_kinds_follow_from_types_where_they_can() -> None:
    image = torch.randint(256, (4, 1, 2, 2), dtype=torch.uint8, generator=generator(0, "image"))
    given = {"numbers": NUMBERS.numpy(), "image": image, "ids": IDS.tolist()}
    population = make_population(given, LABEL, kinds={"ids": "tokens"})
    assert population.form is not None
    assert {field.name: field.kind for field in population.form.fields} == {
        **{"ids": "tokens", "numbers": "numeric", "image": "image"}
    }
    seen = records(population, 2, 0)
    assert torch.equal(seen["ids"], IDS[[2, 0]])
    assert torch.equal(seen["numbers"], NUMBERS[[2, 0]])
    torch.testing.assert_close(seen["image"], image[[2, 0]].float() / 255)
    assert population.form.field("ids").sizes == (6,)
    assert population.input_shape == (9,)
    assert len(population) == 4


def test_one_array_of_a_kind_stays_one_tensor() -> None:
    population = make_population(IDS, LABEL, kinds="tokens")
    seen = population.records(torch.tensor([1]))
    assert isinstance(seen, Tensor)
    assert torch.equal(seen, IDS[[1]])
    assert seen.dtype == torch.int64
    assert population.x_N is IDS
    plain = make_population(NUMBERS, LABEL, kinds="numeric")
    assert plain.form is None
    assert plain.fingerprint() == make_population(NUMBERS, LABEL).fingerprint()


def tokens(**settings: Any) -> dict[str, Any]:
    return {"ids": {"kind": "tokens", **settings}}


NAN = NUMBERS.clone().index_put((torch.tensor([2]), torch.tensor([1])), torch.tensor(math.nan))
REFUSED: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "lengths": (lambda: make_population({"a": NUMBERS, "b": NUMBERS[:3]}, LABEL), ["'a'", "4", "'b'", "3"]),
    "no kind": (lambda: make_population({"ids": IDS}, LABEL), ["'ids'", "tokens", "kinds"]),
    "unknown kind": (lambda: make_population({"a": NUMBERS}, LABEL, kinds={"a": "words"}), ["'a'", "'words'"]),
    "unknown setting": (lambda: make_population({"ids": IDS}, LABEL, kinds=tokens(pad=0)), ["'ids'", "padding"]),
    "kind of nothing": (lambda: make_population({"a": NUMBERS}, LABEL, kinds={"b": "numeric"}), ["'b'", "'a'"]),
    "one kind for many": (lambda: make_population({"ids": IDS}, LABEL, kinds="tokens"), ["kinds", "'tokens'"]),
    "no names": (lambda: make_population({}, LABEL), ["name"]),
    "no identifier": (lambda: make_population({"a b": NUMBERS}, LABEL), ["a b", "argument"]),
    "form beside kinds": (
        lambda: make_population(IDS, LABEL, kinds="tokens", form=text_population().form),
        ["form", "kinds"],
    ),
    "float tokens": (lambda: make_population(NUMBERS, LABEL, kinds="tokens"), ["float32", "whole numbers"]),
    "gap": (lambda: make_population({"a": NAN}, LABEL), ["record 2", "'a'", "nan", "at 1", "has_gaps"]),
    "gap in tokens": (lambda: make_population(IDS, LABEL, kinds={"kind": "tokens", "has_gaps": True}), ["has_gaps"]),
    "infinite": (
        lambda: make_population(
            {"a": NAN.nan_to_num(math.inf)}, LABEL, kinds={"a": {"kind": "numeric", "has_gaps": 1}}
        ),
        ["record 2", "inf", "'a'"],
    ),
    "code too large": (
        lambda: make_population({"ids": IDS}, LABEL, kinds=tokens(sizes=(5,))),
        ["record 1", "5", "ids"],
    ),
    "negative code": (lambda: make_population(IDS - 1, LABEL, kinds="category"), ["record 0", "-1"]),
    "sizes": (lambda: make_population({"ids": IDS}, LABEL, kinds=tokens(sizes=(6, 6))), ["sizes", "[6, 6]", "'ids'"]),
    "sizes of categories": (
        lambda: make_population(IDS, LABEL, kinds={"kind": "category", "sizes": [6]}),
        ["sizes", "3 entries"],
    ),
    "padding": (lambda: make_population({"ids": IDS}, LABEL, kinds=tokens(padding=6)), ["padding", "6", "'ids'"]),
    "padding of numbers": (
        lambda: make_population({"a": NUMBERS}, LABEL, kinds={"a": {"kind": "numeric", "padding": 0}}),
        ["padding", "'a'"],
    ),
    "mask of one tensor": (lambda: make_population(IDS, LABEL, kinds={"kind": "tokens", "mask": "m"}), ["mask", "'m'"]),
    "mask that is a field": (
        lambda: make_population({"ids": IDS, "m": NUMBERS}, LABEL, kinds=tokens(mask="m")),
        ["'m'", "twice"],
    ),
    "name of the labels": (lambda: make_population({"labels": NUMBERS}, LABEL), ["'labels'"]),
    "columns": (
        lambda: make_population({"a": NUMBERS}, LABEL, kinds={"a": {"kind": "numeric", "columns": ("x",)}}),
        ["columns", "1", "2 entries"],
    ),
    "image": (lambda: make_population({"a": NUMBERS}, LABEL, kinds={"a": "image"}), ["'a'", "rows"]),
    "tokens in two axes": (
        lambda: make_population({"ids": IDS[:, :, None]}, LABEL, kinds=tokens()),
        ["'ids'", "[3, 1]"],
    ),
    "large numbers": (
        lambda: make_population({"a": IDS + 2**60}, LABEL, kinds={"a": "numeric"}),
        ["record 0", "'a'", str(2**53)],
    ),
    "no records axis": (lambda: make_population({"a": torch.tensor(1.0)}, [0]), ["'a'", "records"]),
    "text": (lambda: make_population({"a": [["b"]] * 4}, LABEL), ["'a'", "numbers"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_record_is_refused_by_the_name_of_its_field(case: str) -> None:
    make, parts = REFUSED[case]
    with pytest.raises(InputError) as caught:
        make()
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert len(str(caught.value).split(". ")) == 1


FORMS: dict[str, tuple[Callable[[Population], Population], list[str]]] = {
    "mean": (lambda p: replace(p, mean=torch.zeros(())), ["mean"]),
    "scale": (lambda p: replace(p, scale=2.0), ["scale"]),
    "no form": (lambda p: replace(p, form="tokens"), ["'tokens'", "Form"]),
    "order": (lambda p: replace(p, form=Form(fields=p.form.fields[::-1])), ["order", "Form.of"]),
    "unnamed among others": (
        lambda p: replace(p, form=Form(fields=(p.form.fields[0], replace(p.form.fields[1], name="")))),
        ["without a name"],
    ),
    "rows": (lambda p: replace(p, x_N=p.x_N[:, :-1]), ["Form.packed", "[24]"]),
    "codes as floats": (
        lambda p: replace(
            p, x_N=NUMBERS, form=Form(fields=(Field(kind="category", shape=(2,), sizes=(9, 9)),)), label_N=p.label_N[:4]
        ),
        ["float32", "whole"],
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_a_form_that_does_not_fit_is_refused(case: str) -> None:
    change, parts = FORMS[case]
    with pytest.raises(InputError) as caught:
        change(table_population())
    for part in parts:
        assert part in str(caught.value)


def test_a_fingerprint_depends_on_kind_sizes_and_padding() -> None:
    kinds: list[Any] = [
        "tokens",
        {"kind": "tokens", "padding": 0},
        {"kind": "tokens", "sizes": (7,)},
        "category",
        "numeric",
    ]
    found = {make_population(IDS, LABEL, kinds=kind).fingerprint() for kind in kinds}
    assert len(found) == len(kinds)


def test_parts_joins_and_masks_keep_the_form() -> None:
    population = table_population()
    part = population.part(slice(3, 9))
    chosen = population.chosen(torch.arange(120) < 5)
    joined = part.followed_by(chosen.x_N, chosen.label_N)
    for row, source in ((0, 3), (5, 8), (6, 0), (10, 4)):
        for name, value in records(joined, row).items():
            torch.testing.assert_close(value, records(population, source)[name], equal_nan=True)


def test_flat_rows_are_the_fields_side_by_side_and_come_back() -> None:
    population = table_population()
    flat, seen = population.entries_NF, records(population, *range(120))
    assert flat.dtype == torch.float64
    torch.testing.assert_close(flat[:, :4], seen["numbers"].double(), equal_nan=True)
    torch.testing.assert_close(flat[:, 4:], seen["codes"].double())
    assert torch.equal(population.stored(flat), population.x_N)
    assert population.is_code_F.tolist() == [False] * 4 + [True] * 3


def test_records_that_are_equal_are_found_whatever_their_zeros_and_gaps() -> None:
    gap = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)  # another NaN
    numbers = torch.tensor([[0.0, math.nan], [-0.0, float("nan")], [1.0, 2.0], [0.0, 0.0]])
    numbers[1, 1] = gap[0]
    kinds = {"a": {"kind": "numeric", "has_gaps": True}}
    group = duplicate_group(make_population({"a": numbers}, LABEL, kinds=kinds)).tolist()
    assert group[0] == group[1]
    assert len(set(group)) == 3


def test_vectors_count_tokens_and_part_categories() -> None:
    words = Vectors.of(text_population())
    found = words(torch.tensor([0, 7]))
    for row, n in enumerate((0, 7)):
        real = [token for token in texts()[n].tolist() if token]
        assert found[row].tolist() == [real.count(token) for token in range(VOCABULARY)]
    table = table_population()
    vectors = Vectors.of(table)(torch.arange(120), torch.float64)
    seen = records(table, *range(120))
    numbers = seen["numbers"].double().numpy()
    for i in range(4):
        own = numbers[:, i]
        expected = np.nan_to_num((own - np.nanmean(own)) / np.nanstd(own))
        np.testing.assert_allclose(vectors[:, i], expected, atol=1e-6)
        np.testing.assert_array_equal(vectors[:, 4 + i], np.isnan(own))
    codes = vectors[:, 8:]
    assert codes.shape[1] == 5 + 2 + 7
    differ = (seen["codes"][:, None] != seen["codes"][None]).sum(-1)
    torch.testing.assert_close(torch.cdist(codes, codes).square(), differ.double(), atol=1e-9, rtol=0)


def test_many_codes_share_columns_and_keep_distances_on_average() -> None:
    ids = torch.randint(0, 5000, (60, 40), generator=generator(0, "many"))
    population = make_population(ids, torch.arange(60) % 2, kinds={"kind": "tokens", "sizes": (5000,)})
    vectors = Vectors.of(population)
    assert vectors.width == WIDTH
    found = vectors(torch.arange(60), torch.float64)
    exact = torch.nn.functional.one_hot(ids, 5000).sum(1).double()
    near = torch.cdist(found, found).square().sum() / torch.cdist(exact, exact).square().sum()
    assert 0.95 < float(near) < 1.05


def test_a_text_with_a_word_changed_is_a_near_duplicate() -> None:
    ids = torch.randint(1, 3000, (400, 60), generator=generator(1, "texts"))
    ids[200] = ids[0].clone()
    ids[200, 3] = 1 + ids[0, 3] % 2000
    population = make_population(ids, torch.arange(400) % 2, kinds={"kind": "tokens", "sizes": (3000,)})
    member_N = torch.arange(400) < 200
    found = near_duplicates(population, duplicate_group(population), member_N, ~member_N, seed=0)
    assert found is not None
    assert found.near_N.nonzero().flatten().tolist() == [0, 200]


def test_members_that_use_other_words_are_told_without_a_model() -> None:
    ids = torch.randint(1, 50, (400, 20), generator=generator(2, "texts"))
    ids[:200, 5] = 50
    population = make_population(ids, torch.arange(400) % 2, kinds="tokens")
    member_N = torch.arange(400) < 200
    assert model_free_warning(population, member_N, ~member_N, seed=0) is not None
    shuffled = member_N[torch.randperm(400, generator=generator(3, "order"))]
    assert model_free_warning(population, shuffled, ~shuffled, seed=0) is None


@pytest.mark.parametrize("make", [text_population, table_population])
def test_uniform_canaries_keep_gaps_and_padding(make: Callable[[], Population]) -> None:
    population = make()
    changed = Canaries(count=60, kind="uniform").apply(population, seed=3)
    is_canary = changed.group_N == 1
    before, after = population.entries_NF, changed.entries_NF
    assert torch.equal(after[~is_canary].nan_to_num(9.0), before[~is_canary].nan_to_num(9.0))
    assert torch.equal(after.double().isnan(), before.double().isnan())
    if make is text_population:
        assert torch.equal(after == 0, before == 0)
        assert len(after[is_canary].unique()) == VOCABULARY
    else:
        for i, size in enumerate((5, 2, 7)):
            assert after[is_canary, 4 + i].unique().tolist() == list(range(size))


class Items(Dataset[Any]):
    """Items of a dict, or of (dict, label)."""

    def __init__(self, of: Callable[[int], Any], count: int = 40) -> None:
        self.of, self.count = of, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if index >= self.count:
            raise IndexError
        return self.of(index)


TEXTS = texts(40)
HUGGING = {"input_ids": lambda i: TEXTS[i], "attention_mask": lambda i: (TEXTS[i] != 0).long()}


@pytest.mark.parametrize("form", ["tensors", "lists", "pairs", "batches"])
def test_items_of_named_tensors_are_read(form: str) -> None:
    def item(i: int) -> Any:
        fields = {name: each(i) for name, each in HUGGING.items()}
        if form == "pairs":
            return fields, i % 3
        return {**({k: v.tolist() for k, v in fields.items()} if form == "lists" else fields), "labels": i % 3}

    data: Any = Items(item)
    if form == "batches":
        data = DataLoader(data, batch_size=8, collate_fn=lambda items: torch.utils.data.default_collate(items))
    population = Population.of(data)
    assert population.form is not None
    (field,) = population.form.fields
    assert (field.name, field.kind, field.padding, field.mask) == ("input_ids", "tokens", 0, "attention_mask")
    seen = records(population, 4, 17)
    assert torch.equal(seen["input_ids"], TEXTS[[4, 17]])
    assert torch.equal(seen["attention_mask"], (TEXTS[[4, 17]] != 0).long())
    assert population.label_N.tolist() == [i % 3 for i in range(40)]


def test_kinds_of_items_can_be_told() -> None:
    data = Items(lambda i: {"a": torch.tensor([i % 4, 1]), "b": torch.tensor([0.5 * i]), "label": i % 2})
    population = Population.of(data, kinds={"a": "category"})
    assert population.form is not None
    assert {field.name: (field.kind, field.sizes) for field in population.form.fields} == {
        **{"a": ("category", (4, 2)), "b": ("numeric", ())}
    }


def test_a_mask_that_padding_does_not_explain_stays_a_tensor() -> None:
    data = Items(lambda i: {"input_ids": TEXTS[i], "attention_mask": torch.ones(LENGTH).long(), "labels": i % 2})
    population = Population.of(data)
    assert population.form is not None
    assert [field.name for field in population.form.fields] == ["input_ids"]  # all ones: no padding
    odd = Items(lambda i: {"input_ids": TEXTS[i], "attention_mask": (TEXTS[i] > 5).long(), "labels": i % 2})
    form = Population.of(odd).form
    assert form is not None
    assert {field.name for field in form.fields} == {"input_ids", "attention_mask"}
    assert form.parameters()["vocabulary_size"] == int(TEXTS.max()) + 1


@pytest.mark.parametrize(
    ("of", "options", "parts"),
    [
        (lambda i: {"a": torch.zeros(2 + i % 2), "label": 0}, {}, ["Item 1", "one shape"]),
        (lambda i: ({"a b": torch.zeros(2)}, 0), {}, ["'a b'"]),
        (lambda i: ({}, 0), {}, ["empty", "name"]),
        (lambda i: ({"a": "text"}, 0), {}, ["'text'"]),
        (lambda i: {"a": torch.zeros(2), "label": i % 2}, {"mean": 1.0}, ["mean"]),
    ],
)
def test_items_that_are_no_records_are_refused(of: Any, options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Population.of(Items(of), **options)
    for part in parts:
        assert part in str(caught.value)


def test_named_arrays_go_straight_into_an_audit() -> None:
    audit = mia.Audit(
        {"numbers": NUMBERS, "ids": IDS}, LABEL, kinds={"ids": "tokens"}, model=lambda: torch.nn.Linear(2, 2)
    )
    assert audit.population.form is not None
    with pytest.raises(InputError, match="kinds"):
        mia.Audit(audit.population, kinds={"ids": "tokens"}, model=lambda: torch.nn.Linear(2, 2))


def test_records_of_a_mapped_file_are_those_in_memory(tmp_path: Path) -> None:
    population = table_population()
    np.save(tmp_path / "rows.npy", population.x_N.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "rows.npy", mmap_mode="c"))
    other = replace(population, x_N=mapped)
    assert other.fingerprint() == population.fingerprint()
    for name, value in records(other, 3, 77).items():
        torch.testing.assert_close(value, records(population, 3, 77)[name], equal_nan=True)
    rows = make_population(mapped, labels(), form=population.form, class_names=population.class_names, name="t")
    assert rows.fingerprint() == population.fingerprint()
