"""A run's folder is data: nothing that it names is called but this package's own choices, unless it is trusted."""

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mia_lightning.command.mistakes import config_directory
from mia_lightning.command.own_targets import check_own
from mia_lightning.dashboard.command import main as dashboard
from mia_lightning.errors import InputError
from mia_lightning.reports.files import read_report
from mia_lightning.serve.command import main, prepare

Forge = Callable[..., Path]


class _Ran:
    """Its pickle makes a file where it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.place,)


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A file that is there once a pickle beside it was read."""
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(_Ran(tmp_path / "ran")))
    return tmp_path / "ran"


@pytest.fixture
def forge(run_folder: Path, tmp_path: Path) -> Forge:
    """Makes a copy of the run whose configuration has other values, by their dotted places."""

    def forged(**values: Any) -> Path:
        folder = tmp_path / "forged"
        (folder / ".hydra").mkdir(parents=True)
        for name in ("target.safetensors", "shadow.safetensors", "members.csv", ".hydra/overrides.yaml"):
            (folder / name).write_bytes((run_folder / name).read_bytes())
        content = json.loads((run_folder / "report.json").read_bytes())
        for place, value in values.items():
            *way, last = place.split("__")
            node = content["run"]["config"]
            for name in way:
                node = node[name]
            node[last] = value
        (folder / "report.json").write_text(json.dumps(content))
        return folder

    return forged


def refused(*arguments: str) -> str:
    with pytest.raises(InputError) as raised:
        prepare([*arguments, "--port", "0"])
    return str(raised.value)


MLP = "mia_lightning.models.mlp.MLP"
FOREIGN: list[tuple[str, Any, str]] = [  # a place of the configuration, what stands there, and what the sentence names
    ("model", {"_target_": "joblib.load", "filename": "PICKLE"}, "`model._target_` is 'joblib.load'"),
    ("dataset", {"_target_": "joblib.load", "filename": "PICKLE"}, "`dataset._target_` is 'joblib.load'"),
    ("dataset", {"_target_": "pandas.read_pickle", "filepath_or_buffer": "PICKLE"}, "`dataset._target_`"),
    ("model", {"_target_": "torch.load", "f": "PICKLE", "weights_only": False}, "`model._target_` is 'torch.load'"),
    # of this package, but none of its choices
    (
        "model",
        {
            "_target_": "mia_lightning.targets.endpoints.sklearn.load_pickle",
            "path": {"_target_": "pathlib.Path", "_args_": ["PICKLE"]},
            "is_allowed": True,
        },
        "`model._target_` is 'mia_lightning.targets.endpoints.sklearn.load_pickle'",
    ),
    # of what a module of this package imports
    ("dataset", {"_target_": "mia_lightning.datasets.cifar.pickle.load", "_args_": ["PICKLE"]}, "`dataset._target_`"),
    ("dataset", {"_target_": "mia_lightning.datasets.npz.np.load", "file": "PICKLE", "allow_pickle": True}, "`dataset"),
    ("dataset", {"_target_": "mia_lightning.models.mlp.MLP"}, "`dataset._target_` is 'mia_lightning.models.mlp.MLP'"),
    # within what is one of its choices
    ("model__hidden", [{"_target_": "joblib.load", "filename": "PICKLE"}], "`model.hidden[0]._target_`"),
    ("dataset__name", {"a": [{"_target_": "joblib.load", "filename": "PICKLE"}]}, "`dataset.name.a[0]._target_`"),
    ("model__hidden", {"_target_": ["joblib.load"], "filename": "PICKLE"}, "`model.hidden._target_`"),
    # defences, and what the attacker assumes
    ("defense__mine", {"_target_": "joblib.load", "filename": "PICKLE"}, "`defense.mine._target_` is 'joblib.load'"),
    # other ways to call, to read the environment, and to send what is in it elsewhere
    ("model___args_", [3], "`model` has '_args_'"),
    ("dataset___partial_", True, "`dataset` has '_partial_'"),
    ("dataset__name", json.loads("[" * 100 + "]" * 100), "levels deep"),
    ("model__hidden", "${oc.env:HOME}", "`model.hidden` is '${oc.env:HOME}'"),
    (
        "dataset",
        {"_target_": "mia_lightning.datasets.location.load_location", "root": "here", "url": "http://evil.example"},
        "`dataset.url` is 'http://evil.example'",
    ),
]


@pytest.mark.costly
@pytest.mark.parametrize(("place", "value", "named"), FOREIGN)
def test_what_is_foreign_is_named_and_never_called(forge: Forge, ran: Path, place: str, value: Any, named: str) -> None:
    value = json.loads(json.dumps(value).replace("PICKLE", str(ran.parent / "evil.pkl")))
    sentence = refused(str(forge(**{place: value})))
    assert named in sentence
    assert "--trust" in sentence
    assert not ran.exists()


def test_a_guess_of_the_attacker_is_checked_where_it_is_served(forge: Forge, ran: Path) -> None:
    node = {"_target_": "joblib.load", "filename": str(ran.parent / "evil.pkl")}
    folder = str(forge(guess__model=node))
    assert "`guess.model._target_` is 'joblib.load'" in refused(folder, "--model", "shadow", "--member", "0")
    prepare([folder, "--port", "0"]).listening.close()  # the target is another network
    assert not ran.exists()


def test_sections_that_serving_does_not_need_may_name_anything(forge: Forge, ran: Path) -> None:
    node = {"_target_": "joblib.load", "filename": str(ran.parent / "evil.pkl")}
    folder = forge(
        **dict.fromkeys(("membership", "target", "training", "logger"), node),
        trainer__callbacks=[node],
        attack={"mine": node},
        shadow__queries=node,
        guess__training={"optimizer": node},
    )
    prepare([str(folder), "--port", "0"]).listening.close()
    assert not ran.exists()


OWN = """
import pathlib
from mia_lightning.models.mlp import MLP
pathlib.Path("imported").touch()
"""


def test_a_users_own_class_needs_trust_which_says_what_it_risks(
    forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_net_of_a_user.py").write_text(OWN)
    folder = str(forge(model={"_target_": "own_net_of_a_user.MLP", "hidden": [16]}))
    before = list(sys.path)
    assert "`model._target_` is 'own_net_of_a_user.MLP'" in refused(folder)
    assert sys.path == before  # nothing beside the run is imported by accident, either
    assert not Path("imported").exists()
    with pytest.raises(SystemExit):
        main([folder, "--port", "0"])
    assert sys.path == before
    ready = prepare([folder, "--port", "0", "--trust"])
    ready.listening.close()
    assert Path("imported").exists()
    assert any(sentence.startswith("warning: --trust") and "rights" in sentence for sentence in ready.sentences)


TYPED = [
    "dataset=digits",
    "model._target_=joblib.load",
    "+trainer.callbacks=[{_target_: os.system, command: ls}]",
    "dataset.root=${oc.env:HOME}",
    "model.hidden=[16]",
    "logger.name=\x1b[2J",
]


def test_the_command_to_copy_holds_nothing_that_calls_or_commands(forge: Forge) -> None:
    folder = forge()
    OmegaConf.save(OmegaConf.create(TYPED), folder / ".hydra" / "overrides.yaml")

    def typed(*options: str) -> str:
        ready = prepare([str(folder), "--port", "0", *options])
        ready.listening.close()
        return ready.sentences[-1].partition("membership.path=")[2].partition(" ")[2]

    assert typed() == "dataset=digits 'model.hidden=[16]'"
    assert "joblib.load" in typed("--trust")
    assert "${oc.env:HOME}" in typed("--trust")  # as it was typed


BOMB = b"".join(b"- &a%d [%s]\n" % (n, b",".join([b"*a%d" % (n - 1)] * 9) if n else b"a") for n in range(40))


@pytest.mark.costly
@pytest.mark.parametrize("content", [b"", b"\xff", b"- [", b"a: 1", b"3", b"- ${x}", b"&a [*a]", b"[" * 1500, BOMB])
def test_damaged_overrides_do_not_matter(forge: Forge, content: bytes) -> None:
    folder = forge()
    (folder / ".hydra" / "overrides.yaml").write_bytes(content)
    ready = prepare([str(folder), "--port", "0"])
    ready.listening.close()
    assert "Next: mia-lightning target=open_inference" in ready.sentences[-1]


def test_the_dashboard_calls_nothing_that_a_run_names(forge: Forge, ran: Path, tmp_path: Path) -> None:
    node = {"_target_": "joblib.load", "filename": str(ran.parent / "evil.pkl")}
    folder = forge(**dict.fromkeys(("dataset", "model", "target", "training", "logger", "membership"), node))
    with pytest.raises(SystemExit) as ended:
        dashboard([str(folder), "--output", str(tmp_path / "page.html")])
    assert ended.value.code == 0
    assert (tmp_path / "page.html").exists()
    assert read_report(folder).run.config["model"] == node
    assert not ran.exists()


@pytest.mark.parametrize("section", ["dataset", "model", "defense"])
def test_each_choice_of_the_package_is_its_own(section: str) -> None:
    somebodys = ("custom", "datamodule", "lightning")
    paths = [path for path in (config_directory() / section).glob("*.yaml") if path.stem not in somebodys]
    assert paths
    for path in paths:
        node = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(node, dict)
        node = {name: value for name, value in node.items() if "${" not in str(value)}
        for inner in [node] if "_target_" in node else node.values():
            if isinstance(inner, dict):
                check_own(inner, section)


def test_a_section_that_conf_does_not_have_has_no_choices() -> None:
    with pytest.raises(InputError, match=r"`nothing\._target_`"):
        check_own({"_target_": MLP}, "nothing")
