"""One job: a configuration in, a report out. Nothing heavy is imported before there is work."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mia_lightning.atomic import write_whole
from mia_lightning.errors import InputError
from mia_lightning.gate import GateVerdict, gate_from, judge
from mia_lightning.mistakes import about_folder, about_node, config_directory, nearest
from mia_lightning.results import FORMATS

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

    from mia_lightning.attacks.interface import Needs
    from mia_lightning.datasets.canaries import Canaries
    from mia_lightning.datasets.population import Population
    from mia_lightning.defenses.interface import Defense
    from mia_lightning.observation import Observation
    from mia_lightning.reports.schema import AuditReport
    from mia_lightning.shadows.guess import Guess
    from mia_lightning.sharding import Shard
    from mia_lightning.store import Store

SECTIONS = (
    "seed",
    "skip_inapplicable",
    "save_models",
    "convergence",
    "plan",
    "output",
    "scale",
    "dataset",
    "membership",
    "model",
    "target",
    "shadow",
    "attack",
    "defense",
    "guess",
    "canary",
    "training",
    "trainer",
    "store",
    "logger",
    "gate",
    "scales",
    "comparison",
    "experiments",
)
# Those that name what they make.
NODES = ("dataset", "membership", "model", "target", "shadow", "training", "trainer", "logger")
STORE = ("dir", "checkpoint_minutes", "answers")
CANARY_KINDS = ("mislabelled", "uniform")  # `datasets.canaries.KINDS`, which takes torch to import

# Exit codes from the best to the worst. Those of the gate (3 above the limit, 4 undetermined) are answers; a sweep that
# has a bug (1), bad input (2) or an interruption (130, 143) among its jobs has not answered, whatever the others found.
# One that was lost (5: killed, cancelled or timed out on a cluster) goes on when the same sweep is started again.
LOST = 5
EXIT_CODES = (0, 4, 3, LOST, 1, 2, 130, 143)


def worst(codes: Iterable[int]) -> int:
    """The worst of exit codes, by `EXIT_CODES`; 0 for none."""
    return max(codes, key=EXIT_CODES.index, default=0)


def resolve(config: "DictConfig") -> dict[str, Any]:
    """The configuration as plain values, before anything heavy is imported.

    Raises:
        InputError: a value that must be given is missing, a section is unknown or absent, a switch is no bool, or the
            gate or the canaries are none.
    """
    from omegaconf import OmegaConf

    for name in NODES:  # before interpolations into them fail
        if config.get(name) is None:
            _check_node(None, name)
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise InputError(f"`{missing[0]}` is not set, and has no default; add {missing[0]}=... to the command.")
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    unknown = sorted(str(name) for name in resolved if name not in SECTIONS)
    if unknown:
        raise InputError(
            f"there is no section `{unknown[0]}`{nearest(unknown[0], SECTIONS)}; the sections are "
            f"{', '.join(SECTIONS)}."
        )
    for name in ("seed", "save_models", "skip_inapplicable"):
        if name not in resolved:
            raise InputError(f"`{name}` was deleted, and the run needs it; leave ~{name} out.")
    for name in NODES:
        _check_node(resolved.get(name), name)
    attacks = resolved.get("attack")
    if attacks is not None and not isinstance(attacks, dict):
        raise InputError(f"`attack` is {attacks!r}; choose attacks by their names, such as attack=[shokri,loss].")
    for name, node in (attacks or {}).items():
        _check_node(node, f"attack.{name}")
    defense = resolved.get("defense")
    if not isinstance(defense, dict) or "adaptive" not in defense:
        raise InputError(f"`defense` is {defense!r}; choose defences by their names, such as defense=[top_k,rounding].")
    for name, node in defense.items():
        if name != "adaptive":
            _check_node(node, f"defense.{name}")
    _check_canary(resolved.get("canary"))
    gate = gate_from(resolved.get("gate"))
    if gate is not None:
        gate.check_attack([str(node.get("name", name)) for name, node in (attacks or {}).items()])
    guess = resolved.get("guess")
    if not isinstance(guess, dict) or set(guess) != {"model", "training"}:
        raise InputError(f"`guess` is {guess!r}; give guess.model={{...}} or guess.training={{...}}.")
    for name, node in guess.items():
        if not isinstance(node, dict | None):
            raise InputError(f"`guess.{name}` is {node!r}; give the settings that differ, such as {{epochs:20}}.")
    resolved["trainer"].setdefault("progress_bar", True)
    resolved.setdefault("convergence", False)
    resolved.setdefault("plan", False)
    resolved.setdefault("output", "text")
    resolved.setdefault("store", {"dir": None})
    shadow = resolved["shadow"]
    resolved["shards"] = {"count": shadow.pop("shards", 1), "number": shadow.pop("shard", None)}
    _check_store(resolved["store"], resolved["shards"])
    for place, value in (
        ("seed", resolved["seed"]),
        ("shadow.count", resolved["shadow"].get("count", 1)),
        ("dataset.train_size", resolved["dataset"].get("train_size")),
    ):
        if isinstance(value, str | bool | float):
            raise InputError(f"`{place}` is {value!r}; it must be a whole number.")
    for place, value in (
        ("save_models", resolved["save_models"]),
        ("skip_inapplicable", resolved["skip_inapplicable"]),
        ("convergence", resolved["convergence"]),
        ("plan", resolved["plan"]),
        ("defense.adaptive", defense["adaptive"]),
        ("trainer.progress_bar", resolved["trainer"]["progress_bar"]),
    ):
        if not isinstance(value, bool):
            raise InputError(f"`{place}` is {value!r}; it must be true or false.")
    if resolved["output"] not in FORMATS:
        raise InputError(f"`output` is {resolved['output']!r}; it must be one of {', '.join(FORMATS)}.")
    return {str(name): value for name, value in resolved.items()}


def _check_canary(canary: Any) -> None:
    if not isinstance(canary, dict) or set(canary) != {"count", "kind"}:
        raise InputError(f"`canary` is {canary!r}; it has the settings canary.count (0 for none) and canary.kind.")
    count, kind = canary["count"], canary["kind"]
    if type(count) is not int or count < 0:
        raise InputError(f"`canary.count` is {count!r}; it must be a whole number of records, 0 for none.")
    if kind not in CANARY_KINDS:
        raise InputError(
            f"`canary.kind` is {kind!r}{nearest(str(kind), CANARY_KINDS)}; it must be one of {', '.join(CANARY_KINDS)}."
        )


def _check_store(store: Any, shards: dict[str, Any]) -> None:
    if not isinstance(store, dict) or "dir" not in store:
        raise InputError(f"`store` is {store!r}; it has the settings store.dir (null for none) and others.")
    unknown = [str(name) for name in store if name not in STORE]
    if unknown:
        raise InputError(
            f"there is no setting `store.{unknown[0]}`{nearest(unknown[0], STORE)}; they are {', '.join(STORE)}."
        )
    if shards != {"count": 1, "number": None} and store["dir"] is None:
        raise InputError(
            f"`shadow.shards` is {shards['count']!r}, and `store.dir` is null, so that the jobs could not share "
            "their models; set store.dir to a folder that all of them see."
        )


def _check_node(node: Any, place: str) -> None:
    """A section must say what it makes."""
    group = place.split(".")[0]
    choices = sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))
    mend = f"choose one of {', '.join(choices)} by {group}=..."
    if not isinstance(node, dict):
        raise InputError(f"`{place}` is {'empty' if node is None else repr(node)}; {mend}.")
    if not isinstance(node.get("_target_"), str):
        raise InputError(f"`{place}` has no `_target_`, the name of what it makes; {mend}.")


def run(resolved: dict[str, Any], folder: Path, console: "Console") -> "AuditReport":
    """Instantiate what the resolved configuration names, and audit."""
    from mia_lightning.audit import audit

    keep_configuration(resolved, folder)
    return audit(
        load(resolved),
        **_models(resolved),
        **_attacks(resolved),
        output=folder,
        console=shown(console, resolved),
        config=resolved,
    )


def shard_of(resolved: dict[str, Any]) -> "Shard | None":
    """Which of `shadow.shards` jobs this is; None for the audit itself.

    Raises:
        InputError: there is no such one.
    """
    from mia_lightning.sharding import Shard

    count, number = resolved["shards"]["count"], resolved["shards"]["number"]
    checked = Shard(count=count, number=0 if number is None else number)
    return None if number is None else checked


def train_shard(resolved: dict[str, Any], shard: "Shard", folder: Path, console: "Console") -> str:
    """Train the shadow models of a shard into the store; returns a sentence about them."""
    from mia_lightning.sharding import train_shard as train

    keep_configuration(resolved, folder)
    made = _attacks(resolved)
    return train(
        load(resolved),
        shard=shard,
        **_models(resolved),
        **{name: made[name] for name in ("attacks", "defenses", "adaptive", "skip_inapplicable")},
        output=folder,
        console=shown(console, resolved),
    )


def estimate(resolved: dict[str, Any]) -> list[str]:
    """What the job would take, in sentences; nothing is trained and nothing written."""
    from mia_lightning.planning import estimate as estimate_audit

    made = _attacks(resolved)
    return estimate_audit(
        load(resolved),
        **_models(resolved),
        **{name: made[name] for name in ("attacks", "defenses", "adaptive", "skip_inapplicable")},
    )


def observe(resolved: dict[str, Any], population: "Population", folder: Path, console: "Console") -> "Observation":
    """The expensive half of a job."""
    from mia_lightning.audit import observe as train_and_observe

    return train_and_observe(
        population,
        **_models(resolved),
        **_defenses(resolved),
        needs=needs_of_attacks(resolved),
        output=folder,
        console=shown(console, resolved),
    )


def attack(resolved: dict[str, Any], observation: "Observation", folder: Path, console: "Console") -> "AuditReport":
    """The cheap half of a job."""
    from mia_lightning.audit import attack as attack_observed

    keep_configuration(resolved, folder)
    return attack_observed(
        observation, **_attacks(resolved), output=folder, console=shown(console, resolved), config=resolved
    )


def judged(resolved: dict[str, Any], report: "AuditReport", folder: Path) -> "GateVerdict | None":
    """Hold the report against the gate of the configuration, and write gate.json; None where there is no gate."""
    gate = gate_from(resolved.get("gate"))
    if gate is None:
        return None
    verdict = judge(report, gate)
    write_whole(folder / "gate.json", json.dumps(verdict.to_json(), indent=2, allow_nan=False).encode() + b"\n")
    return verdict


def load(resolved: dict[str, Any]) -> "Population":
    """The data set of the configuration."""
    dataset = {key: value for key, value in resolved["dataset"].items() if key != "train_size"}
    population: Population = instantiate(dataset, "dataset")
    return population


def shown(console: "Console", resolved: dict[str, Any]) -> "Console | None":
    """The console, where progress is to be shown."""
    return console if resolved["trainer"]["progress_bar"] else None


def keep_configuration(resolved: dict[str, Any], folder: Path) -> None:
    """Write config.yaml."""
    from omegaconf import OmegaConf

    try:
        write_whole(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolved)).encode())
    except OSError as error:
        raise InputError(about_folder(error)) from error


def needs_of_attacks(resolved: dict[str, Any]) -> "Needs":
    """What the attacks of the configuration need together."""
    from mia_lightning.attacks.interface import needs_of

    return needs_of(_attacks(resolved)["attacks"])


def defenses_of(resolved: dict[str, Any]) -> "list[Defense]":
    """The defences of the configuration, in order."""
    nodes = resolved["defense"].items()
    return [instantiate(node, f"defense.{name}") for name, node in nodes if name != "adaptive"]


def canaries_of(resolved: dict[str, Any]) -> "Canaries | None":
    """The canaries of the configuration; None for a count of 0."""
    from mia_lightning.datasets.canaries import Canaries

    return Canaries(**resolved["canary"]) if resolved["canary"]["count"] else None


def _defenses(resolved: dict[str, Any]) -> dict[str, Any]:
    return {"defenses": defenses_of(resolved), "adaptive": resolved["defense"]["adaptive"]}


def _models(resolved: dict[str, Any]) -> dict[str, Any]:
    made = {
        name: instantiate(resolved[name], name) for name in ("membership", "target", "shadow", "training", "trainer")
    }
    return {
        **made,
        "store": _store(resolved["store"]),
        "model": instantiate(resolved["model"], "model", partial=True),
        "guess": guess_of(resolved),
        "canaries": canaries_of(resolved),
        "seed": resolved["seed"],
    }


def _store(settings: dict[str, Any]) -> "Store | None":
    from mia_lightning.store import Store

    return None if settings["dir"] is None else Store(**settings)


def guess_of(resolved: dict[str, Any]) -> "Guess | None":
    """What the attacker assumes otherwise, None for nothing.

    What differs is laid over `model` and `training`; a model of another class takes nothing from them.
    """
    differs = resolved["guess"]
    if not any(differs.values()):
        return None
    from mia_lightning.shadows.guess import Guess

    model, training = differs["model"], differs["training"]
    if model is not None and "_target_" not in model:
        model = {**resolved["model"], **model}
    return Guess(
        model=None if model is None else instantiate(model, "guess.model", partial=True),
        training=None if training is None else instantiate({**resolved["training"], **training}, "guess.training"),
    )


def _attacks(resolved: dict[str, Any]) -> dict[str, Any]:
    attacks = (resolved.get("attack") or {}).items()
    return {
        **_defenses(resolved),
        "attacks": [instantiate(node, f"attack.{name}") for name, node in attacks],
        "logger": instantiate(resolved["logger"], "logger"),
        "save_models": resolved["save_models"],
        "skip_inapplicable": resolved["skip_inapplicable"],
        "convergence": resolved["convergence"],
    }


def instantiate(node: Any, place: str, *, partial: bool = False) -> Any:
    """`hydra.utils.instantiate`, with what is wrong with the node as an `InputError`."""
    from hydra.errors import HydraException, InstantiationException
    from hydra.utils import instantiate as make

    try:
        return make(node, _convert_="all", **({"_partial_": True} if partial else {}))
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, InputError):
            raise cause from error
        if cause is None or isinstance(cause, TypeError | ValueError | ImportError | AttributeError | HydraException):
            raise InputError(about_node(error, place)) from error
        raise cause from error  # a bug of what was called
