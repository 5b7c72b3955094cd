"""`report.json`: typed, versioned, and the same object that `mia_lightning.audit` returns."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from mia_lightning.metrics.figures import THESE_MODELS, Figure, Figures
from mia_lightning.reports.endpoint_section import EndpointSection
from mia_lightning.reports.names import SCHEMA as SCHEMA
from mia_lightning.reports.privacy_section import PrivacySection
from mia_lightning.reports.run_section import RunSection
from mia_lightning.reports.scores import Scores, TrainingCurves
from mia_lightning.reports.section import Section
from mia_lightning.terminal.amounts import show


class SetSection(Section):
    """One of the user's own sets that the records come from, in their order."""

    name: str  # training set, validation set, test set
    source: str  # what gave it, such as train_dataloader
    num_records: int
    is_training: bool


class FieldSection(Section):
    """One tensor of a record."""

    name: str  # "" where the record is this tensor alone
    kind: str  # numeric, image, tokens, waveform, category
    shape: tuple[int, ...]
    sizes: tuple[int, ...] = ()  # of tokens the number of ids, of categories that of the codes of each entry
    columns: tuple[str, ...] = ()
    has_gaps: bool = False
    sample_rate: int | None = None  # in Hz

    @classmethod
    def of_all(cls, fields: Iterable[object]) -> "tuple[FieldSection, ...]":
        """Of the fields of a form (`datasets.form.Field`)."""
        return tuple(cls(**{name: getattr(field, name) for name in cls.model_fields}) for field in fields)

    @property
    def words(self) -> str:
        """For sentences, such as `waveform [4000] at 8,000 Hz`."""
        rate = "" if self.sample_rate is None else f" at {self.sample_rate:,} Hz"
        words = f"{self.kind} {list(self.shape)}{' with gaps' if self.has_gaps else ''}{rate}"
        return f"`{self.name}` ({words})" if self.name else words


class TaskSection(Section):
    """What a record's answer is, and in which words the report speaks of it."""

    name: str = "classification"
    utility: str = "accuracy"  # what train_accuracy and test_accuracy are
    stratum: str = "class"  # what per_class is about
    strata_name: str = "classes"
    stratum_utility: str | None = None  # what the accuracies of a part are, where that is not `utility`
    seen: str = "all probabilities"  # of an answer


class DatasetSection(Section):
    """`num_classes` and `class_names` are those of what per_class is about (`TaskSection.strata_name`)."""

    name: str
    num_records: int
    num_classes: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    form: tuple[FieldSection, ...] | None = None  # of records that are not one tensor of numbers or pixels
    fingerprint: str  # SHA-256 of records and labels in row order
    values: tuple[str, ...] = ()  # predicted: labels or numbers; empty for classes
    sets: tuple[SetSection, ...] = ()  # empty where the records come from one set

    @property
    def record_words(self) -> str:
        """What a record is, behind the word: `of shape 1 × 8 × 8`, `that are tokens [32]`."""
        if self.form is None:
            return f"of shape {' × '.join(map(str, self.input_shape))}"
        return f"that are {', '.join(field.words for field in self.form)}"


class MembershipSection(Section):
    plan: str  # disjoint, halves, given
    num_members: int  # of one target
    num_nonmembers: int
    shadow_train_size: int
    num_validation: int
    duplicates_across_boundary: int  # members of the first target that are also, value for value, a non-member
    # Members of the first target that nearly equal a non-member; null with too few non-members to say.
    near_duplicates_across_boundary: int | None = None
    num_compared_for_near_duplicates: int | None = None  # members compared: all, or a random sample


class TargetClass(Section):
    """Accuracies are null for a class without members (train) or non-members (test)."""

    class_index: int
    class_name: str
    num_members: int
    num_nonmembers: int
    train_accuracy: float | None
    test_accuracy: float | None
    generalization_gap: float | None


class TargetGroup(Section):
    """Means over targets; null for a group without members (train) or non-members (test)."""

    group_name: str
    train_accuracy: float | None
    test_accuracy: float | None
    generalization_gap: float | None


class TargetSection(Section):
    """The model under attack; accuracies (`TaskSection.utility`) are means over targets where there are several."""

    architecture: str
    num_parameters: int | None  # null where it is not known
    size_unit: str = "parameters"  # what num_parameters counts: parameters, or nodes of trees
    num_targets: int
    train_accuracy: float
    test_accuracy: float
    generalization_gap: float  # train_accuracy - test_accuracy
    trains_itself: bool = False  # whether its kind is trained by the training_step of a LightningModule
    private_training: str | None = None  # why defense=dp_sgd does not train its kind; null where nothing is known
    per_class: tuple[TargetClass, ...]
    per_group: tuple[TargetGroup, ...] = ()  # as many as each attack's, in the same order


class LeavesSection(Section):
    """The leaves of the target's trees; means over targets."""

    num_trees: float
    num_leaves: float
    num_nodes: float
    num_records: float  # that it was trained on
    alone: float  # share of these that are the only one in a leaf of some tree
    disclosed: float  # share in a leaf, of some tree, of one class with 2 to 9 of them


class StructureSection(Section):
    """What the structure of the target gives away by itself."""

    leaves: LeavesSection | None  # null where they are not known


class TrustSection(Section):
    """Whether the target is what it is taken for; the figures of a void or unconfirmed one are no evidence."""

    verdict: Literal["void", "unconfirmed", "sound", "not checked"]  # not checked: the target was trained here
    reasons: tuple[str, ...] = ()  # what speaks against it
    cause: str | None = None  # the likely one
    mend: str | None = None
    correlation: float | None = None  # of its signals' ranks with the shadow models', within classes; null: not judged
    understated: str | None = None  # why the attacks may find less than leaks; null where nothing says so
    notes: tuple[str, ...] = ()  # what was not checked


class SynthesisClass(Section):
    """Numbers are null if the source does not work class by class."""

    class_index: int
    class_name: str
    num_records: int  # of this label
    num_wanted: int | None
    num_queries: int | None  # to the target, for this class


class SynthesisSection(Section):
    """How shadow records were made that are not real."""

    num_records: int  # without exact duplicates
    num_queries: int  # to the target, including failed attempts
    queries_per_record: float
    per_class: tuple[SynthesisClass, ...]
    failed_classes: tuple[str, ...]  # wanted, but without any record


class DefenseSection(Section):
    """Mitigations of the target."""

    names: tuple[str, ...]
    description: str
    adaptive: bool  # whether the attacker of the plainly named attacks knows them


class AboutSection(Section):
    """What the user calls the audit; null where nothing is said."""

    title: str | None = None
    model: str | None = None  # name and version
    owner: str | None = None  # who is responsible for the model


class GatedAttackSection(Section):
    """The gated figure of one attack."""

    attack: str
    value: float | None  # mean over targets; null where it cannot be judged
    low: float  # limits, corrected for the number of attacks
    high: float
    records_to_settle: int | None  # members, and non-members, with which the limits would exclude the gate's
    reason: str | None  # why there is no value


class GateSection(Section):
    """Whether the leakage stays below a limit; `gate.json` has the same content."""

    status: Literal["below", "above", "undetermined"]
    exit_code: int
    sentence: str
    figure: str
    limit: float
    confidence: float
    attack: str  # "worst": all attacks
    attacks: tuple[GatedAttackSection, ...]
    num_members: int  # of one target
    num_nonmembers: int
    records_to_settle: int | None


class ShadowSection(Section):
    source: str  # real, noisy, marginal, model_based
    architecture: str
    count: int
    left_out: tuple[int, ...]  # shadow models that were no longer finite, and their complements
    synthesis: SynthesisSection | None = None  # null for real records
    train_accuracy: float
    test_accuracy: float


class ThreatModelSection(Section):
    """What the attacker sees, has and knows."""

    access: str  # what the attacker sees of an answer: "full" (all probabilities, unrounded), "top 3 classes", ...
    queries_per_record: int  # of one target, by all attacks together; that of one attack is its `queries`
    synthesis_queries: int  # to the target, to synthesise shadow records
    # Records of the shadow models: the scored ones, others of the same population, or synthesised ones.
    shadow_records: Literal["same", "disjoint", "synthetic"]
    num_known: int  # records of the targets whose membership the attacker knows beforehand
    num_population: int  # real records that no model trained on, reserved for attacks
    # Architecture and training of the shadow models: those of the target, the same without the target's defences, those
    # of the service that trained the target, or guesses.
    training: Literal["same", "undefended", "service", "guessed"]
    num_shadows: int  # for one target
    in_models: int  # the fewest shadow models that trained on a scored record
    out_models: int  # the fewest that did not
    knows_defenses: bool | None  # the attacker of the plainly named attacks; null without defences
    # By attack: the data on which its threshold and settings were chosen; never the scored records.
    chosen_on: dict[str, Literal["shadow_models", "population", "nothing"]]
    members: Literal["drawn", "given"]  # drawn at random for targets that were trained here, or named by the user
    members_from: str | None = None  # what named them; null where they were drawn


class ConvergencePoint(Section):
    """With `num_shadows` shadow models."""

    num_shadows: int
    auc: Figure
    tpr: Figure  # at 1 % FPR


class ConvergenceSection(Section):
    """Whether more shadow models would help an attack."""

    points: tuple[ConvergencePoint, ...]  # a quarter, half and all of them
    gain: float | None  # in AUC, from half of them to all; null without a verdict
    gain_low: float | None  # its one-sided lower 97.5 % limit, by a paired bootstrap over records; null likewise
    verdict: Literal["still rising", "settled"] | None  # still rising: the limit is above 0
    reason: str | None  # why there is no verdict


class ClassFigures(Figures):
    class_index: int
    class_name: str
    auc_simultaneous: Figure | None = None  # the AUC with limits that hold for all classes at once (Bonferroni)


class GroupFigures(Figures):
    """Of the records of one group of the data set, or of canaries and of natural records."""

    group_name: str
    auc_simultaneous: Figure | None = None  # the AUC with limits that hold for all groups at once (Bonferroni)


class ExposedRecord(Section):
    """One record over the targets that it is in and out of; limits are 95 % for one record, chosen beforehand."""

    record: int  # place in the data
    record_name: str | None = None  # such as the path of its file; null where records have no names
    class_name: str
    num_in: int  # targets that it is in
    share_in: float  # of these that flag it
    share_in_low: float
    share_in_high: float
    num_out: int
    share_out: float
    share_out_low: float
    share_out_high: float
    advantage: float  # share_in - share_out
    p_adjusted: float  # that it is flagged more often where it is in, adjusted for all records
    is_confirmed: bool  # found on one half of the targets and confirmed on the other


class VulnerabilitySection(Section):
    """Which records an attack finds, over several targets; `table` (columns by name) is not part of the JSON."""

    num_records: int  # in at least one target and out of at least one
    num_candidates: int  # discoveries of the first half of the targets, a tenth of them false at most in expectation
    num_confirmed: int  # on the second half; any false one among them with a probability of 5 % at most
    stability: Figure  # rank correlation of the records' advantages between the halves
    most_exposed: tuple[ExposedRecord, ...]  # at most ten, the confirmed ones first
    table: Annotated[SkipJsonSchema[dict[str, np.ndarray[Any, Any]] | None], Field(exclude=True)] = None


class AttackSection(Section):
    """One attack against the target(s)."""

    name: str
    description: str  # one sentence: what it looks at ("log_probabilities"), its model, its threshold
    defense: str | None = None  # output defence in place; null for none
    adaptive: bool = False  # whether the attacker knew the defence and adapted
    queries: int = 1  # for each record of a target
    convergence: ConvergenceSection | None = None  # null where it was not measured
    num_targets: int  # over which the figures are means; 1 where the targets are trials of one canary, and all n
    estimand: str = THESE_MODELS  # what the intervals are about
    overall: Figures
    per_class: tuple[ClassFigures, ...]
    per_group: tuple[GroupFigures, ...] = ()  # empty where the records have no groups
    vulnerability: VulnerabilitySection | None = None  # null where no record is in one target and out of another


class GainSection(Section):
    """A figure with the knowledge of the defence less that without, and the limits of its paired 95 % interval."""

    value: float | None  # null where one of both is undefined
    low: float | None
    high: float | None
    interval: str  # how the limits were found, or "none: " and why there are none


class KnowledgeSection(Section):
    """What an attacker gains by knowing the defence."""

    attack: str  # by who knows it
    less: str  # the same by who does not
    estimand: str  # what the intervals are about
    gains: dict[str, GainSection]  # auc, advantage


class AuditReport(Section):
    """What an audit found: the content of `report.json`, with the raw scores beside it.

    `scores`, `record_names` (of all records; () where they have none), `training_curves` (by stack: "target", "shadow",
    "attack/shokri") and `pictures` (of the most exposed records, by their place in the data, where they are images:
    `[H, W]` or `[H, W, 3]` uint8) are not part of the JSON: scores and names are in `scores.parquet`; a report that was
    read back has none of them.
    """

    schema_: Literal["mia_lightning.report/2"] = Field(default=SCHEMA, alias="schema")
    headline: str = ""  # the result in one line; that the audit cannot be trusted, where it cannot
    trust: TrustSection = Field(default_factory=lambda: TrustSection(verdict="not checked"))
    about: AboutSection = Field(default_factory=AboutSection)
    task: TaskSection = Field(default_factory=TaskSection)
    run: RunSection
    dataset: DatasetSection
    membership: MembershipSection
    target: TargetSection
    shadow: ShadowSection
    defense: DefenseSection | None = None  # null for none
    privacy: PrivacySection | None = None  # null without a guarantee and without canaries
    threat_model: ThreatModelSection | None = None
    endpoint: EndpointSection | None = None  # null for a target that is not served by somebody else
    structure: StructureSection | None = None  # null for a target that is no estimator
    gate: GateSection | None = None  # null without one
    attacks: tuple[AttackSection, ...]
    knowledge: tuple[KnowledgeSection, ...] = ()  # empty where no attack was run with and without it
    warnings: tuple[str, ...]
    broken: tuple[str, ...] = ()  # those of the warnings after which low figures are no evidence
    notes: tuple[str, ...] = ()  # where model, epochs and members come from; what attacks left out or were not run
    scores: Annotated[SkipJsonSchema[Scores | None], Field(exclude=True)] = None
    record_names: Annotated[SkipJsonSchema[tuple[str, ...]], Field(exclude=True)] = ()
    training_curves: Annotated[SkipJsonSchema[dict[str, TrainingCurves] | None], Field(exclude=True)] = None
    pictures: Annotated[SkipJsonSchema[dict[int, np.ndarray[Any, Any]] | None], Field(exclude=True)] = None

    @property
    def understated(self) -> str | None:
        """Why low figures are no evidence that nothing leaks; None where nothing speaks against them."""
        return self.trust.understated or next(iter(self.broken), None)

    def __repr__(self) -> str:
        """Five lines; the fields hold the rest."""
        target, about, utility = self.target, self.about, self.task.utility
        areas = [(each.overall.auc.value, each.name) for each in self.attacks if each.overall.auc.value is not None]
        best = f"AUC {max(areas)[0]:.3f} ({max(areas)[1]})" if areas else "no AUC"
        gate = "none" if self.gate is None else self.gate.status
        return "\n".join(
            (
                f"AuditReport: {self.headline or self.trust.verdict}".replace("\u00a0", " "),
                f"  target: {about.model or target.architecture} on {self.dataset.name}, train "
                f"{utility} {show(target.train_accuracy)}, test {utility} {show(target.test_accuracy)}",
                f"  attacks: {', '.join(each.name for each in self.attacks[:8])}"
                f"{f' and {len(self.attacks) - 8} more' if len(self.attacks) > 8 else ''}; {best}",
                f"  {self.shadow.count:,} shadow models, seed {self.run.seed}; gate: {gate}",
                f"  {len(self.warnings)} warning{'s' * (len(self.warnings) != 1)}, target {self.trust.verdict}",
            )
        )

    __str__ = __repr__
