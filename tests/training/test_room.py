"""Where large arrays lie: what is on disk is what would be in memory, and nothing is left behind."""

from pathlib import Path

import pytest
import torch

from mia_lightning.defenses.interface import apply_all
from mia_lightning.defenses.rounding import Rounding
from mia_lightning.defenses.top_k import TopK
from mia_lightning.errors import InputError
from mia_lightning.training.plan import cgroups
from mia_lightning.training.plan import room as room_module
from mia_lightning.training.plan.memory import free_on_host
from mia_lightning.training.plan.room import Room
from mia_lightning.training.signals import Signals, ViewSignals, on_one_device

SHAPE = (6, 2, 10, 3)


def mapped_files() -> int:
    """Files of which this process maps pages and that have no name any more."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(line.endswith("(deleted)") for line in lines)


@pytest.mark.parametrize(("max_bytes", "is_mapped"), [(0, True), (6 * 2 * 10 * 3 * 4 - 1, True), (1440, False)])
def test_an_array_is_on_disk_where_it_is_larger_than_allowed(max_bytes: int, is_mapped: bool, tmp_path: Path) -> None:
    before = mapped_files()
    array = Room(max_bytes=max_bytes, folder=tmp_path / "new").empty(SHAPE)
    assert (tuple(array.shape), array.dtype, array.device.type) == (SHAPE, torch.float32, "cpu")
    assert mapped_files() - before == int(is_mapped)
    array.fill_(2.0)
    array[3:] += 1
    assert float(array.double().sum()) == 180 * 2 + 180 * 3
    assert not any(path.is_file() for path in tmp_path.rglob("*"))  # nothing that a crash would leave
    del array
    assert mapped_files() == before


def test_the_default_is_a_quarter_of_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2**20 < free_on_host() < 2**50
    monkeypatch.setattr(room_module, "free_on_host", lambda: 4 * 1440)
    assert not Room().is_on_disk((2**18,))  # a MiB, which has room anywhere
    assert Room().is_on_disk((2**18 + 1,))
    monkeypatch.setattr(room_module, "_SMALL", 0)
    before = mapped_files()
    small = Room(folder=tmp_path).empty(SHAPE)
    assert mapped_files() == before
    large = Room(folder=tmp_path).empty((SHAPE[0] + 1, *SHAPE[1:]))
    assert mapped_files() == before + 1
    assert large.numel() - small.numel() == 60


def test_a_container_limits_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups within groups: the tightest counts, and files held in memory are not what its processes hold."""
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    monkeypatch.setattr(cgroups, "OF_PROCESS", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text("0::/a/b\n")
    group = tmp_path / "a"
    group.mkdir()
    (group / "memory.max").write_text("5000000\n")
    (group / "memory.stat").write_text("anon 1000000\nfile 3500000\nshmem 500000\n")
    assert free_on_host() == 3_500_000
    (group / "memory.max").write_text("max\n")
    assert free_on_host() > 5_000_000
    (group / "memory.max").write_text("900000\n")
    assert free_on_host() == 0


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"take 4.1e\+03 GiB, .* in '{tmp_path}' \(.*\); free space there, choose"):
        Room(max_bytes=0, folder=tmp_path).empty((2**40,))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"no file of that size can be made in '{tmp_path}/file/sub'"):
        Room(max_bytes=0, folder=tmp_path / "file" / "sub").empty(SHAPE)


def make_signals(room: Room) -> Signals:
    random = torch.Generator().manual_seed(0)
    value_KANC = torch.randn(SHAPE, generator=random).log_softmax(-1)
    views = ViewSignals(
        names=("a",),
        scaled_logit_KAN=torch.randn(6, 1, 10, generator=random),
        is_correct_KAN=torch.rand(6, 1, 10, generator=random) < 0.5,
    )
    return Signals(log_probability_KANC=room.empty(SHAPE).copy_(value_KANC), views=views, room=room)


@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4, 5], [2, 3, 4], [0], [0, 2, 3], [1, 5], []])
@pytest.mark.parametrize("max_bytes", [None, 0])
def test_chosen_models_are_those_of_the_mask(kept: list[int], max_bytes: int | None, tmp_path: Path) -> None:
    signals = make_signals(Room(max_bytes=max_bytes, folder=tmp_path))
    kept_K = torch.zeros(6, dtype=torch.bool)
    kept_K[kept] = True
    before = mapped_files()
    chosen = signals.select(kept_K)
    assert torch.equal(chosen.log_probability_KANC, signals.log_probability_KANC[kept_K])
    assert chosen.views is not None
    assert signals.views is not None
    assert torch.equal(chosen.views.scaled_logit_KAN, signals.views.scaled_logit_KAN[kept_K])
    shares = chosen.log_probability_KANC.untyped_storage().data_ptr() == (
        signals.log_probability_KANC.untyped_storage().data_ptr()
    )
    is_side_by_side = bool(kept) and kept == list(range(kept[0], kept[-1] + 1))
    assert shares == is_side_by_side
    assert mapped_files() - before == int(max_bytes == 0 and bool(kept) and not is_side_by_side)


def test_defended_answers_are_on_disk_too_and_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(max_bytes=0, folder=tmp_path)
    value_KANC = make_signals(room).log_probability_KANC
    defenses = (TopK(k=2), Rounding(digits=1))
    expected = defenses[1].apply(defenses[0].apply(value_KANC.clone()))
    monkeypatch.setattr("mia_lightning.defenses.interface._SLICE_NUMBERS", 21)  # seven vectors at a time
    before = mapped_files()
    found = apply_all(defenses, value_KANC, room=room)
    assert torch.equal(found, expected)
    assert mapped_files() == before + 1
    assert apply_all((), value_KANC, room=room) is value_KANC
    assert torch.equal(apply_all(defenses, value_KANC), expected)


def test_answers_of_which_only_some_fitted_on_a_device_are_all_on_the_host() -> None:
    views = ViewSignals(names=("a",), scaled_logit_KAN=torch.zeros(1, 1, 2), is_correct_KAN=torch.ones(1, 1, 2).bool())
    here = Signals(log_probability_KANC=torch.zeros(1, 1, 2, 3), views=views)
    there = here.to("meta")  # a device that holds nothing
    assert there.views is not None
    assert {str(t.device) for t in (there.log_probability_KANC, there.views.scaled_logit_KAN)} == {"meta"}
    assert there.views.is_correct_KAN.device.type == "meta"
    assert on_one_device(here, here) == (here, here)
    assert on_one_device(there, there) == (there, there)
    with pytest.raises(NotImplementedError, match="meta"):  # which is asked for what it has
        on_one_device(there, here)
