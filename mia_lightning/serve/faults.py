"""Faults that a server makes on purpose; whether and which is drawn for each request for predictions."""

import math
from dataclasses import dataclass

from mia_lightning.errors import InputError
from mia_lightning.seeds import derive

# The unit interval is divided among them in this order.
KINDS = ("429", "500", "503", "cut", "garbage")
# With these the client knows that its records were not answered.
TURNED_AWAY = ("429", "503")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How often each kind of fault is made.

    `429` and `503` refuse a request before any of its records is answered. The other kinds replace the answer: `500`
    says that the server failed, `cut` breaks the connection in the middle of the answer, `garbage` is a body that
    cannot be read, with status 200.

    Attributes:
        shares: the probability of each kind (`KINDS`).
        seed: of the draws; the draw for a request is a function of it and of the request's number.
    """

    shares: dict[str, float]
    seed: int = 0

    @classmethod
    def parse(cls, text: str, seed: int) -> "Faults":
        """Faults from a text such as `429=0.1,cut=0.02`; the empty text means none.

        Raises:
            InputError: a kind is unknown or named twice, or its share is no probability.
        """
        shares: dict[str, float] = {}
        for part in filter(None, (each.strip() for each in text.split(","))):
            kind, _, share = part.partition("=")
            if kind not in KINDS:
                raise InputError(f"`--faults` has the kind {kind!r}; the kinds are {', '.join(KINDS)}.")
            if kind in shares:
                raise InputError(f"`--faults` names {kind} twice; name each kind once.")
            shares[kind] = _probability(kind, share)
        if sum(shares.values()) > 1:
            raise InputError(
                f"`--faults` has probabilities that add up to {sum(shares.values()):g}; let them add up to 1 or less, "
                "since a request meets at most one fault."
            )
        return cls(shares=shares, seed=seed)

    def of(self, request: int) -> str | None:
        """The fault that the request of this number meets; None for none."""
        drawn = derive(self.seed, "fault", request) / 2**63
        for kind in KINDS:
            drawn -= self.shares.get(kind, 0.0)
            if drawn < 0:
                return kind
        return None


def _probability(kind: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise InputError(f"`--faults` has {text!r} for {kind}; give a probability from 0 to 1, such as {kind}=0.1.")
    return share
