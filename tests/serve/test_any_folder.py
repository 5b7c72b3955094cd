"""Whatever stands in a run's folder, `mia-serve` serves it or says in one sentence why not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from any_request import changed
from hypothesis import given, settings
from hypothesis import strategies as st

from mia_lightning.errors import InputError
from mia_lightning.serve.command import prepare

FEW, MANY = settings(max_examples=25, deadline=None), settings(max_examples=400, deadline=None)
SECTIONS = ("dataset", "model", "defense", "guess", "training", "shards", "store", "attack", "report", "gate", "canary")


@pytest.fixture(scope="module")
def copy(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path_factory.mktemp("copy") / "run"))


@pytest.mark.parametrize("many", [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)])
def test_any_configuration(copy: Path, run_folder: Path, many: settings) -> None:
    content = json.loads((run_folder / "report.json").read_bytes())
    config = content["run"]["config"]
    section = st.sampled_from([*SECTIONS, *config])
    of_section = section.flatmap(lambda name: changed(config.get(name)).map(lambda value: {**config, name: value}))

    @many
    @given(st.one_of(of_section, of_section, changed(config)), st.sampled_from(["target", "shadow"]))
    def serve(made: Any, role: str) -> None:
        (copy / "report.json").write_text(json.dumps({**content, "run": {**content["run"], "config": made}}))
        try:
            ready = prepare([str(copy), "--port", "0", "--model", role, "--member", "0"])
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 (either way is right)
        else:
            ready.listening.close()

    serve()
