"""A store in a folder that is not there yet."""

from pathlib import Path

import pytest

from mia_lightning.store.artefacts import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(dir=tmp_path / "kept" / "store")
