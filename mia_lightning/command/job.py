"""One job: a configuration in, an audit out. Nothing heavy is imported before there is work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mia_lightning.command.configuration import Configuration, content_of
from mia_lightning.command.mistakes import about_node, config_directory
from mia_lightning.command.own_targets import check_own
from mia_lightning.errors import SettingError
from mia_lightning.store.atomic import write_whole
from mia_lightning.store.run_folder import written_to_run

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console
    from torch import nn

    from mia_lightning.attacks.interface import Attack
    from mia_lightning.datasets.population import Population
    from mia_lightning.defenses.interface import Defense
    from mia_lightning.reports.schema import AuditReport
    from mia_lightning.run.definition import Audit
    from mia_lightning.shadows.guess import Guess
    from mia_lightning.tasks import Task

_OWN = "own"


class Job:
    """A configuration, checked, and what it makes.

    Args:
        content: the configuration as plain values, as a report repeats it.
        trusted: whether it may name any class or function, as the configuration that its user typed does. Of one that
            came in a folder nothing is made but this package's own choices (`own_targets`).
        model_is_open: whether nobody has chosen `model`, so that records with a form get an architecture that fits.

    Raises:
        InputError: a section or setting that cannot be used, as far as this can be told before anything is made.
    """

    def __init__(self, content: Mapping[str, Any], *, trusted: bool = True, model_is_open: bool = False) -> None:
        self.content, self._trusted, self._model_is_open = dict(content), trusted, model_is_open
        self.configuration = Configuration(**self.content)

    @classmethod
    def of(cls, config: "DictConfig", overrides: Sequence[str] = ("model=",)) -> "Job":
        """Of what Hydra has composed.

        Args:
            overrides: what was typed, by which it is known whether somebody has chosen `model`.

        Raises:
            InputError: also where a value that must be given is missing.
        """
        is_chosen = any(each.lstrip("+~").startswith(("model=", "model.")) for each in overrides)
        return cls(content_of(config), model_is_open=not is_chosen)

    def audit(
        self, population: "Population | None" = None, *, folder: Path | None = None, console: "Console | None" = None
    ) -> "Audit":
        """The audit that is configured.

        Args:
            population: the data set, where it is loaded already.
            folder: for the files of the run.
            console: where progress is shown, if it is to be.

        Raises:
            InputError: something cannot be made, or does not fit the rest.
        """
        from mia_lightning.run.definition import Audit

        made, settings = self.content, self.configuration
        names = ("membership", "target", "shadow", "training", "trainer", "logger")
        parts = {name: self._make(made[name], name) for name in names}
        audit = Audit(
            self.population() if population is None else population,
            task=self.task,
            model=self.model,
            model_output=settings.model_output,
            attacks=self.attacks,
            defenses=self.defenses,
            adaptive=settings.defense["adaptive"],
            guess=self.guess,
            canaries=_canaries(made["canary"]),
            store=_store(made["store"]),
            shard=settings.shard,
            shadow_estimator=self.shadow_estimator,
            seed=settings.seed,
            skip_inapplicable=settings.skip_inapplicable,
            convergence=settings.convergence,
            save_models=settings.save_models,
            gate=settings.judge,
            report=settings.about,
            output=folder,
            console=console if made["trainer"]["progress_bar"] else None,
            config=made,
            **parts,
        )
        return self._with_fitting_model(audit, folder)

    def _with_fitting_model(self, audit: "Audit", folder: Path | None) -> "Audit":
        """The audit, with a remark where `model` becomes the architecture that fits the form of the records."""
        from mia_lightning.models.by_form import chosen_for

        population = audit.population
        is_open = self._model_is_open and self.content["model"] == _default_model()
        if population.form is None or not is_open or not audit.uses_networks:
            return audit
        name, remark = chosen_for(population)
        self.content["model"] = _model(name)
        if folder is not None:
            self.keep(folder)
        population = replace(population, remarks=(*population.remarks, remark))
        return replace(audit, data=population, model=self.model, config=self.content)

    def run(self, folder: Path, console: "Console") -> "AuditReport":
        """Audit; the configuration is kept in the folder."""
        from mia_lightning.audit import audit

        self.keep(folder)
        return audit(self.audit(folder=folder, console=console))

    def train_shard(self, folder: Path, console: "Console") -> str:
        """Train the part of the shadow models that is this job's into the store; returns a sentence about them."""
        from mia_lightning.audit import train_shard

        self.keep(folder)
        return train_shard(self.audit(folder=folder, console=console))

    def population(self) -> "Population":
        """The data set."""
        from mia_lightning.command.own_data import population_of
        from mia_lightning.training.plan.memory import enough_memory

        dataset = {name: value for name, value in self.content["dataset"].items() if name != "train_size"}
        if dataset.get("task") == self.content["task"]:  # of a loader that reads labels of any task: ${task}
            dataset["task"] = self.task
        if self._trusted:  # of a run in a folder nothing else is asked for
            self._look_ahead(dataset)
        with enough_memory():
            return population_of(dataset, self._make, trusted=self._trusted, task=self.task)

    def _look_ahead(self, dataset: Mapping[str, Any]) -> None:
        """Refuse a membership that does not fit the names of the records, where these are known before the records."""
        from hydra._internal.utils import _locate  # `hydra.utils.get_object` also logs what it cannot find
        from hydra.errors import HydraException

        from mia_lightning.command.own_data import is_somebodys

        if is_somebodys(dataset.get("_target_")):
            return
        try:
            names_of = getattr(_locate(dataset["_target_"]), "record_names", None)
        except (KeyError, HydraException, ImportError, ValueError):
            return  # `instantiate` says what is wrong
        if names_of is not None:
            names = names_of(**{name: value for name, value in dataset.items() if name != "_target_"})
            self._make(self.content["membership"], "membership").look_ahead(names)

    @cached_property
    def attacks(self) -> "list[Attack]":
        nodes = (self.content.get("attack") or {}).items()
        return [self._make(node, f"attack.{name}") for name, node in nodes]

    @cached_property
    def defenses(self) -> "list[Defense]":
        """The defences, in order."""
        return [self._make(node, f"defense.{name}") for name, node in self.configuration.defenses.items()]

    @cached_property
    def task(self) -> "Task":
        """What a label is."""
        made: Task = self._make(self.content["task"], "task")
        return made

    @property
    def model(self) -> "Callable[..., nn.Module]":
        """What makes a network."""
        return self._makes_network(self.content["model"], "model")

    def _makes_network(self, node: Mapping[str, Any], place: str) -> "Callable[..., nn.Module]":
        """What makes a network by its node; nodes in it, such as another network, are made anew for each network."""
        parts = {name: each for name, each in node.items() if _is_made(each)}
        rest = {name: each for name, each in node.items() if name not in parts}
        made: Callable[..., nn.Module] = self._make(rest, place, partial=True)
        if not parts:
            return made
        from mia_lightning.training.own.making import WithParts

        return WithParts(
            made, {name: self._make(each, f"{place}.{name}", partial=True) for name, each in parts.items()}
        )

    @property
    def shadow_estimator(self) -> Any:
        """What makes the shadow models where they are estimators; `own` for the target's kind, None for networks."""
        node = self.content.get("estimator")
        if node is None or node == {"_target_": _OWN}:
            return None if node is None else _OWN
        if not isinstance(node, Mapping):
            raise SettingError(
                "shadow", "estimator", f"is {node!r}; name a class by shadow.estimator._target_=, or set it to null."
            )
        return self._make(node, "shadow.estimator")

    @property
    def guessed_model(self) -> "Callable[..., nn.Module] | None":
        """What makes a network that the attacker assumes; None where it is that of the target.

        What differs overrides the settings of `model`; a model of another class takes none of them.
        """
        if not self.content["guess"].get("model"):
            return None
        node = {name: value for name, value in self.content["guess"]["model"].items() if name != "output"}
        if "_target_" not in node:
            node = {**self.content["model"], **node}
        return self._makes_network(node, "guess.model")

    @property
    def guessed_output(self) -> Any:
        """What the networks of `guessed_model` give, as `model.output` says it of those of `model`."""
        node = self.content["guess"].get("model") or {}
        return node.get("output", "auto" if "_target_" in node else self.configuration.model_output)

    @cached_property
    def guess(self) -> "Guess | None":
        """What the attacker assumes otherwise; None for nothing."""
        from mia_lightning.shadows.guess import Guess

        model, training = self.guessed_model, self.content["guess"].get("training")
        if model is None and not training:
            return None
        changed = {**self.content["training"], **training} if training else None
        recipe = None if changed is None else self._make(changed, "guess.training")
        return Guess(model=model, output=self.guessed_output, training=recipe)

    def named(self, experiment: str, variant: str | None) -> "Job":
        """The same as a part of an experiment, as its report says."""
        return Job({**self.content, "experiment": {"name": experiment, "variant": variant}})

    def _make(self, node: Any, place: str, *, partial: bool = False) -> Any:
        if not self._trusted:
            check_own(node, place)
        return instantiate(node, place, partial=partial)

    def keep(self, folder: Path) -> None:
        """Write config.yaml.

        Raises:
            InputError: the folder cannot be written.
        """
        from omegaconf import OmegaConf

        with written_to_run():
            write_whole(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(self.content)).encode())


def _is_made(node: object) -> bool:
    """Whether it is a node that makes something, and not one that makes a function."""
    return isinstance(node, Mapping) and "_target_" in node and not node.get("_partial_")


def _default_model() -> dict[str, Any]:
    """The section `model` where nobody has chosen another."""
    from omegaconf import OmegaConf

    whole: Any = OmegaConf.to_container(OmegaConf.load(config_directory() / "config.yaml"), resolve=False)
    return _model(next(each["model"] for each in whole["defaults"] if "model" in each))


def _model(name: str) -> dict[str, Any]:
    """A choice of conf/model."""
    from omegaconf import OmegaConf

    node = OmegaConf.to_container(OmegaConf.load(config_directory() / "model" / f"{name}.yaml"))
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


def _canaries(settings: dict[str, Any]) -> Any:
    from mia_lightning.datasets.canaries import Canaries

    return Canaries(**settings) if settings.get("count") else None


def _store(settings: dict[str, Any]) -> Any:
    from mia_lightning.store.artefacts import Store

    return None if settings.get("dir") is None else Store(**settings)


def instantiate(node: Any, place: str, *, partial: bool = False) -> Any:
    """`hydra.utils.instantiate`, with what is wrong with the node as an `InputError`."""
    from hydra.errors import HydraException, InstantiationException
    from hydra.utils import instantiate as make
    from omegaconf.errors import OmegaConfBaseException

    try:
        return make(node, _convert_="all", **({"_partial_": True} if partial else {}))
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, TypeError | ValueError | ImportError | AttributeError | HydraException):
            raise about_node(error, place, node) from error
        raise cause from error  # a bug of what was called
    except (OmegaConfBaseException, TypeError) as error:  # of Hydra's own names, such as `_partial_`
        raise about_node(error, place, node) from error
