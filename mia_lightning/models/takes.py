"""Which records an architecture of this package takes: what its class says in `takes_records`."""

from dataclasses import dataclass

from mia_lightning.datasets.form import Form, Kind


@dataclass(frozen=True, kw_only=True)
class Takes:
    """What a record must be.

    Attributes:
        words: for sentences.
        kinds: of the tensor that a record is; of several tensors that of each.
        several: whether a record may also be several tensors.
        gaps: whether numbers may be missing.
        without_form: whether it takes numbers or pixels of which no form is known, as far as its own settings say what
            a form would say.
    """

    words: str
    kinds: tuple[Kind, ...]
    several: bool = False
    gaps: bool = False
    without_form: bool = True

    def fits(self, form: Form | None) -> bool:
        """Whether it takes records of this form."""
        if form is None:
            return self.without_form
        return (
            (form.is_one or self.several)
            and all(field.kind in self.kinds for field in form.fields)
            and (self.gaps or not any(field.has_gaps for field in form.fields))
        )


NUMBERS = Takes(words="one tensor of numbers or pixels, without gaps", kinds=("numeric", "image", "waveform"))
IMAGES = Takes(words="images", kinds=("image", "numeric"))
TOKENS = Takes(words="texts as one row of tokens", kinds=("tokens",), without_form=False)
RECORDINGS = Takes(words="recordings", kinds=("waveform",))
TABLE = Takes(words="numbers and categories", kinds=("numeric", "category"), several=True, gaps=True)
