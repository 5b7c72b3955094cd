"""A folder is one configuration's for good."""

from pathlib import Path

from omegaconf import OmegaConf

from mia_lightning.sweep.folders import assign, digest
from mia_lightning.sweep.runs import Outcome, Run, begin


def begun(sweep: Path, name: str, of: str, code: int | None = None) -> None:
    run = Run(number=0, overrides=(), folder=sweep / name, directory=sweep, digest=of)
    begin(run)
    if code is not None:
        Outcome(exit_code=code).keep(run.folder)


def assigned(sweep: Path, *digests: str) -> list[str]:
    jobs = [(each, sweep / str(number)) for number, each in enumerate(digests)]
    return [folder.name for folder in assign(jobs, sweep)]


def test_in_an_empty_sweep_each_job_has_its_number(tmp_path: Path) -> None:
    assert assigned(tmp_path, "a", "b", "c") == ["0", "1", "2"]


def test_a_configuration_keeps_its_folder_whatever_its_number_is_now(tmp_path: Path) -> None:
    begun(tmp_path, "0", "a", 0)
    begun(tmp_path, "1", "b", 2)
    assert assigned(tmp_path, "b", "a") == ["1", "0"]


def test_another_configuration_takes_the_next_free_number(tmp_path: Path) -> None:
    begun(tmp_path, "0", "a", 0)
    begun(tmp_path, "1", "b")
    begun(tmp_path, "3", "old", 0)
    assert assigned(tmp_path, "c", "b", "d", "e") == ["4", "1", "2", "5"]


def test_a_result_of_a_run_that_no_sweep_began_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    Outcome(exit_code=0).keep(tmp_path / "0")
    assert assigned(tmp_path, "a") == ["1"]


def test_equal_jobs_share_a_folder(tmp_path: Path) -> None:
    assert assigned(tmp_path, "a", "b", "a") == ["0", "1", "0"]


def test_a_folder_with_a_name_of_its_own_is_found_again(tmp_path: Path) -> None:
    wanted = tmp_path / "seed=1" / "model=mlp"
    run = Run(number=0, overrides=(), folder=wanted, directory=tmp_path, digest="a")
    begin(run)
    assert assign([("a", wanted)], tmp_path) == [wanted]
    assert assign([("b", wanted)], tmp_path) == [tmp_path / "1"]


def test_the_digest_is_of_the_settings_without_hydra_and_the_clock() -> None:
    def of(**settings: object) -> str:
        return digest(OmegaConf.create({"seed": 0, "now": "${now:%S}", "must": "???", "hydra": {"job": 1}} | settings))

    assert of() == of(hydra={"job": 2})
    assert of() != of(seed=1)
    assert of(a={"x": 1, "y": 2}) == of(a={"y": 2, "x": 1})
    assert of(a=[1, 2]) != of(a=[2, 1])
