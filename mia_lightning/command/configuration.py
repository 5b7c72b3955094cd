"""The configuration of a run, checked before anything heavy is imported."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mia_lightning.command.mistakes import NODES, config_directory
from mia_lightning.errors import InputError
from mia_lightning.gate import Gate, gate_from
from mia_lightning.run.about import About
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast0, CanaryKind, FromList, OutputForm, Place, Text
from mia_lightning.settings.words import Such, Words
from mia_lightning.shadows.shard import Shard
from mia_lightning.store.artefacts import Store
from mia_lightning.sweep.objective import SweepSettings

if TYPE_CHECKING:
    from omegaconf import DictConfig

Section = Mapping[str, Any]
Remedies = Annotated[Literal["all"] | Annotated[Sequence[Text], FromList], Words("all, or names of remedies")]
Changes = Annotated[Section, Words("the settings that differ"), Such("{epochs:20}")]


@settings("guess")
class GuessSettings:
    """What differs in the architecture or training that the attacker assumes; None for nothing."""

    model: Changes | None = None
    training: Changes | None = None


@settings("canary")
class CanarySettings:
    """The `canary` section; a count of 0 is none."""

    count: AtLeast0 = 0
    kind: CanaryKind = "mislabelled"


@settings("shards", eq=False)
class ShardSettings:
    """`shadow.shards` and `shadow.shard`."""

    count: int
    number: int | None = None


@settings("", eq=False, repr=False)
class Configuration:
    """The sections of a configuration, interpolations resolved.

    Attributes:
        seed, skip_inapplicable, save_models, convergence: as of `mia_lightning.run.definition.Audit`.
        estimate: whether the run is only to say what it would take.
        output: what goes to stdout.
        scale, scales, comparison, experiments: of experiments.
        remedies: of experiment=remedies, `all` that apply or some of their names; None for other runs.
        dataset, task, membership, model, target, shadow, training, trainer, logger: what they make, by `_target_`.
        attack: such sections by the names of attacks.
        defense: such sections by the names of defences, and `adaptive`.
        guess, canary, store, gate, report, sweep: settings of these names.
        model_output: what the networks of `model` give; auto for what they are seen to give, which the run says.
        estimator: of the shadow models, `own`, or None for networks.
        shards: among how many jobs the shadow models are divided, and which this one is.
        experiment: name and variant, as a report repeats them.

    Raises:
        InputError: a section is missing, unknown or none, or a setting cannot be used.
    """

    seed: int
    skip_inapplicable: bool
    save_models: bool
    convergence: bool = False
    estimate: bool = False
    output: Literal["text", "json", "markdown", "junit"] = "text"
    scale: Text = "paper"
    dataset: Section
    task: Section
    membership: Section
    model: Section
    model_output: Annotated[OutputForm, Place("model.output")] = "auto"
    target: Section
    shadow: Section
    attack: Annotated[Section | None, Words("attacks by their names"), Such("attack=[shokri,loss]")] = None
    defense: Annotated[Section, Words("defences by their names"), Such("defense=[top_k,rounding]")]
    guess: Section
    canary: Section
    training: Section
    trainer: Section
    store: Annotated[Section, Words("the settings store.dir (null for none) and others")]
    shards: Section
    estimator: Annotated[Any, Place("shadow.estimator"), Words("what makes an estimator, or null for networks")] = None
    logger: Section
    gate: Section | None = None
    report: Section | None = None
    sweep: Section | None = None
    scales: Section | None = None
    comparison: Any = None
    experiments: Any = None
    remedies: Remedies | None = None
    experiment: Section | None = None

    def __post_init__(self) -> None:
        for name in NODES:
            check_node(getattr(self, name), name)
        for name, node in (self.attack or {}).items():
            check_node(node, f"attack.{name}")
        for name, node in self.defenses.items():
            check_node(node, f"defense.{name}")
        if type(self.defense.get("adaptive")) is not bool:
            raise InputError(f"`defense.adaptive` is {self.defense.get('adaptive')!r}; it must be true or false.")
        GuessSettings(**self.guess)
        About(**(self.report or {}))
        CanarySettings(**self.canary)
        Store(**{**self.store, "dir": self.store.get("dir") or "."})
        shards = ShardSettings(**self.shards)
        shard = Shard(count=shards.count, number=shards.number or 0)
        if (shard.count > 1 or self.shard is not None) and self.store.get("dir") is None:
            raise InputError(
                f"`shadow.shards` is {shard.count}, and `store.dir` is null, so that the jobs could not share their "
                "models; set store.dir to a folder that all of them see."
            )
        attacks = [str(node.get("name", name)) for name, node in (self.attack or {}).items()]
        SweepSettings(**(self.sweep or {})).check_attacks(attacks)
        if self.judge is not None:
            self.judge.check_attack(attacks)

    @property
    def defenses(self) -> dict[str, Section]:
        """The sections of defences, in order."""
        return {name: node for name, node in self.defense.items() if name != "adaptive"}

    @property
    def judge(self) -> Gate | None:
        """The gate; None where there is none."""
        return gate_from(self.gate)

    @property
    def about(self) -> About:
        """What the user calls the audit."""
        return About(**(self.report or {}))

    @property
    def shard(self) -> Shard | None:
        """Which of `shadow.shards` jobs this is; None for the audit itself."""
        number = self.shards.get("number")
        return None if number is None else Shard(count=self.shards["count"], number=number)


def content_of(config: "DictConfig") -> dict[str, Any]:
    """A composed configuration as plain values, as the report repeats it.

    Raises:
        InputError: a value that must be given is missing, or a section is.
    """
    from omegaconf import OmegaConf

    for name in NODES:  # before interpolations into them fail
        if config.get(name) is None and (name in config or name != "task"):  # older runs have none
            check_node(None, name)
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise InputError(f"`{missing[0]}` is not set, and has no default; add {missing[0]}=... to the command.")
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    content = {str(name): value for name, value in resolved.items()}
    content.setdefault("task", {"_target_": "mia_lightning.tasks.classification.Classification"})
    for name, default in (("convergence", False), ("estimate", False), ("output", "text"), ("store", {"dir": None})):
        content.setdefault(name, default)
    for name in ("shadow", "trainer"):
        check_node(content[name], name)
    content["trainer"].setdefault("progress_bar", True)
    shadow = content["shadow"]
    if isinstance(content["model"], dict):
        content["model_output"] = content["model"].pop("output", "auto")
    content["estimator"] = shadow.pop("estimator", None)
    content["shards"] = {"count": shadow.pop("shards", 1), "number": shadow.pop("shard", None)}
    return content


def check_node(node: Any, place: str) -> None:
    """Refuse a section that does not say what it makes.

    Raises:
        InputError: it is none, or has no `_target_`; the sentence lists the choices, or says that settings are left
            of one that is not chosen, as those of an experiment under another attack=.
    """
    group = place.split(".")[0]
    choices = sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))
    mend = f"choose one of {', '.join(choices)} by {group}=..."
    if not isinstance(node, dict):
        raise InputError(f"`{place}` is {'empty' if node is None else repr(node)}; {mend}.")
    if not isinstance(node.get("_target_"), str):
        if (name := place.partition(".")[2]) in choices:
            raise InputError(
                f"`{place}` has settings, but {group}={name} is not chosen; choose it, too, or leave its settings "
                f"out by '~{place}'."
            )
        raise InputError(f"`{place}` has no `_target_`, the name of what it makes; {mend}.")
