"""Whether an attack fits a plan and the records, known before anything is trained."""

from collections.abc import Callable

from torch import Tensor

from mia_lightning.attacks.interface import Attack, Needs
from mia_lightning.attacks.leave_one_out import fold_masks
from mia_lightning.attacks.views import view_refusal
from mia_lightning.datasets.form import Form
from mia_lightning.errors import InputError
from mia_lightning.membership import Membership
from mia_lightning.tasks import Task

# Shadow models are counted up to this many times what an attack needs, for the number that serves it.
_MOST_TIMES = 16


def refusal(
    attack: Attack,
    membership: Membership,
    input_shape: tuple[int, ...],
    *,
    form: Form | None = None,
    answers_others: bool = True,
    folds: int = 0,
    task: Task | None = None,
    with_count: Callable[[int], Membership] | None = None,
) -> str | None:
    """Why the attack cannot be run, in one sentence that names the mend; None where it can.

    Args:
        form: of the records, where they have one.
        answers_others: whether the target can be asked about other records than those of the data set.
        folds: into how many the models are divided where each is a target; else 0.
        task: of the records; None for classes.
        with_count: the plan with another number of shadow models, for the number that would do.
    """
    needs, name = attack.needs, f"attack={attack.name}"
    if needs.classes and task is not None and not task.has_classes:
        what = "asks about changed copies of images" if needs.views else "reads the probabilities of classes"
        return (
            f"{name} {what}, of which a record has one, and under task={task.name} there are none; choose attacks that "
            "read the likelihood of a record, such as loss, lira_online or rmia_online."
        )
    if needs.right and task is not None and not task.can_be_right:
        asked = "asks about changed copies of records, and" if needs.views else "asks"
        return (
            f"{name} {asked} whether classes or labels are predicted right, and under task={task.name} an answer is "
            f"{task.seen}; choose attacks that read the likelihood of a record, such as loss, lira_online or "
            "rmia_online."
        )
    if needs.views and not answers_others:
        return (
            f"{name} asks about changed copies of records, and the target has answers for the data set's own alone; "
            "choose attacks that ask for no more, such as shokri, loss or lira_offline."
        )
    for view in needs.views:
        reason = view_refusal(view, input_shape, form)
        if reason is not None:
            return f"{name}: {reason}"
    if needs.population and not len(membership.population_N):
        mend = "set `membership.population` to their number"
        if membership.has_coins:  # all records that are no evidence are in every model
            mend = f"membership={membership.plan_name} has none, so use membership=halves"
        return f"{name} needs records that are evidence about no model; {mend}."
    in_N, out_N = _counts(membership)
    num_shadows = len(membership.block_K[membership.shadows])
    reason = missing_models(attack.name, needs, in_N, out_N, membership.plan_name, num_shadows)
    if reason is None and not _serves(needs, membership, folds):
        reason = too_few_to_compare(attack.name, num_shadows, membership.plan_name)
    if reason is None or with_count is None or _never(needs, in_N, out_N):
        return reason
    count = _smallest_count(needs, membership, folds, with_count)
    if count is None or count <= num_shadows:
        return reason
    return f"{reason.rpartition(';')[0]}; raise `shadow.count` to at least {count}."


def missing_models(
    name: str,
    needs: Needs,
    in_N: Tensor,
    out_N: Tensor,
    plan_name: str,
    num_shadows: int,
    *,
    offline: str | None = None,
) -> str | None:
    """Why records lack shadow models to be compared with, in one sentence; None where they do not.

    Args:
        in_N, out_N: int64; the shadow models that trained on each record that is evidence about a target, or did not.
        offline: the attack to propose where in-models are missing; by default that of the same name.
    """
    offline = offline or name.replace("online", "offline")
    without = f", or attack={offline}, which needs none" if offline != name else ""
    for count_N, needed, how in ((in_N, needs.in_models, "trained"), (out_N, needs.out_models, "did not train")):
        lacking = int((count_N < needed).sum())
        if lacking:
            mend = "raise `shadow.count`"
            if how == "trained" and _never(needs, in_N, out_N):
                same = "membership.shadow_source=same" if plan_name == "given" else "membership=halves"
                mend = f"use {same}{without}"
            models = "one shadow model" if needed == 1 else f"{needed} shadow models"
            return (
                f"attack={name} compares each record with at least {models} that {how} on it, and {lacking} of the "
                f"{len(count_N)} records that are evidence about a target have fewer under membership={plan_name} with "
                f"{num_shadows} shadow {'model' if num_shadows == 1 else 'models'}; {mend}."
            )
    return None


def too_few_to_compare(name: str, num_shadows: int, plan_name: str) -> str:
    """Why no threshold can be learnt from shadow models, each compared with the others."""
    return (
        f"attack={name} learns its threshold from shadow models that are compared with each other, and of "
        f"{num_shadows} under membership={plan_name} too few are left once a model and its block are taken out; raise "
        "`shadow.count`."
    )


def _counts(membership: Membership) -> tuple[Tensor, Tensor]:
    """The shadow models that trained on each record that is evidence about a target, and those that did not."""
    is_scored_N = membership.scored_KN[membership.targets].any(0)
    member_KN = membership.member_KN[membership.shadows][:, is_scored_N]
    in_N, out_N = member_KN.sum(0), (~member_KN).sum(0)
    if membership.leaves_one_out:  # a block has each record in one of its models
        in_N, out_N = in_N - 1, out_N - (_width(membership) - 1)
    return in_N, out_N


def _width(membership: Membership) -> int:
    """How many models a block has."""
    block_K = membership.block_K[membership.shadows]
    return int((block_K == block_K[0]).sum())


def _never(needs: Needs, in_N: Tensor, out_N: Tensor) -> bool:
    """Whether the plan gives the records none of the models that are needed, however many there are."""
    sides = ((in_N, needs.in_models), (out_N, needs.out_models))
    return any(needed and not bool(count_N.any()) for count_N, needed in sides)


def _serves(needs: Needs, membership: Membership, folds: int) -> bool:
    """Whether the attack can be fitted: without each fold where every model is a target, else on all shadow models."""
    if not needs.compares_shadows:
        return True
    block_K = membership.block_K[membership.shadows]
    member_KN, scored_KN = membership.member_KN[membership.shadows], membership.scored_KN[membership.shadows]
    is_scored_N = membership.scored_KN[membership.targets].any(0)
    kept_FK = ~fold_masks(block_K, folds) if membership.leaves_one_out else (block_K == block_K)[None]
    return all(
        _enough(needs, member_KN[kept_K][:, is_scored_N]).all()
        and _can_compare(needs, member_KN[kept_K], scored_KN[kept_K], block_K[kept_K])
        for kept_K in kept_FK
    )


def _enough(needs: Needs, member_KN: Tensor) -> Tensor:
    in_N = member_KN.sum(0)
    return (in_N >= needs.in_models) & (len(member_KN) - in_N >= needs.out_models)


def _can_compare(needs: Needs, member_KN: Tensor, scored_KN: Tensor, block_K: Tensor) -> bool:
    """Whether a member and a non-member of some shadow model have enough models outside its block."""
    found: set[bool] = set()
    for block in block_K.unique():
        is_own_K = block_K == block
        usable_kN = scored_KN[is_own_K] & _enough(needs, member_KN[~is_own_K])
        found |= {side for side in (True, False) if bool((usable_kN & (member_KN[is_own_K] == side)).any())}
        if len(found) == 2:
            return True
    return False


def _smallest_count(
    needs: Needs, membership: Membership, folds: int, with_count: Callable[[int], Membership]
) -> int | None:
    """The fewest shadow models that serve, in whole blocks; None if no reasonable number does."""
    width = _width(membership)

    def serves(num_blocks: int) -> bool:
        try:
            plan = with_count(num_blocks * width)
        except InputError:  # too few for the plan itself
            return False
        in_N, out_N = _counts(plan)
        has_all = int(in_N.min()) >= needs.in_models and int(out_N.min()) >= needs.out_models
        return has_all and _serves(needs, plan, folds)

    low, high = 1, 2  # `low` does not serve
    while not serves(high):
        low, high = high, 2 * high
        if high > _MOST_TIMES * (1 + needs.in_models + needs.out_models):
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if serves(middle) else (middle, high)
    return high * width
