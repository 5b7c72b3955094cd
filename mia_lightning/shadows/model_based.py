"""Shadow records that are found by asking the target alone: Algorithm 1 of Shokri et al. (2017), section V-C."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.datasets.duplicates import first_occurrences
from mia_lightning.datasets.form import Form
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.seeds import counter_hash, derive
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast0, AtLeast1, ShareBelow1
from mia_lightning.shadows.domain import Domain, distinct, unit
from mia_lightning.shadows.interface import Source, Synthesis
from mia_lightning.shadows.labelled import duplicates_remark
from mia_lightning.targets.black_box import BlackBox

# Draws of a chain besides those of `distinct`, which counts from 0 to the number of features.
_VALUE, _EMIT = -1, -2


@settings("shadow")
class ModelBased(Source):
    """Hill climbing on the target's confidence in a class, then sampling by that confidence.

    A chain starts at a random record and re-randomises k features of the last accepted one at each iteration; it
    accepts what the target is at least as confident of. An accepted record of more than `conf_min` whose predicted
    class is the wanted one is emitted with the probability of that confidence, and ends its chain. After more than
    `rej_max` rejections in a row k is halved. A chain gives at most one record, so none feeds both members and
    non-members; the class of a record is, by construction, what the target predicts.

    Chain j of class c is a function of (seed, c, j) and the target's answers, whichever chains run beside it.

    Attributes:
        count: K, the number of shadow models.
        records_per_class: how many records of each class are wanted, and so how many chains are started.
        k_max, k_min: how many features are re-randomised, at first and at least.
        conf_min: an emitted record has more confidence than this.
        rej_max: how many rejections in a row are tolerated.
        iter_max: queries after which a chain ends without a record.
        rounds: each round after the first starts as many chains as records of a class are missing.
        batch: chains that run at once; bounds memory, not results.
    """

    count: AtLeast1 = 64
    records_per_class: AtLeast1 = 80
    k_max: AtLeast1 = 128
    k_min: AtLeast1 = 4
    conf_min: ShareBelow1 = 0.2
    rej_max: AtLeast0 = 10
    iter_max: AtLeast1 = 1000
    rounds: AtLeast1 = 2
    batch: AtLeast1 = 4096
    source: ClassVar[str] = "model_based"
    needs_records: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.k_min > self.k_max:
            raise InputError(f"`shadow.k_min` is {self.k_min}, more than `shadow.k_max` {self.k_max}; lower it.")

    def refusal(self, form: Form) -> str | None:
        """Of texts and sounds: no climb leads from random ones to what the target has learnt."""
        if not form.of_kind("tokens", "waveform"):
            return None
        return (
            f"shadow=model_based climbs from random records, and a record here is {form.words}, of which random ones "
            "lie far from all real ones; use shadow=real, noisy or marginal."
        )

    def synthesise(self, known: Population, target: BlackBox, *, seed: int) -> Synthesis:
        """The emitted records, by class and chain, without exact duplicates; only the form of `known` is used.

        Raises:
            InputError: no chain of any class emitted a record.
        """
        before, C = target.num_queries, known.num_classes
        domain = Domain.of(known)
        key = derive(seed, "shadow", "model_based")
        emitted: list[_Emitted] = []
        started_C, found_C = torch.zeros(C, dtype=torch.int64), torch.zeros(C, dtype=torch.int64)
        query_C = torch.zeros(C, dtype=torch.int64)
        for _ in range(self.rounds):
            short_C = self.records_per_class - found_C
            queue = _queue(key, started_C, short_C).to(known.device)
            started_C += short_C
            for part in self._run(queue, domain, target):
                emitted.append(part)
                found_C += torch.bincount(part.chain_B3[part.is_emitted_B, 1].cpu(), minlength=C)
                query_C.index_add_(0, part.chain_B3[:, 1].cpu(), part.queries_B.cpu())
        if not bool(found_C.any()):
            raise InputError(
                f"shadow=model_based found no record of any class in {int(started_C.sum())} chains and "
                f"{int(query_C.sum())} queries (k_max {self.k_max}, k_min {self.k_min}, conf_min {self.conf_min}, "
                f"iter_max {self.iter_max}); lower `shadow.conf_min`, raise `shadow.iter_max`, or use another `shadow`."
            )
        x_M, label_M, num_duplicates = _in_order(emitted)
        yield_C = torch.bincount(label_M.cpu(), minlength=C)
        assert target.num_queries - before == int(query_C.sum())
        return Synthesis(
            x_M=domain.stored(x_M),
            label_M=label_M,
            num_queries=int(query_C.sum()),
            yield_C=yield_C,
            wanted_C=torch.full((C,), self.records_per_class),
            query_C=query_C,
            remarks=self._remarks(known.class_names, yield_C, int(query_C.sum()), num_duplicates),
        )

    def _run(self, queue_Q3: Tensor, domain: Domain, target: BlackBox) -> Iterator["_Emitted"]:
        """Run the chains of the queue, `batch` at a time; a chain that ends makes room for the next."""
        chains = _Chains.start(queue_Q3[: self.batch], domain, self._k_max(domain))
        queue_Q3 = queue_Q3[self.batch :]
        while len(chains):
            has_ended_B, part = self._step(chains, domain, target)
            if bool(has_ended_B.any()):
                yield part
                chains = chains.select(~has_ended_B)
                room = self.batch - len(chains)
                chains = chains.joined(_Chains.start(queue_Q3[:room], domain, self._k_max(domain)))
                queue_Q3 = queue_Q3[room:]

    def _step(self, chains: "_Chains", domain: Domain, target: BlackBox) -> tuple[Tensor, "_Emitted"]:
        """One iteration of Algorithm 1 for all running chains, in place; returns which ended, and what they emitted."""
        key_B, class_B = chains.chain_B3[:, 0], chains.chain_B3[:, 1]
        answer_BC = target.predict(domain.stored(chains.proposal_BF)).double()
        confidence_B = answer_BC.gather(1, class_B[:, None]).squeeze(1)
        is_accepted_B = confidence_B >= chains.best_B
        is_candidate_B = is_accepted_B & (confidence_B > self.conf_min) & (answer_BC.argmax(1) == class_B)
        is_emitted_B = is_candidate_B & (unit(counter_hash(key_B, chains.iteration_B, _EMIT)) < confidence_B)
        chains.iteration_B += 1
        has_ended_B = is_emitted_B | (chains.iteration_B >= self.iter_max)
        part = _Emitted(
            chain_B3=chains.chain_B3[has_ended_B],
            x_BF=chains.proposal_BF[has_ended_B],
            is_emitted_B=is_emitted_B[has_ended_B],
            queries_B=chains.iteration_B[has_ended_B],
        )

        chains.accepted_BF[is_accepted_B] = chains.proposal_BF[is_accepted_B]
        chains.best_B[is_accepted_B] = confidence_B[is_accepted_B]
        chains.rejected_B += 1
        chains.rejected_B[is_accepted_B] = 0
        has_enough_B = chains.rejected_B > self.rej_max
        chains.k_B[has_enough_B] = ((chains.k_B[has_enough_B] + 1) // 2).clamp(min=min(self.k_min, domain.num_features))
        chains.rejected_B[has_enough_B] = 0
        chains.propose(domain)
        return has_ended_B, part

    def _k_max(self, domain: Domain) -> int:
        return min(self.k_max, domain.num_features)

    def _remarks(
        self, class_names: Sequence[str], yield_C: Tensor, num_queries: int, num_duplicates: int
    ) -> tuple[str, ...]:
        wanted = self.records_per_class
        num_records = int(yield_C.sum())
        remarks = [
            f"{num_records} of {wanted * len(class_names)} wanted records were found in {num_queries} queries "
            f"({num_queries / num_records:.0f} a record)."
        ]
        if num_duplicates:
            remarks.append(duplicates_remark(num_duplicates, num_records + num_duplicates))
        found = dict(zip(class_names, yield_C.tolist(), strict=True))
        failed = [name for name, count in found.items() if count == 0]
        short = [f"{name} ({count})" for name, count in found.items() if 0 < count < wanted]
        if failed:
            remarks.append(f"no record could be synthesised of the classes {', '.join(failed)}.")
        if short:
            remarks.append(f"fewer than {wanted} records were found of the classes {', '.join(short)}.")
        return tuple(remarks)


@dataclass(eq=False, kw_only=True)
class _Chains:
    """Running chains: `chain_B3` holds key, class and number of each; `iteration_B` counts its queries."""

    chain_B3: Tensor
    proposal_BF: Tensor
    accepted_BF: Tensor
    best_B: Tensor
    k_B: Tensor
    rejected_B: Tensor
    iteration_B: Tensor

    @classmethod
    def start(cls, chain_B3: Tensor, domain: Domain, k_max: int) -> "_Chains":
        """Chains at random records of the domain."""
        feature_F = torch.arange(domain.num_features, device=chain_B3.device)
        random_BF = counter_hash(chain_B3[:, :1], 0, _VALUE, feature_F)
        x_BF = domain.value(random_BF, feature_F.expand_as(random_BF))
        zero_B = torch.zeros_like(chain_B3[:, 0])
        return cls(
            chain_B3=chain_B3,
            proposal_BF=x_BF,
            accepted_BF=x_BF.clone(),
            best_B=zero_B.double(),
            k_B=zero_B + k_max,
            rejected_B=zero_B.clone(),
            iteration_B=zero_B.clone(),
        )

    def __len__(self) -> int:
        return len(self.chain_B3)

    def propose(self, domain: Domain) -> None:
        """Re-randomise `k_B` features of the accepted records."""
        self.proposal_BF = self.accepted_BF.clone()
        for k in self.k_B.unique().tolist():
            row_B = (self.k_B == k).nonzero().squeeze(1)
            key_B, iteration_B = self.chain_B3[row_B, 0], self.iteration_B[row_B]
            feature_BI = distinct(key_B, iteration_B, k, domain.num_features)
            random_BI = counter_hash(key_B[:, None], iteration_B[:, None], _VALUE, feature_BI)
            self.proposal_BF[row_B[:, None], feature_BI] = domain.value(random_BI, feature_BI)

    def select(self, kept_B: Tensor) -> "_Chains":
        return _Chains(**{name: tensor[kept_B] for name, tensor in vars(self).items()})

    def joined(self, others: "_Chains") -> "_Chains":
        if not len(others):
            return self
        return _Chains(**{name: torch.cat([tensor, vars(others)[name]]) for name, tensor in vars(self).items()})


@dataclass(frozen=True, eq=False, kw_only=True)
class _Emitted:
    """Chains that ended in one iteration, with the record that each emitted, if any, and its number of queries."""

    chain_B3: Tensor
    x_BF: Tensor
    is_emitted_B: Tensor
    queries_B: Tensor


def _queue(key: int, started_C: Tensor, short_C: Tensor) -> Tensor:
    """Key, class and number of the next `short_C` chains of each class, `[Q, 3]`; classes take turns."""
    rows = [(j, c) for c in range(len(short_C)) for j in range(int(started_C[c]), int(started_C[c] + short_C[c]))]
    number_Q, class_Q = torch.tensor(sorted(rows), dtype=torch.int64).view(-1, 2).unbind(1)
    return torch.stack([counter_hash(torch.tensor(key), class_Q, number_Q), class_Q, number_Q], 1)


def _in_order(emitted: Sequence[_Emitted]) -> tuple[Tensor, Tensor, int]:
    """Records and labels by class and number of their chain, without exact duplicates, and the number of duplicates."""
    chain_M3 = torch.cat([part.chain_B3[part.is_emitted_B] for part in emitted])
    x_MF = torch.cat([part.x_BF[part.is_emitted_B] for part in emitted])
    class_M, number_M = chain_M3[:, 1], chain_M3[:, 2]
    order_M = (class_M * (int(number_M.max()) + 1) + number_M).argsort()
    x_MF, class_M = x_MF[order_M], class_M[order_M]
    kept_M = first_occurrences(x_MF)
    return x_MF[kept_M], class_M[kept_M], len(x_MF) - len(kept_M)
