"""What an audit is: one object that carries all of its choices, checked once, where it is made."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SkipValidation, model_validator
from pydantic_core import ArgsKwargs
from rich.console import Console
from torch import nn

from mia_lightning.attacks.default import DEFAULT_ATTACKS, is_optional
from mia_lightning.attacks.interface import Attack, Needs, needs_of
from mia_lightning.datasets.arrays import check_order
from mia_lightning.datasets.canaries import Canaries
from mia_lightning.datasets.fields import Kinds
from mia_lightning.datasets.own.reading import is_own
from mia_lightning.datasets.population import Array, Population, make_population
from mia_lightning.defenses.interface import Defense, OutputDefense, TrainingDefense, split_defenses
from mia_lightning.errors import InputError, SettingError
from mia_lightning.membership import Disjoint, Given, Plan
from mia_lightning.models.by_form import ARCHITECTURES, chosen_for, path_of
from mia_lightning.run.about import About
from mia_lightning.run.gate import Gate
from mia_lightning.run.of_fit import of_fit
from mia_lightning.settings import settings
from mia_lightning.settings.checking import shown
from mia_lightning.settings.kinds import FromList, Has, OutputForm, PathLike, Place
from mia_lightning.settings.words import Words, in_words
from mia_lightning.shadows.guess import Guess
from mia_lightning.shadows.interface import Source
from mia_lightning.shadows.real import Real
from mia_lightning.shadows.shard import Shard
from mia_lightning.store.artefacts import Store
from mia_lightning.targets.checkpoint import Checkpoint
from mia_lightning.targets.endpoints.sklearn import Sklearn
from mia_lightning.targets.estimator import Estimator
from mia_lightning.targets.existing import Existing, copied
from mia_lightning.targets.interface import Target
from mia_lightning.targets.trained import Trained
from mia_lightning.tasks import NamedTask, Task
from mia_lightning.training.estimators.making import Making, is_estimator, is_fitted, makes_estimator
from mia_lightning.training.given_trainer import as_settings
from mia_lightning.training.stack.architecture import MakesNetwork
from mia_lightning.training.step.recipe import Recipe, default_recipe
from mia_lightning.training.trainer import TrainerSettings


def _as_target(given: object) -> object:
    """A file as the target in it; an estimator, fitted or not, or the class of one; a trained network as it is now: a
    copy of it, but for one that cannot be copied."""
    if isinstance(given, str | Path):
        return Checkpoint(path=given)
    if makes_estimator(given):
        return Estimator(given)
    if is_estimator(given):
        return Sklearn(estimator=given) if is_fitted(given) else Estimator(given)
    if not isinstance(given, nn.Module):
        return given
    try:
        return Existing(network=copied(given))
    except Exception:  # it holds what no copy can share, such as a lock or a group of processes
        return Existing(network=given)


_PLAN = Words("one of those in conf/membership, or a `Plan` like them, such as mia.Halves() in Python")


def no_network(*_: object, **__: object) -> nn.Module:
    """In the place of `model` where it is left out."""
    raise AssertionError("nothing is made of a `model` that is left out")


_TARGET = Words("one of those in conf/target, or a `Target` like them")
_SOURCE = Words("one of those in conf/shadow, or a `Source` like them, such as mia.Real(count=16) in Python")
_ATTACK = Has(
    "name",
    "description",
    "needs",
    "fit",
    words=Words("an attack", "attacks like those in conf/attack, such as [mia.Loss()] in Python"),
)
_DEFENSE = Has(
    "name",
    "describe",
    words=Words("a defence", "defences like those in conf/defense, such as [mia.TopK(k=3)] in Python"),
)
_LOGGER = Has("start", words=Words("one of those in conf/logger, or a logger like them"))


@settings("", eq=False, repr=False)
class Audit:
    """Everything that an audit is made of.

    Attributes:
        data: a `Population`, or the records `[N, *features]` as a tensor or array, with `label`; or a
            LightningDataModule, a DataLoader or a torch Dataset, read by `Population.of`. Several arrays by name are
            what a network takes as keyword arguments.
        kinds: of records that are arrays, what their values are, as `make_population` takes it.
        label: `[N]` or `[N, 1]`, whole numbers, bool or text; or one-hot `[N, C]` (`make_population`); under another
            `task` numbers, or `[N, labels]` of 0 and 1.
        weight: `[N]`, of at least 0: how much each record counts in the loss that models are trained with; None for
            the same. Attacks read losses without weights.
        task: what a label is: `classification`, `binary`, `multilabel`, `regression`, or an object such as
            `Regression(likelihood="laplace")`; None for what the data say, classes of arrays.
        model: class or function that makes an untrained network with logits `[B, C]`, or, in a regression, predictions
            `[B, D]`; it is passed `input_shape` and `num_classes` (or `num_outputs`) if it takes parameters of these
            names. It may be left out where no network is trained, and where the records have a form (texts, sounds, a
            table, several arrays, `kinds`): then it is the architecture that fits the form, which the report says. For
            a trained network it must be given.
        model_output: what the networks of `model` give: logits, probabilities, log_probabilities, or auto for what they
            are seen to give.
        membership: who trains on what, as a plan; `given` follows by itself for a target that is trained already, where
            the data say what it was trained on.
        target: what is attacked; a trained `nn.Module` is attacked as it is, and so are the checkpoint at a path and a
            fitted estimator, with `membership=Given(...)`; an estimator that is not fitted, or the class of one, is
            fitted here.
        shadow: number and source of the shadow models.
        shadow_estimator: an estimator, or what makes one, for the shadow models; `own` for what the target is where
            that is an estimator, else networks of `model`; None for networks; `auto` for `own`, but for networks where
            `model` is given beside a target that is trained already.
        attacks: what is run; `ratio_offline` of the default set is left out, and said to be, where it cannot be run.
        defenses: of the target, applied in this order.
        adaptive: whether the attacker knows them and imitates them on the shadow models.
        guess: what the attacker assumes of the target's architecture and training; None for what they are.
        skip_inapplicable: whether attacks that the plan cannot serve are left out, and said to be, or refused.
        convergence: whether each attack is fitted again on a quarter and on half of the shadow models, for the verdict
            whether more of them would help; attacks that train networks train them for each number.
        canaries: records to be replaced by such as a model can only know by heart, for a group of their own beside the
            natural records; None for none.
        training: of target and shadow models; random steps of the training transform of `data` join it where it has no
            augmentation of its own.
        trainer: accelerator, precision, callbacks; a `pl.Trainer` also gives its epochs, clipping and accumulation, and
            where `model` is left out, the module that it has fitted is the target, with data and model of that fit.
        store: where trained models and their answers are found and kept; None for nowhere.
        shard: which part of the shadow models this job trains into the store; None for the audit itself.
        seed: all random draws are functions of it and of their names.
        output: folder for the files of the run; None writes none.
        save_models: whether target.safetensors and shadow.safetensors are written there, and of one target members.csv.
        gate: the limit that the figures are held against; None for none. The verdict stands in the report.
        report: names on the first page of the report.
        logger: where the run is logged beside its files, such as `WandbReport`.
        console: where progress is shown; None shows none.
        config: is repeated in the report.

    Raises:
        InputError: a value that cannot be used, or two that exclude each other.

    Example:
        >>> import mia_lightning as mia
        >>> from sklearn.datasets import load_digits
        >>> from torch import nn
        >>> x, label = load_digits(return_X_y=True)
        >>> audit = mia.Audit(x / 16, label, model=lambda: nn.Linear(64, 10), seed=1)
        >>> len(audit.population), [attack.name for attack in audit.attacks]
        (1797, ['shokri', 'loss', 'ratio_offline'])
        >>> mia.Audit(x / 16, label, model=lambda: nn.Linear(64, 10), seed="one")
        Traceback (most recent call last):
        ...
        mia_lightning.errors.SettingError: `seed` is 'one'; it must be a whole number.
    """

    data: SkipValidation[Population | Array | Any] = field(kw_only=False)
    label: SkipValidation[Array] | None = field(default=None, kw_only=False)
    kinds: SkipValidation[Kinds] | None = None
    weight: SkipValidation[Array] | None = None
    task: NamedTask = None
    model: MakesNetwork = no_network
    model_output: Annotated[OutputForm, Place("model.output")] = "auto"
    membership: Annotated[Plan, _PLAN] = field(default_factory=Disjoint)
    target: Annotated[Target | nn.Module | str | Path, BeforeValidator(_as_target), _TARGET] = field(
        default_factory=Trained
    )
    shadow: Annotated[Source, _SOURCE] = field(default_factory=Real)
    shadow_estimator: Annotated[Any, Place("shadow.estimator")] = "auto"
    attacks: Annotated[Sequence[Annotated[Attack, _ATTACK]], FromList, Place("attack")] = DEFAULT_ATTACKS
    defenses: Annotated[Sequence[Annotated[Defense, _DEFENSE]], FromList, Place("defense")] = ()
    adaptive: Annotated[bool, Place("defense.adaptive")] = True
    guess: Guess | None = None
    skip_inapplicable: bool = False
    convergence: bool = False
    canaries: Annotated[Canaries | None, Place("canary")] = None
    training: Recipe = field(default_factory=default_recipe)
    trainer: Annotated[TrainerSettings, BeforeValidator(as_settings)] = field(default_factory=TrainerSettings)
    store: Store | None = None
    shard: Shard | None = None
    seed: int = 0
    output: PathLike | None = None
    save_models: bool = False
    gate: Gate | None = None
    report: About = field(default_factory=About)
    logger: Annotated[Any, _LOGGER] | None = None
    console: Console | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _of_fit(cls, given: ArgsKwargs) -> ArgsKwargs:
        """What a Trainer that has fitted fills in."""
        _check_place(given)
        return of_fit(given)

    def __post_init__(self) -> None:
        check_order({"x": self.data, "`member_N`": getattr(self.membership, "member_N", None)}, "data")
        population = _as_population(self.data, self.label, weight=self.weight, kinds=self.kinds, task=self.task)
        population.task.check_all(population.label_N, population.class_names, population.name)
        object.__setattr__(self, "data", population)
        object.__setattr__(self, "task", population.task)
        for name in ("label", "weight", "kinds"):
            object.__setattr__(self, name, None)
        _check_names([attack.name for attack in self.attacks])
        twice = next((each for i, each in enumerate(self.defenses) if each in self.defenses[:i]), None)
        if twice is not None:
            raise InputError(f"`defense` holds {twice.name} twice, with the same settings; give it once.")
        self._check_models()
        if self.gate is not None:
            self.gate.check_attack([attack.name for attack in self.attacks])
        if self.save_models and not self.attacked.has_weights:
            raise InputError(
                "`save_models` is true, but the target's weights never leave its server; set it to false."
                if self.attacked.own_kind is None
                else "`save_models` is true, but estimators have no weights for safetensors; set it to false."
            )
        object.__setattr__(self, "training", _as_the_data_say(self.training, self.population))
        if self.guess is not None and self.guess.training is not None:
            training = _as_the_data_say(self.guess.training, self.population)
            object.__setattr__(self, "guess", replace(self.guess, training=training))
        if self.attacked.is_trained_here:
            return
        if self.population.member_N is not None and self.membership == Disjoint():  # as nobody has chosen another
            object.__setattr__(self, "membership", Given())
        if self.membership.draws_target:
            mend = "say what it was trained on by membership=given"
            if self.population.member_N is not None:
                mend = "leave `membership` out, since the data say what it was trained on"
            raise InputError(
                f"The target is trained already, but membership={self.membership.name} would draw its members at "
                f"random; {mend}."
            )
        if self.canaries is not None:
            raise InputError(
                f"`canary.count` is {self.canaries.count}, but the target is trained already, and not on canaries; set "
                "it to 0, or train the target here."
            )

    def _check_models(self) -> None:
        """Refuse models that nothing makes, or that do not answer as the task asks."""
        if isinstance(self.shadow_estimator, str) and self.shadow_estimator not in ("auto", "own"):
            rest = f"is {self.shadow_estimator!r}; it must be an estimator, what makes one, own, auto or null."
            raise SettingError("shadow", "estimator", rest)
        for making in self.fitted_here:
            making.check(self.population.task.outputs)
        if self.uses_networks and self.model is no_network:
            self._choose_model()

    def _choose_model(self) -> None:
        """Let the architecture fit the form of the records; nothing tells that of a network that somebody has trained.

        Raises:
            InputError: the records have no form, or none that an architecture takes, or the target is such a network.
        """
        is_free = self.attacked.is_trained_here or not self.attacked.has_weights
        if self.population.form is None or not is_free:
            raise SettingError("", "model", f"is not set; give {in_words(MakesNetwork)}.")
        name, remark = chosen_for(self.population)
        object.__setattr__(self, "data", replace(self.population, remarks=(*self.population.remarks, remark)))
        object.__setattr__(self, "model", ARCHITECTURES[name])
        if self.config:
            object.__setattr__(self, "config", {"model": {"_target_": path_of(name)}, **self.config})

    @property
    def shadow_estimators(self) -> Making | None:
        """What makes the shadow models where they are estimators; None for networks."""
        given = self.shadow_estimator
        if given is None:
            return None
        if not isinstance(given, str):
            own = self.attacked.own_kind
            if own is None:
                return Making(make=given, weighs_leaves=self.attacked.is_trained_here)
            return replace(own, make=given)
        is_own = given == "own" or self.attacked.is_trained_here or self.model is no_network
        return self.attacked.own_kind if is_own else None

    @property
    def fitted_here(self) -> tuple[Making, ...]:
        """What makes the estimators that are fitted here, of targets and of shadow models."""
        of_target = self.attacked.own_kind if self.attacked.is_trained_here else None
        return tuple(each for each in (of_target, self.shadow_estimators) if each is not None)

    @property
    def uses_networks(self) -> bool:
        """Whether networks of `model` play a part, as targets or as shadow models."""
        target = self.attacked
        return self.shadow_estimators is None or (target.takes_recipe and not target.is_every_model)

    @property
    def trains_network_shadows(self) -> bool:
        """Whether networks are trained here as shadow models."""
        return self.shadow_estimators is None and not self.attacked.trains_shadows

    @property
    def population(self) -> Population:
        """The records, without canaries."""
        assert isinstance(self.data, Population)
        return self.data

    @property
    def attacked(self) -> Target:
        """What is attacked."""
        assert isinstance(self.target, Target)
        return self.target

    @property
    def folder(self) -> Path | None:
        """For the files of the run; None where it writes none."""
        return None if self.output is None else Path(self.output)

    @property
    def needs(self) -> Needs:
        """What the attacks need together."""
        return needs_of(self.attacks)

    @property
    def output_defenses(self) -> tuple[OutputDefense, ...]:
        return split_defenses(self.defenses)[0]

    @property
    def training_defenses(self) -> tuple[TrainingDefense, ...]:
        return split_defenses(self.defenses)[1]

    def may_leave_out(self, attack: Attack) -> bool:
        """Whether the attack is left out, and said to be, where the plan cannot serve it; else that is refused."""
        return self.skip_inapplicable or is_optional(attack, self.attacks)

    @property
    def refused_attacks(self) -> Sequence[Attack]:
        """The attacks of which each must be one that the plan can serve."""
        return [attack for attack in self.attacks if not self.may_leave_out(attack)]


def _check_place(given: ArgsKwargs) -> None:
    """Refuse a model in the place of `label`, the second argument, and an estimator in that of a network.

    Raises:
        InputError: it is there.
    """
    args = given.args
    model = (given.kwargs or {}).get("model")
    if is_estimator(model) or makes_estimator(model):
        raise InputError(
            f"`model` is {shown(model)}, which makes no network but is an estimator: give it by target=..., which is "
            "fitted here, or attacked as it is where it is fitted already."
        )
    label = args[1] if len(args) > 1 else (given.kwargs or {}).get("label")
    if not callable(label):  # no array is
        return
    name = getattr(label, "__name__", None)
    mend = f"give it by its name, model={name}" if name else "give it as target=..., and its class as model=..."
    raise InputError(f"`label`, the second argument, is {shown(label)}, which is no array of labels; {mend}.")


def _as_the_data_say(training: Recipe, population: Population) -> Recipe:
    """With the random steps of the data's own training transform, where the recipe has no augmentation."""
    return training if training.augment or not population.augment else replace(training, augment=population.augment)


def _as_population(
    data: Any, label: Array | None, *, weight: Array | None, kinds: Kinds | None, task: Task | None
) -> Population:
    if isinstance(data, Population) or is_own(data):
        name = data.__name__ if isinstance(data, type) else type(data).__name__
        if kinds is not None:
            raise InputError(
                f"`kinds` is given beside {name}; it goes with arrays, so give it to make_population or Population.of."
            )
        if label is not None:
            raise InputError(f"`label` is given beside a {name}, which has labels of its own; leave it out.")
        if weight is not None:
            raise InputError(
                f"`weight` is given beside a {name}; make a Population with weights by make_population, or by "
                "dataclasses.replace with weight_N."
            )
        population = data if isinstance(data, Population) else Population.of(data, task=task)
        return population if task is None else population.under(task)
    if label is None:
        raise InputError(
            "`label` is missing; give the class of each record, or as the first argument a Population, as "
            "Population.of makes one of a dataset."
        )
    return make_population(data, label, weight=weight, kinds=kinds, task=task)


def _check_names(names: Sequence[object]) -> None:
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"An attack has the name {name!r}; give a word of letters, digits, dots and hyphens.")
    if not names:
        raise InputError("`attack` is empty; choose at least one, such as attack=[shokri,loss].")
    if len(set(names)) < len(names):
        raise InputError(f"`attack` has the names {names}; give each attack a `name` of its own.")
