"""Runs one after another, in this process."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import configure_log, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from mia_lightning.sweep.runs import Run, begin


@dataclass(frozen=True, kw_only=True)
class Local:
    """Runs the jobs as Hydra's own launcher does; Ctrl-C ends the sweep.

    Attributes:
        compose: makes the configuration of a job from its overrides and its number.
        sweep: the configuration that all jobs share.
    """

    compose: Callable[[Sequence[str], int], DictConfig]
    sweep: DictConfig
    context: HydraContext
    task: TaskFunction

    def run(self, runs: Sequence[Run], *, folder: Path) -> None:
        for run in runs:
            begin(run)
            config: Any = self.compose(run.overrides, run.number)
            with open_dict(config):
                config.hydra.sweep.subdir = os.path.relpath(run.folder, folder)
            ended = run_job(
                task_function=self.task,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
                hydra_context=self.context,
            )
            configure_log(self.sweep.hydra.hydra_logging, self.sweep.hydra.verbose)
            _ = ended.return_value  # raises the exception of a callback of Hydra
