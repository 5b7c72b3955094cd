"""The plan `given`: members known from a file, a column or from Python."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership import Given, Membership, Wanted
from mia_lightning.membership.files import read_members

N = 20
MEMBERS = [1, 2, 5, 7, 11, 19]
MASK = torch.isin(torch.arange(N), torch.tensor(MEMBERS))


def population_of(num_records: int = N, member_N: torch.Tensor | None = None) -> Population:
    return Population(
        name="plain",
        x_N=torch.zeros(num_records, 1),
        label_N=torch.arange(num_records) % 2,
        class_names=("a", "b"),
        member_N=member_N,
    )


def fill(plan: Given, *, targets: int = 1, shadows: int = 4, member_N: torch.Tensor | None = None) -> Membership:
    return plan.fill(population_of(member_N=member_N), Wanted(num_targets=targets, num_shadows=shadows, seed=0))


def array_file(array: object) -> Callable[[Path], None]:
    return lambda path: np.save(path, np.asarray(array))


def text_file(text: str, encoding: str = "utf-8") -> Callable[[Path], None]:
    return lambda path: path.write_text(text, encoding=encoding, newline="")


def lines_of(rows: list[int]) -> str:
    return "".join(f"{row}\n" for row in rows)


# --- forms that say the same -----------------------------------------------------------------------------

WHOLE = {
    "mask.npy": array_file(MASK.numpy()),
    "indices.npy": array_file(MEMBERS),
    "int32.npy": array_file(np.array(MEMBERS, dtype=np.int32)),
    "uint8.npy": array_file(np.array(MEMBERS, dtype=np.uint8)),
    "uint64.npy": array_file(np.array(MEMBERS, dtype=np.uint64)),
    "big_endian.npy": array_file(np.array(MEMBERS, dtype=">i8")),
    "row.csv": text_file("row\n" + lines_of(MEMBERS)),
    "bare.csv": text_file(lines_of(MEMBERS)),
    "bare.txt": text_file(lines_of(MEMBERS)),
    "backwards.csv": text_file("row\n" + lines_of(MEMBERS[::-1])),
    "windows.csv": text_file("row\r\n" + lines_of(MEMBERS).replace("\n", "\r\n"), encoding="utf-8-sig"),
    "blank.csv": text_file("row\n\n" + lines_of(MEMBERS) + "  \n\n"),
    "all.csv": text_file("row,member\n" + "".join(f"{i}, {int(MASK[i])}\n" for i in range(N))),
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_form_of_file_names_the_same_members(name: str, tmp_path: Path) -> None:
    WHOLE[name](tmp_path / name)
    plan = fill(Given(path=tmp_path / name))
    assert torch.equal(plan.member_KN[0], MASK)
    assert bool(plan.scored_KN[0].all())
    assert torch.equal(fill(Given(path=str(tmp_path / name))).member_KN, plan.member_KN)


@pytest.mark.parametrize(
    "member",
    [MASK, MASK.tolist(), MASK.numpy(), torch.tensor(MEMBERS), MEMBERS, np.array(MEMBERS), torch.tensor(MEMBERS).int()],
    ids=["mask", "list of bool", "numpy mask", "indices", "list of int", "numpy indices", "int32"],
)
def test_every_form_of_member_N_names_the_same_members(member: object) -> None:
    plan = fill(Given(member_N=member))
    assert torch.equal(plan.member_KN[0], MASK)
    assert bool(plan.scored_KN[0].all())


def test_the_population_names_the_members_unless_something_else_does(tmp_path: Path) -> None:
    assert torch.equal(fill(Given(), member_N=MASK).member_KN[0], MASK)
    assert torch.equal(fill(Given(member_N=~MASK), member_N=MASK).member_KN[0], ~MASK)
    np.save(tmp_path / "rows.npy", ~MASK.numpy())
    assert torch.equal(fill(Given(path=tmp_path / "rows.npy"), member_N=MASK).member_KN[0], ~MASK)


def test_the_plan_keeps_no_hold_of_the_callers_mask() -> None:
    mask_N = MASK.clone()
    plan = fill(Given(member_N=mask_N))
    mask_N.fill_(False)
    assert torch.equal(plan.member_KN[0], MASK)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["member", "non-member", "neither"]), min_size=1, max_size=30), st.randoms())
def test_a_file_of_rows_and_members_is_read_back(tmp_path: Path, kinds: list[str], random: object) -> None:
    entries = [(i, kind) for i, kind in enumerate(kinds) if kind != "neither"]
    random.shuffle(entries)
    (tmp_path / "rows.csv").write_text(
        "row,member\n" + "".join(f"{i},{int(kind == 'member')}\n" for i, kind in entries), encoding="utf-8"
    )
    member_N, listed_N = read_members(tmp_path / "rows.csv", len(kinds))
    assert member_N.tolist() == [kind == "member" for kind in kinds]
    assert listed_N.tolist() == [kind != "neither" for kind in kinds]


# --- targets and shadows ---------------------------------------------------------------------------------

LISTED = "row,member\n0,1\n3,1\n4,0\n9,0\n12,1\n13,0\n14,0\n"  # 13 of the 20 records are neither


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(LISTED, encoding="utf-8")
    return path


@pytest.mark.parametrize("source", ["same", "pool"])
def test_shadows_are_pairs_over_the_chosen_records(listed: Path, source: str) -> None:
    plan = fill(Given(path=listed, shadow_source=source), targets=2, shadows=6)
    evidence = {0, 3, 4, 9, 12, 13, 14}
    for t in range(2):
        assert set(plan.member_KN[t].nonzero().flatten().tolist()) == {0, 3, 12}
        assert set(plan.nonmember_KN[t].nonzero().flatten().tolist()) == {4, 9, 13, 14}
    expected = evidence if source == "same" else set(range(N)) - evidence
    source_N = torch.tensor([i in expected for i in range(N)])
    shadow_KN = plan.member_KN[plan.shadows]
    assert all(torch.equal(scored_N, source_N) for scored_N in plan.scored_KN[plan.shadows])
    assert torch.equal(shadow_KN[0::2], source_N & ~shadow_KN[1::2])
    assert torch.equal(shadow_KN.sum(0), source_N * 3)
    assert plan.block_K.tolist() == [0, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize(("source", "validation"), [("same", 1), ("same", 3), ("pool", 1), ("pool", 11)])
def test_validation_records_are_never_members_and_no_evidence(listed: Path, source: str, validation: int) -> None:
    plan = fill(Given(path=listed, shadow_source=source, validation=validation))
    reserved = set(plan.validation_N.tolist())
    evidence = {0, 3, 4, 9, 12, 13, 14}
    candidates = {4, 9, 13, 14} if source == "same" else set(range(N)) - evidence
    assert len(plan.validation_N) == len(reserved) == validation
    assert reserved <= candidates
    assert not bool(plan.scored_KN[:, plan.validation_N].any())
    assert set(plan.member_KN[0].nonzero().flatten().tolist()) == {0, 3, 12}
    assert set(plan.nonmember_KN[0].nonzero().flatten().tolist()) == {4, 9, 13, 14} - reserved
    source_records = (evidence if source == "same" else candidates) - reserved
    assert set(plan.scored_KN[1].nonzero().flatten().tolist()) == source_records


@pytest.mark.parametrize("validation", [4, 5, 30])
def test_validation_leaves_a_nonmember_to_the_target(listed: Path, validation: int) -> None:
    with pytest.raises(InputError) as caught:
        fill(Given(path=listed, validation=validation))
    assert f"{validation}" in str(caught.value)
    assert "`membership.validation`" in str(caught.value)


@pytest.mark.parametrize("validation", [12, 13, 40])
def test_a_pool_that_is_used_up_is_refused(listed: Path, validation: int) -> None:
    with pytest.raises(InputError, match=rf"shadow_source` is pool, which leaves 13 records .* {validation} \(never"):
        fill(Given(path=listed, shadow_source="pool", validation=validation))


def test_a_mask_leaves_no_pool() -> None:
    with pytest.raises(InputError, match=r"shadow_source` is pool, which leaves 0 records .* list fewer records"):
        fill(Given(member_N=MASK, shadow_source="pool"))


# --- refusals --------------------------------------------------------------------------------------------


def test_settings_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are both given; give one of them"):
        Given(path=tmp_path / "rows.csv", member_N=MASK)


def test_no_source_of_membership_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"plain has no member column; set `membership.path` .* `dataset.member_column`"
    ):
        fill(Given())


@pytest.mark.parametrize(("member_N", "group"), [(~torch.ones(N).bool(), "members"), (MASK | True, "non-members")])
def test_one_group_alone_is_refused(member_N: torch.Tensor, group: str) -> None:
    with pytest.raises(InputError, match=rf"`member_N` gives no {group} among the 20 records of plain"):
        fill(Given(member_N=member_N))
    with pytest.raises(InputError, match=rf"The member column of plain gives no {group}"):
        fill(Given(), member_N=member_N)


@pytest.mark.parametrize(
    ("text", "group"), [("row,member\n1,1\n2,1\n", "non-members"), ("row,member\n1,0\n", "members"), ("", "members")]
)
def test_one_group_alone_in_a_file_is_refused(text: str, group: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"`membership.path` .*rows.csv gives no {group}"):
        fill(Given(path=tmp_path / "rows.csv"))


def archive(path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(3))
    path.write_bytes(buffer.getvalue())


def shortened(path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(10))
    path.write_bytes(buffer.getvalue()[:-8])


BAD_FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a folder": ("rows.csv", lambda path: path.mkdir(), "is not a file; give a .npy mask or a .csv"),
    "a short mask": ("m.npy", array_file(MASK[:-1].numpy()), r"mask of shape \[19\]; it must be \[20\]"),
    "a table of masks": ("m.npy", array_file(MASK.numpy()[:, None]), r"mask of shape \[20, 1\]; it must be \[20\]"),
    "fractions": ("m.npy", array_file([1.0, 2.0]), r"has type float64 and shape \[2\]; give a bool mask or whole row"),
    "complex numbers": ("m.npy", array_file([1j]), "has type complex128 .* give a bool mask or whole row numbers"),
    "text in numpy": ("m.npy", array_file(["1", "2"]), "has type <U1 .* give a bool mask or whole row numbers"),
    "a table of rows": ("m.npy", array_file([[1, 2], [3, 4]]), r"shape \[2, 2\]; give a bool mask or whole row"),
    "a mask of 0 and 1": ("m.npy", array_file(MASK.int().numpy()), r"names row 0 more than once; .* \(a mask has type"),
    "a negative row": ("m.npy", array_file([1, -1]), "names row -1; rows go from 0 to 19"),
    "a row too far": ("m.npy", array_file([1, 20]), "names row 20; rows go from 0 to 19"),
    "a huge row": ("m.npy", array_file(np.array([2**64 - 1], np.uint64)), "names row 18446744073709551615; rows go"),
    "a row twice": ("m.npy", array_file([3, 1, 3]), "names row 3 more than once; name each row once"),
    "nothing": ("m.npy", lambda path: path.write_bytes(b""), "cannot be read as a numpy array"),
    "rubbish": ("m.npy", lambda path: path.write_bytes(b"\x93NUMPY rubbish"), "cannot be read as a numpy array"),
    "a truncated array": ("m.npy", shortened, "cannot be read as a numpy array .* write it with numpy.save"),
    "an archive": ("m.npy", archive, "is an archive of several arrays; write one array with numpy.save"),
    "half an archive": ("m.npy", lambda path: path.write_bytes(b"PK\x03\x04"), "cannot be read as a numpy array"),
    "a pickle": (
        "m.npy",
        lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True),
        "cannot be read as a numpy array .*objects",
    ),
    "a row twice in text": ("m.csv", text_file("row\n3\n1\n3\n"), "names row 3 more than once"),
    "a row as both": ("m.csv", text_file("row,member\n3,1\n1,0\n3,0\n"), "names row 3 more than once"),
    "a row too far in text": ("m.csv", text_file("row\n20\n"), "names row 20; rows go from 0 to 19"),
    "a huge row in text": (
        "m.csv",
        text_file("row\n1\n" + "9" * 30 + "\n"),
        "names row 999999.*; rows go from 0 to 19",
    ),
    "a negative row in text": ("m.csv", text_file("row\n-1\n"), "has '-1' as its entry 1; expected row"),
    "a word": ("m.csv", text_file("row\n1\nseven\n"), "has 'seven' as its entry 2; expected row"),
    "a fraction": ("m.csv", text_file("1.0\n"), "has '1.0' as its entry 1; expected row"),
    "a superscript": ("m.csv", text_file("²\n"), "has '²' as its entry 1"),
    "another header": ("m.csv", text_file("index\n1\n"), r"has 'index' as its entry 1; .*\(a header `row` or"),
    "names of records without any": ("m.csv", text_file("id\nP1\n"), "header id, .*dataset.id_column"),
    "two columns without header": ("m.csv", text_file("1,1\n"), r"has '1,1' as its entry 1; .*`row,member` may come"),
    "a missing cell": ("m.csv", text_file("row,member\n1,1\n2\n"), "has '2' as its entry 2; expected row,member"),
    "a cell too many": ("m.csv", text_file("row,member\n1,1,0\n"), "has '1,1,0' as its entry 1"),
    "a member that is neither 0 nor 1": ("m.csv", text_file("row,member\n1,2\n"), "has '1,2' .* the member 0 or 1"),
    "a member in words": ("m.csv", text_file("row,member\n1,yes\n"), "has '1,yes' .* the member 0 or 1"),
    "bytes": ("m.csv", lambda path: path.write_bytes(b"\xff\xfe\x00row"), "is not text .* give a .npy mask or a .csv"),
    "an open quotation": ("m.csv", text_file('"' + "1\n" * csv.field_size_limit()), "is not text .* give a .npy mask"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_cannot_be_used_are_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    name, write, sentence = BAD_FILES[case]
    write(tmp_path / name)
    with pytest.raises(InputError, match=sentence) as caught:
        fill(Given(path=tmp_path / name))
    assert str(caught.value).startswith(f"`membership.path` {tmp_path / name} ")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for name in ("rows.csv", "rows.npy"):
        with pytest.raises(InputError, match=rf"`membership.path` .*{name} is not a file; give a .npy mask or a .csv"):
            fill(Given(path=tmp_path / name))


def test_an_array_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(6))
    path = tmp_path / "rows.npy"
    for length in range(0, len(buffer.getvalue()), 5):
        path.write_bytes(buffer.getvalue()[:length])
        with pytest.raises(InputError, match="cannot be read as a numpy array"):
            read_members(path, N)


@pytest.mark.parametrize(
    ("member_N", "sentence"),
    [
        (MASK[:5], r"`member_N` is a mask of shape \[5\]; it must be \[20\]"),
        ([1, 1], "`member_N` names row 1 more than once"),
        ([25], "`member_N` names row 25; rows go from 0 to 19"),
        ([0.5], "`member_N` has type float64"),
        ([[1, 2], [3]], "`member_N` is no array"),
        (["one"], "`member_N` has type <U3"),
        ({1, 2}, "`member_N` has type object"),
        (torch.ones(3, dtype=torch.bfloat16), "`member_N` is no array"),
    ],
)
def test_member_N_that_cannot_be_used_is_refused(member_N: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fill(Given(member_N=member_N))


def test_a_path_that_is_a_number_is_no_file() -> None:
    with pytest.raises(InputError, match=r"`membership.path` 5 is not a file"):
        fill(Given(path=5))


# --- files of names --------------------------------------------------------------------------------------

NAMES = ("train/ant/z.png", "train/cat/10.png", "train/cat/9.png", "test/cat/9.png", "test/dog/a, b.png")


@pytest.mark.parametrize(
    ("text", "members", "listed"),
    [
        ("file\ntrain/ant/z.png\ntest/cat/9.png\n", [0, 3], range(5)),
        ("z.png\n10.png\n", [0, 1], range(5)),  # file names alone
        ('file,member\n/home/me/pictures/train/cat/9.png,1\n"a, b.png",0\n', [2], [2, 4]),
        ("Path,member\n./test/cat/9.png,1\ntrain\\cat\\9.png,0\n", [3], [2, 3]),
        ("row\n0\n4\n", [0, 4], range(5)),
        ("1\n2\n", [1, 2], range(5)),
    ],
)
def test_records_with_names_may_be_named(tmp_path: Path, text: str, members: list[int], listed: Sequence[int]) -> None:
    (tmp_path / "rows.csv").write_text(text)
    member_N, listed_N = read_members(tmp_path / "rows.csv", 5, NAMES)
    assert member_N.nonzero()[:, 0].tolist() == members
    assert listed_N.nonzero()[:, 0].tolist() == list(listed)
    Given(path=tmp_path / "rows.csv").look_ahead(NAMES)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("file\n9.png\n", r"'9.png', which may be train/cat/9.png, test/cat/9.png; write the path below"),
        ("file\ntrain/ant/y.png\n", r"none of the 5 records \(did you mean 'train/ant/z.png'\?\)"),
        ("id\n7\n", "names '7', which is none of the 5 records"),
        ("file\nz.png\nant/z.png\n", "names row 0 more than once"),
        ("row\n5\n", "names row 5; rows go from 0 to 4"),
        ("file,member\nz.png,yes\n", "the member 0 or 1"),
        ("row\nz.png\n", "has 'z.png' as its entry 1"),
    ],
)
def test_names_of_no_record_or_of_several_are_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(InputError, match=why):
        Given(path=tmp_path / "rows.csv").look_ahead(NAMES)


IDS = ("17", "3", "0", "a/7", "b 1")


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("id\n3\n0\n", [1, 2]),
        ("row\n3\n0\n", [0, 3]),
        ("patient,member\n17,0\n3,1\na/7,1\n", [1, 3]),
        ("3\na/7\nb 1\n", [1, 3, 4]),
    ],
)
def test_records_may_be_listed_by_ids_that_are_numbers(tmp_path: Path, text: str, members: list[int]) -> None:
    (tmp_path / "rows.csv").write_text(text)
    member_N, _ = read_members(tmp_path / "rows.csv", 5, IDS)
    assert member_N.nonzero()[:, 0].tolist() == members


def test_a_name_is_its_own_record_where_it_also_ends_the_names_of_others(tmp_path: Path) -> None:
    names = ("7", "a/7", "b/a/7", "8")
    (tmp_path / "rows.csv").write_text("id\n7\na/7\n")
    member_N, _ = read_members(tmp_path / "rows.csv", 4, names)
    assert member_N.tolist() == [True, True, False, False]


def test_the_header_of_a_column_is_told_from_a_name(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("patient\n3\na/7\n")
    with pytest.raises(InputError, match=r"'patient', which is none of the 5 records.*header.*`id`"):
        read_members(tmp_path / "rows.csv", 5, IDS)
    (tmp_path / "rows.csv").write_text("3\na/7\nnobody\n")
    with pytest.raises(InputError, match=r"'nobody', which is none of the 5 records") as caught:
        read_members(tmp_path / "rows.csv", 5, IDS)
    assert "a header" not in str(caught.value)


def test_numbers_that_may_be_rows_or_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("3\n0\n")
    with pytest.raises(
        InputError, match=r"`membership.path` .*rows.csv lists numbers without a header.* `id` .* `row`"
    ):
        read_members(tmp_path / "rows.csv", 5, IDS)
