"""The public surface: light to import, complete, and the same for editors as for Python."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

import mia_lightning as mia
from mia_lightning.command.mistakes import config_directory
from mia_lightning.datasets import augmentation

GROUPS = ("attack", "defense", "membership", "shadow", "target")
TARGETS = sorted(
    {
        target
        for group in GROUPS
        for path in (config_directory() / group).glob("*.yaml")
        if (target := OmegaConf.load(path).get("_target_")) is not None
    }
)


def test_every_name_of_the_stub_is_there() -> None:
    assert len(mia.__all__) > 80
    assert [name for name in mia.__all__ if getattr(mia, name, None) is None] == []
    assert set(mia.__all__) - {"__version__"} <= set(dir(mia))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = mia.no_such_name


@pytest.mark.parametrize("target", TARGETS)
def test_every_choice_of_the_configuration_is_a_public_name(target: str) -> None:
    made = get_class(target)
    assert getattr(mia, made.__name__) is made


@pytest.mark.parametrize("name", ["Crop", "Cutout", "Flip"])
def test_every_augmentation_is_a_public_name(name: str) -> None:
    assert getattr(mia, name) is getattr(augmentation, name)


def test_the_function_audit_is_not_hidden_by_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    function = mia.audit
    monkeypatch.setitem(vars(mia), "audit", function)
    monkeypatch.delitem(sys.modules, "mia_lightning.audit")
    again = importlib.import_module("mia_lightning.audit")  # as for the first time: it sets the attribute
    assert mia.audit is again.audit
    assert mia.audit is not function


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    command = (
        "import sys; import mia_lightning as mia; dir(mia); print(mia.__version__)\n"
        "print(sorted({'torch', 'numpy', 'pydantic', 'hydra', 'wandb', 'pytorch_lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [mia.__version__, "[]"]
