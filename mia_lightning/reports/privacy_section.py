"""The section of the report about differential privacy: the guarantee, and the epsilon that attacks rule out."""

from mia_lightning.reports.section import Section


class EpsilonBound(Section):
    """The epsilon that an attack rules out, with confidence over all attacks of the report together."""

    attack: str
    epsilon_low: float
    num_guesses: int
    num_correct: int


class TrialBound(Section):
    """The epsilon that an attack rules out by how often it flags models with the canary and without it.

    With confidence over all attacks of the report together.
    """

    attack: str
    epsilon_low: float
    threshold: float  # models that score at least this are flagged; chosen on the shadow models
    true_positives: int  # flagged of `TrialsSection.num_in`
    false_positives: int  # flagged of `TrialsSection.num_out`


class TrialsSection(Section):
    """Independent trainings with one canary or without it, all else equal."""

    record: int  # the canary's place in the data
    class_name: str  # its label
    is_natural: bool  # no canary was put in its place
    num_in: int
    num_out: int
    num_shadows: int  # other trials, on which thresholds were chosen
    largest_epsilon: float  # what an attack without a mistake would rule out with so many trials
    lower: tuple[TrialBound, ...]


class PrivacySection(Section):
    """Differential privacy of the target: the guarantee, and what attacks on its canaries rule out."""

    epsilon: float | None  # the upper bound; null without a guarantee
    delta: float
    statement: str
    num_canaries: int | None = None  # null if the plan has none, so that nothing can be ruled out
    confidence: float = 0.95
    lower: tuple[EpsilonBound, ...] = ()
    trials: TrialsSection | None = None  # null unless the targets are trials of one canary
