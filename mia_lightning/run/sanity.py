"""The check of a given or served target: what its answers at hand, and free further ones, say of it."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mia_lightning.attacks.statistics import log_confidence
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership import Membership
from mia_lightning.metrics.sanity.answers import Answers, Array, Peers, Repair, Sanity
from mia_lightning.metrics.sanity.check import check_target
from mia_lightning.metrics.sanity.likelihood import Moved, Utilities, check_likelihood, output_order
from mia_lightning.run.definition import Audit
from mia_lightning.run.normalisations import described, normalisations, normalised, override
from mia_lightning.seeds import derive, generator
from mia_lightning.targets.interface import Target
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.models import Models
from mia_lightning.training.setup import Setup
from mia_lightning.training.signals import Signals

_MOST_PEERS = 64
Rows = np.ndarray[tuple[int], np.dtype[np.int64]]
_MOST_ASKED = 2048  # records that a local target is asked about under each normalisation
_MOST_PAID = 256  # likewise, of one that is asked for repairs at a cost
_ASKED_AGAIN = 64  # records whose answers are compared with a second one
_SAME = 0.01  # in a probability, or in deviations of a predicted number
_SHOWN_NAMES = 12  # outputs in a sentence


def check_given(
    audit: Audit, setup: Setup, models: Models, target_signals: Signals, shadow_signals: Signals, num_real: int
) -> Sanity:
    """The check of a target that is not trained here; `not checked` for others.

    Args:
        setup: with the membership whose shadow models gave `shadow_signals`.
        num_real: records on which the target was observed; synthetic ones follow.
    """
    if audit.attacked.is_trained_here:
        return Sanity(verdict="not checked")
    membership = setup.membership.columns(slice(0, num_real))
    setup = replace(setup, population=setup.population.part(slice(0, num_real)), membership=membership)
    _say_if_unsteady(audit, setup, models, target_signals)
    if not setup.population.task.has_classes:
        return _check_likelihood(setup.population, membership, target_signals, shadow_signals, audit.seed)
    log_NC = target_signals.log_probability_KANC[0, 0].cpu()
    label_N = setup.population.label_N.cpu()
    member_N = (membership.member_KN & membership.scored_KN)[0]
    whole = _answers(log_NC, label_N, member_N, membership.nonmember_KN[0], setup.population.class_names)
    answers = replace(whole, asked_N=membership.asked_N.numpy())
    hides = target_signals.form.kind == "labels"
    peers = _peers(shadow_signals, label_N, membership, hides_probabilities=hides)
    repairs = [
        *_other_members(answers),
        *_other_rows(answers, log_NC),
        *_other_normalisations(audit, setup, models, answers),
    ]
    return check_target(
        answers,
        peers,
        repairs=repairs,
        class_mend=lambda order: audit.attacked.class_mend(setup.population.class_names, order),
        expected_accuracy=audit.attacked.expected_accuracy,
        draw=derive(audit.seed, "sanity check"),
    )


def _say_if_unsteady(audit: Audit, setup: Setup, models: Models, signals: Signals) -> None:
    """Remark that a target in this process answers at random, if some records get another answer a second time; of a
    network that is told where it is obtained, of a server by its sentinels."""
    population, again = setup.population, _asked_again(audit.attacked, models, setup)
    if again is None or again is models:
        return
    draws = generator(audit.seed, "sanity check, asked again")
    asked = setup.membership.asked_N.nonzero()[:, 0]
    chosen_N = torch.zeros(len(population), dtype=torch.bool)
    chosen_N[asked[torch.randperm(len(asked), generator=draws)[:_ASKED_AGAIN]]] = True
    with closing(again):
        second = again.observe(population.chosen(chosen_N.to(population.device))).log_probability_KANC[0, 0].cpu()
    first = signals.log_probability_KANC[0, 0].cpu()
    unit = first[chosen_N].std() if not population.task.has_classes else None
    both = [each.exp() if unit is None else each / unit for each in (first[chosen_N], second)]
    num = int(((both[0] - both[1]).abs() > _SAME).any(1).sum())
    if num:
        setup.engine.stages.remark(
            f"The target answers {num} of {len(second)} records otherwise when it is asked again, as where it draws at "
            "random: its figures are those of one draw, and low ones are no evidence.",
            kind="broken",
        )


def _asked_again(target: Target, models: Models, setup: Setup) -> Models | None:
    """As `Target.asked_again`, without a word on what was said when it was obtained."""
    if not target.answers_others:
        return None
    return target.asked_again(models, replace(setup, engine=replace(setup.engine, stages=Stages())))


def _check_likelihood(
    population: Population, membership: Membership, target_signals: Signals, shadow_signals: Signals, draw: int
) -> Sanity:
    """The check of a target whose answers are no classes; `draw` is the seed of the records on which an order of its
    outputs is fitted."""
    task, label_N = population.task, population.label_N.cpu()
    first_K = torch.arange(len(shadow_signals.log_probability_KANC)) < _MOST_PEERS
    shadows, target = shadow_signals.select(first_K).to("cpu"), target_signals.to("cpu")
    out_KN = ~membership.member_KN[membership.shadows][: len(shadows.log_probability_KANC)]
    unit_D = task.unit(shadows.log_probability_KANC[:, 0], label_N.reshape(len(label_N), -1), out_KN)
    shadows, target = replace(shadows, unit_D=unit_D), replace(target, unit_D=unit_D)
    member_N = (membership.member_KN & membership.scored_KN)[0]
    nonmember_N = membership.nonmember_KN[0]
    answers = Answers(
        predicted_N=np.zeros(len(label_N), np.int64),
        signal_N=log_confidence(target, label_N)[0].numpy(),
        label_N=population.strata.number_N.cpu().numpy(),
        member_N=member_N.numpy(),
        nonmember_N=nonmember_N.numpy(),
        asked_N=membership.asked_N.numpy(),
        class_names=population.strata.names,
    )
    peers = Peers(
        signal_KN=_said(shadows).numpy(),
        is_right_KN=np.zeros(out_KN.shape, bool),
        out_KN=out_KN.numpy(),
    )
    answer_NC, scored_N = target.log_probability_KANC[0, 0], member_N | nonmember_N
    of_peers = [
        task.utility_of(shadow_NC[out_N], label_N[out_N])
        for shadow_NC, out_N in zip(shadows.log_probability_KANC[:, 0], out_KN & scored_N, strict=True)
    ]
    utilities = Utilities(
        all=task.utility_of(answer_NC[scored_N], label_N[scored_N]),
        nonmembers=task.utility_of(answer_NC[nonmember_N], label_N[nonmember_N]),
        peers=float(np.nanmean(of_peers)) if np.isfinite(of_peers).any() else float("nan"),
    )
    moved = {}
    for source_N, cause, _, judged_N in _orders(answers):
        source = torch.from_numpy(np.ascontiguousarray(source_N))
        other = replace(target, log_probability_KANC=target.log_probability_KANC[:, :, source])
        moved[cause] = Moved(log_confidence(other, label_N)[0].numpy(), judged_N, "give each record its own answer")
    half_N = torch.rand(len(label_N), generator=generator(draw, "sanity check, outputs")) < 0.5
    order = output_order(
        answer_NC[scored_N & half_N].numpy(), label_N.view(len(label_N), -1)[scored_N & half_N].numpy()
    )
    if order is not None:
        names = [population.class_names[c] for c in order]
        other = replace(target, log_probability_KANC=target.log_probability_KANC[..., np.argsort(order).tolist()])
        mend = f"put its outputs, which stand for {', '.join(names[:_SHOWN_NAMES])}, in the order of the data set"
        cause = "its outputs stand in another order than the labels"
        moved[cause] = Moved(log_confidence(other, label_N)[0].numpy(), ~half_N.numpy(), mend)
    members = [*_other_members(answers)]
    density_KN = log_confidence(shadows, label_N).numpy()
    return check_likelihood(task, answers, _said(target)[0].numpy(), peers, utilities, moved, members, density_KN)


def _said(signals: Signals) -> Tensor:
    """`Task.said` of each model and record, `[K, N]`; numbers in their units."""
    answer_KNC = signals.log_probability_KANC[:, 0]
    return signals.task.said(answer_KNC if signals.unit_D is None else answer_KNC / signals.unit_D)


def _answers(
    log_NC: Tensor, label_N: Tensor, member_N: Tensor, nonmember_N: Tensor, class_names: tuple[str, ...]
) -> Answers:
    return Answers(
        predicted_N=log_NC.argmax(1).numpy(),
        signal_N=log_NC.gather(1, label_N[:, None])[:, 0].double().numpy(),
        label_N=label_N.numpy(),
        member_N=member_N.numpy(),
        nonmember_N=nonmember_N.numpy(),
        asked_N=np.ones(len(label_N), bool),
        class_names=class_names,
    )


def _peers(signals: Signals, label_N: Tensor, membership: Membership, *, hides_probabilities: bool) -> Peers | None:
    """The shadow models on the target's records; their labels alone where the target gives no more."""
    signal, is_right, N = [], [], len(label_N)
    for log_ANC in signals.log_probability_KANC[:_MOST_PEERS]:
        log_NC = log_ANC[0, :N].cpu()
        is_right.append((log_NC.argmax(1) == label_N).numpy())
        signal.append(
            is_right[-1].astype(float)
            if hides_probabilities
            else log_NC.gather(1, label_N[:, None])[:, 0].double().numpy()
        )
    if not signal:
        return None
    out_KN = ~membership.member_KN[membership.shadows][:_MOST_PEERS]
    return Peers(signal_KN=np.stack(signal), is_right_KN=np.stack(is_right), out_KN=out_KN.numpy())


def _other_members(answers: Answers) -> Iterator[Repair]:
    """Members and non-members exchanged, and the members one row earlier or later."""
    yield Repair(
        cause="members and non-members are exchanged",
        mend="exchange them",
        answers=replace(answers, member_N=answers.nonmember_N, nonmember_N=answers.member_N),
        kind="members",
        judged_N=answers.scored_N,
    )
    for step, cause, mend in (
        (-1, "the members' rows stand one too late, as rows do that are counted from 1", "subtract 1 from each"),
        (1, "the members' rows stand one too early, as if a header had been counted as no row", "add 1 to each"),
    ):
        kept_N = np.ones(len(answers.label_N), bool)
        kept_N[-1 if step < 0 else 0] = False
        moved = replace(
            answers,
            member_N=np.roll(answers.member_N, step) & answers.scored_N & kept_N,
            nonmember_N=np.roll(answers.nonmember_N, step) & answers.scored_N & kept_N,
        )
        yield Repair(cause=cause, mend=f"{mend}, rows count from 0", answers=moved, kind="members", judged_N=kept_N)


def _other_rows(answers: Answers, log_NC: Tensor) -> Iterator[Repair]:
    """The answers one row earlier or later, the last one first, or of members before those of the others."""
    for source_N, cause, mend, judged_N in _orders(answers):
        moved = _moved(answers, log_NC, source_N)
        yield Repair(cause=cause, mend=mend, answers=moved, kind="order", judged_N=judged_N)


def _orders(answers: Answers) -> Iterator[tuple[Rows, str, str, Array]]:
    """Where the answer of each record would stand, what is wrong then, its mend, and the records that can be judged."""
    N, row_N = len(answers.label_N), np.arange(len(answers.label_N))
    behind = np.argsort(~answers.member_N, kind="stable")
    sources = [
        (row_N + 1, "rows shifted: each answer stands one row too late for its record", "move them up by one row"),
        (row_N - 1, "rows shifted: each answer stands one row too early for its record", "move them down by one row"),
        (row_N[::-1], "its answers stand in the reverse order of the records", "reverse them"),
        (
            np.argsort(behind),
            "its answers to the members stand before those to the others",
            "order them as the records",
        ),
    ]
    for source_N, cause, mend in sources:
        inside_N = (source_N >= 0) & (source_N < N)
        source_N = source_N.clip(0, N - 1)
        if not np.array_equal(source_N, row_N):
            yield source_N, cause, mend, inside_N & answers.asked_N & answers.asked_N[source_N]


def _moved(answers: Answers, log_NC: Tensor, source_N: Rows) -> Answers:
    source = torch.from_numpy(np.ascontiguousarray(source_N))
    signal_N = log_NC[source, torch.from_numpy(answers.label_N)].double().numpy()
    return replace(answers, predicted_N=answers.predicted_N[source_N], signal_N=signal_N)


def _other_normalisations(audit: Audit, setup: Setup, models: Models, answers: Answers) -> Iterator[Repair]:
    """The answers to the same records, otherwise normalised, where asking for them costs nothing or is wanted."""
    target, population = audit.attacked, setup.population
    again = None if population.form is not None else _asked_again(target, models, setup)
    if again is None:
        return  # what has a form is given to a model as the form says
    is_paid = again is models and not models.is_local
    scored = torch.from_numpy(answers.scored_N).nonzero()[:, 0]
    most = _MOST_PAID if is_paid else _MOST_ASKED
    draw = torch.randperm(len(scored), generator=generator(audit.seed, "sanity check, records"))[:most]
    chosen_N = torch.zeros(len(population), dtype=torch.bool)
    chosen_N[scored[draw]] = True
    part = population.chosen(chosen_N.to(population.device))
    for other in normalisations(part, as_network=target.sees_normalised):
        asked = normalised(part, other, as_network=target.sees_normalised)
        again = _asked_again(target, models, replace(setup, population=asked))
        assert again is not None
        try:
            signals = again.observe(asked)
        except InputError:  # it does not take such records, or the budget is spent
            continue
        finally:
            if again is not models:
                again.close()
        log_NC = torch.zeros(len(population), population.num_classes)
        log_NC[chosen_N] = signals.log_probability_KANC[0, 0].cpu()
        asked_answers = replace(
            _moved(answers, log_NC, np.arange(len(population))), predicted_N=log_NC.argmax(1).numpy()
        )
        yield Repair(
            cause=f"preprocessing: {described(other)}",
            mend=override(other, population, audit, as_network=target.sees_normalised),
            answers=asked_answers,
            judged_N=chosen_N.numpy(),
        )
