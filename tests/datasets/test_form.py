"""Records of several tensors are rows of bytes, and are given to networks as what they were."""

import torch
from torch import Tensor

from mia_lightning.datasets.form import Field, Form

NUMBERS = Field(name="numbers", shape=(3,), has_gaps=True)
CODES = Field(name="codes", kind="category", dtype=torch.uint8, shape=(2,), sizes=(4, 3))
IDS = Field(name="ids", kind="tokens", dtype=torch.int32, shape=(5,), padding=0, mask="mask", sizes=(100,))
IMAGE = Field(name="image", kind="image", dtype=torch.uint8, shape=(1, 2, 3))
WEIGHT = Field(name="weight", dtype=torch.float64, shape=())
FIELDS = (CODES, NUMBERS, IDS, IMAGE, WEIGHT)


def _values(count: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        "numbers": torch.randn(count, 3, generator=draw),
        "codes": torch.randint(3, (count, 2), generator=draw, dtype=torch.uint8),
        "ids": torch.randint(100, (count, 5), generator=draw, dtype=torch.int32),
        "image": torch.randint(256, (count, 1, 2, 3), generator=draw, dtype=torch.uint8),
        "weight": torch.randn(count, dtype=torch.float64, generator=draw),
    }


def test_what_is_packed_comes_back_to_the_bit() -> None:
    form, values = Form.of(FIELDS), _values(7)
    values["numbers"][2, 1] = torch.nan
    rows = form.packed(values)
    assert rows.shape == (7, form.row_bytes)
    assert rows.dtype == torch.uint8
    for chosen in (rows, rows.clone()[torch.tensor([3, 0])], rows.view(1, 7, -1)):
        found = form.unpacked(chosen)
        expected = form.unpacked(form.packed(values)[torch.tensor([3, 0])]) if len(chosen) == 2 else values
        for name, value in expected.items():
            assert torch.equal(found[name].reshape(value.shape).nan_to_num(9.0), value.nan_to_num(9.0)), name
            assert found[name].dtype == value.dtype


def test_a_network_sees_codes_as_int64_and_numbers_in_its_type() -> None:
    form, values = Form.of(FIELDS), _values(4)
    seen = form.seen(form.packed(values), torch.float64)
    assert isinstance(seen, dict)
    assert {name: value.dtype for name, value in seen.items()} == {
        **{"numbers": torch.float64, "image": torch.float64, "weight": torch.float64},
        **{"codes": torch.int64, "ids": torch.int64, "mask": torch.int64},
    }
    assert torch.equal(seen["mask"], (values["ids"] != 0).long())
    assert seen["image"].shape == (4, 1, 2, 3)
    assert seen["weight"].shape == (4,)


def test_one_tensor_stays_as_it_is() -> None:
    form = Form.of([Field(kind="tokens", dtype=torch.int32, shape=(5,), padding=0, sizes=(100,))])
    ids = _values(3)["ids"]
    assert form.is_one
    assert torch.equal(form.seen(ids, torch.float32), ids.long())


def test_a_waveform_of_integers_is_seen_between_minus_one_and_one() -> None:
    stored = torch.tensor([[-(2**15), -1, 0, 2**14, 2**15 - 1]], dtype=torch.int16)
    form = Form.of([Field(kind="waveform", dtype=torch.int16, shape=(5,), sample_rate=8000)])
    for dtype in (torch.float32, torch.float64):
        seen = form.seen(stored, dtype)
        assert isinstance(seen, Tensor)
        assert seen.dtype == dtype
        assert seen.tolist() == [[-1.0, -1 / 32768, 0.0, 0.5, 32767 / 32768]]  # exact: powers of two
    floats = Form.of([Field(kind="waveform", shape=(2,), sample_rate=8000)])
    assert torch.equal(floats.seen(torch.tensor([[0.25, -3.0]]), torch.float32), torch.tensor([[0.25, -3.0]]))
