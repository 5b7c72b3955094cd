"""A DataModule or a torch Dataset of somebody's own on the command line."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from command_line import Call, Ended
from own_projects import Pets, write_pets
from torch.utils.data import TensorDataset

import mia_lightning as mia
from mia_lightning.command.own_data import population_of
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import isolated

RUN = ["logger=none", "model=mlp", "model.hidden=[4]", "shadow.count=2", "training.epochs=2", "attack=loss"]
SMALL = [*RUN, "trainer.accelerator=cpu", "training.batch_size=4", "hydra.run.dir=here", "store.dir=null"]
PETS = ["dataset=datamodule", "dataset._target_=own_projects.Pets", "+dataset.folder=pets"]


def read(folder: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    return json.loads((folder / "report.json").read_text()), pq.read_table(folder / "scores.parquet").to_pydict()


def refused(result: Ended, *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(part in result.stderr for part in parts), result.stderr


def test_a_datamodule_from_scratch(call: Call, tmp_path: Path) -> None:
    write_pets(tmp_path / "pets", 30, 18)
    result = call(*PETS, *SMALL, "dataset.train_size=10", "+dataset.batch_size=5")
    assert result.returncode == 0, result.stderr
    report, scores = read(tmp_path / "here")
    assert (report["membership"]["plan"], report["membership"]["num_members"]) == ("disjoint", 10)
    assert report["dataset"]["name"] == "Pets"
    assert [each["source"] for each in report["dataset"]["sets"]] == ["train_dataloader", "val_dataloader"]
    assert any("one pool" in note for note in report["notes"])
    assert all(name.startswith(("train/", "val/")) for name in scores["record_name"])
    assert "one pool" in result.stderr
    page = (tmp_path / "here" / "report.html").read_text()
    assert "val_dataloader" in page
    rows = zip(scores["score"], scores["record_name"], scores["is_member"], scores["is_flagged"], strict=True)
    _, best = max((score, name) for score, name, is_member, is_flagged in rows if is_member and is_flagged)
    assert f"<small>{best}</small>" in page


@pytest.mark.slow
def test_a_datamodule_and_a_trained_network_give_the_same_scores_as_from_python(call: Call, tmp_path: Path) -> None:
    write_pets(tmp_path / "pets", 30, 18)
    make = partial(MLP, input_shape=(3, 8, 8), num_classes=3, hidden=[4])
    with isolated(0, "target"):
        network = make()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    result = call(*PETS, *SMALL, "target=checkpoint", "target.path=model.pt")
    assert result.returncode == 0, result.stderr
    report, scores = read(tmp_path / "here")
    assert (report["membership"]["plan"], report["membership"]["num_members"]) == ("given", 30)
    assert report["membership"]["num_nonmembers"] == 18
    assert any("The members are the 30 records of the training set (`train_dataloader`)" in n for n in report["notes"])
    assert scores["is_member"] == [name.startswith("train/") for name in scores["record_name"]]
    same = mia.audit(
        Pets(str(tmp_path / "pets")),
        model=partial(MLP, hidden=[4]),
        target=network,
        attacks=[mia.Loss()],
        shadow=mia.Real(count=2),
        training=mia.Recipe(epochs=2, batch_size=4, optimizer=partial(torch.optim.Adam, lr=0.001)),
        trainer=mia.TrainerSettings(accelerator="cpu"),
    )
    np.testing.assert_array_equal(same.scores.score, scores["score"])  # of the loss attack: no shadow model counts


@pytest.mark.slow
def test_a_dataset_and_our_own_settings(call: Call, tmp_path: Path) -> None:
    (tmp_path / "my_package.py").write_text(
        "import torch\n"
        "from torch.utils.data import Dataset\n"
        "class Table(Dataset):\n"
        "    def __init__(self, rows, scale=1.0):\n"
        "        self.key = [f'k{i}' for i in range(rows)]\n"
        "        self.x = scale * torch.randn(rows, 5, generator=torch.Generator().manual_seed(1))\n"
        "    def __len__(self):\n"
        "        return len(self.x)\n"
        "    def __getitem__(self, i):\n"
        "        return self.x[i], i % 2\n"
        "def made(rows):\n"
        "    return Table(rows)\n"
    )
    own = ["dataset=datamodule", "+dataset.rows=80", "dataset.ids=key", "dataset.mean=0.5", "dataset.name=mine"]
    result = call(*own, *SMALL, "dataset._target_=my_package.Table", "+dataset.scale=2.0", "dataset.train_size=20")
    assert result.returncode == 0, result.stderr
    report, scores = read(tmp_path / "here")
    assert (report["dataset"]["name"], report["membership"]["num_members"]) == ("mine", 20)
    assert scores["record_name"] == [f"k{i}" for i in scores["record"]]
    assert report["dataset"]["sets"] == []
    held_out = "dataset.nonmembers={_target_: my_package.Table, rows: 30}"
    result = call(*own, *SMALL, "dataset._target_=my_package.made", held_out)  # a function that makes it
    assert result.returncode == 0, result.stderr
    report, _ = read(tmp_path / "here")
    assert [(each["source"], each["num_records"]) for each in report["dataset"]["sets"]] == [
        ("", 80),
        ("nonmembers", 30),
    ]
    fixed = "dataset.eval_dataset={_target_: my_package.Table, rows: 79}"
    refused(call(*own, *SMALL, "dataset._target_=my_package.Table", fixed), "eval_dataset", "79 records", "80")


OF_NAMED_TENSORS = """
import torch
from pytorch_lightning import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Mails(Dataset):
    def __init__(self, first, last):
        made = torch.Generator().manual_seed(3)
        self.words = torch.randint(1, 12, (60, 5), generator=made)[first:last]
        self.region = torch.randint(0, 4, (60, 2), generator=made)[first:last]
    def __len__(self):
        return len(self.words)
    def __getitem__(self, i):
        return {"words": self.words[i], "region": self.region[i], "label": i % 2}

class Data(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Mails(0, 40), 8, shuffle=True)
    def val_dataloader(self):
        return DataLoader(Mails(40, 60), 8)

class Net(nn.Module):
    def __init__(self, vocabulary_size, category_sizes, num_classes):
        super().__init__()
        self.of_word = nn.Embedding(vocabulary_size, 3)
        self.of_region = nn.Embedding(max(category_sizes), 3)
        self.last = nn.Linear(3, num_classes)
    def forward(self, words, region):
        return self.last(self.of_word(words).mean(1) + self.of_region(region).mean(1))

class Bag(Net):
    def __init__(self, vocabulary_size, num_classes):
        super().__init__(vocabulary_size, [1], num_classes)
    def forward(self, x):
        return self.last(self.of_word(x).mean(1))

def words_alone():
    mails = Mails(0, 60)
    return torch.utils.data.TensorDataset(mails.words, torch.arange(60) % 2)
"""


@pytest.mark.slow
def test_kinds_of_items_that_hold_several_tensors(call: Call, tmp_path: Path) -> None:
    (tmp_path / "my_mails.py").write_text(OF_NAMED_TENSORS)
    run = [each for each in SMALL if not each.startswith("model")] + ["dataset=datamodule", "model=custom"]
    mails = [*run, "dataset._target_=my_mails.Data", "model._target_=my_mails.Net"]
    kinds = "dataset.kinds={region:category,words:{kind:tokens,padding:0}}"
    result = call(*mails, kinds, "dataset.train_size=10")
    assert result.returncode == 0, result.stderr
    report, _ = read(tmp_path / "here")
    form = {each["name"]: (each["kind"], each["sizes"]) for each in report["dataset"]["form"]}
    assert form == {"words": ("tokens", [12]), "region": ("category", [4, 4])}
    refused(call(*mails, "dataset.kinds={regions:category}"), "'regions'", "'region'", "'words'")
    refused(call(*mails, "dataset.kinds=3.5"), "dataset.kinds", "3.5", "{ids:tokens")
    words = [*run, "dataset._target_=my_mails.words_alone", "model._target_=my_mails.Bag", "dataset.train_size=10"]
    result = call(*words, "dataset.kinds=tokens")
    assert result.returncode == 0, result.stderr
    report, _ = read(tmp_path / "here")
    assert [(each["name"], each["kind"]) for each in report["dataset"]["form"]] == [("", "tokens")]


def test_draws_of_the_users_code_are_the_same_in_every_process(tmp_path: Path) -> None:
    node = {"_target_": "torch.utils.data.TensorDataset"}

    def make(node: Any, place: str) -> Any:
        return TensorDataset(torch.rand(8, 2) + np.random.random(), torch.arange(8) % 2)

    first = population_of(node, make, trusted=True)
    with isolated(1, "another process"):
        assert torch.equal(population_of(node, make, trusted=True).x_N, first.x_N)


def test_a_class_that_is_named_without_the_choice(tmp_path: Path) -> None:
    write_pets(tmp_path / "pets")
    node = {"_target_": "own_projects.Pets", "folder": str(tmp_path / "pets")}
    population = population_of(node, lambda node, place: Pets(node["folder"]), trusted=True)
    assert len(population) == 18


def test_a_module_that_a_folder_names_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)

    def refuse(node: Any, place: str) -> Any:
        raise InputError(f"{place} is not trusted.")

    with pytest.raises(InputError, match="dataset is not trusted"):
        population_of({"_target_": "broken.Data"}, refuse, trusted=False)
    assert "broken" not in sys.modules


MISTAKEN = """
import mia_lightning as mia, torch
from torch.utils.data import TensorDataset
class Named(TensorDataset):
    def __init__(self, name, std=1.0):
        super().__init__(torch.zeros(8, 2), torch.arange(8) % 2)
class Scaled(TensorDataset):
    def __init__(self, std=1.0):
        super().__init__(std * torch.ones(8, 2), torch.arange(8) % 2)
def population():
    return mia.Population.of(Scaled())
"""


@pytest.mark.costly
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["dataset._target_=my_package.Named"], ["`dataset.name`", "Named", "function"]),
        (["dataset._target_=my_package.Scaled", "dataset.std=2.0"], ["`dataset.std`", "Scaled", "function"]),
        (["dataset._target_=my_package.population", "dataset.ids=key"], ["`dataset.ids` is 'key'", "Population"]),
    ],
)
def test_settings_that_nobody_would_see_are_refused(
    call: Call, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    (tmp_path / "my_package.py").write_text(MISTAKEN)
    refused(call("dataset=datamodule", *arguments, *SMALL), *parts)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["dataset=datamodule"], ["`dataset._target_` is not set"]),
        ([*PETS, "dataset.train_transform=no"], ["`dataset.train_transform` is", "own, ignore"]),
        ([*PETS, "dataset.nonmembers=[val]"], ["`dataset.nonmembers`", "val", "validation"]),
        ([*PETS, "dataset.nonmembers=[test]"], ["Pets", "test_dataloader"]),
        ([*PETS, "dataset.ids=nothing"], ["`dataset.ids`", "nothing"]),
        ([*PETS, "+dataset.colour=red"], ["dataset.colour", "Pets"]),
        ([*PETS, "dataset.folder=nowhere"], ["Pets", "setup", "nowhere"]),
        (["dataset=datamodule", "dataset._target_=builtins.dict"], ["The data is {}"]),
        (["dataset=datamodule", "dataset._target_=builtins.object"], ["`dataset` makes", "Population"]),
        (["dataset=datamodule", "dataset._target_=nowhere.Data"], ["nowhere"]),
    ],
)
def test_slips(call: Call, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    write_pets(tmp_path / "pets")
    refused(call(*arguments, *SMALL), *parts)
    assert not (tmp_path / "here" / "report.json").exists()
