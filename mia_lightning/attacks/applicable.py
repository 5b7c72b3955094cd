"""Whether an attack fits a plan and the records, known before anything is trained."""

from torch import Tensor

from mia_lightning.attacks.interface import Attack, Needs
from mia_lightning.membership import Membership


def refusal(
    attack: Attack, membership: Membership, input_shape: tuple[int, ...], *, answers_others: bool = True
) -> str | None:
    """Why the attack cannot be run, in one sentence that names the mend; None where it can.

    Args:
        answers_others: whether the target can be asked about other records than those of the data set.
    """
    needs, name = attack.needs, f"attack={attack.name}"
    if needs.views and not answers_others:
        return (
            f"{name} asks about changed copies of records, and the target has answers for the data set's own alone; "
            "choose attacks that ask for no more, such as shokri, loss or lira_offline."
        )
    for view in needs.views:
        reason = view.refusal(input_shape)
        if reason is not None:
            return f"{name}: {reason}"
    if needs.population and not len(membership.population_N):
        return f"{name} needs records that are evidence about no model; set `membership.population` to their number."
    is_scored_N = membership.scored_KN[membership.targets].any(0)
    member_KN = membership.member_KN[membership.shadows][:, is_scored_N]
    in_N, out_N = member_KN.sum(0), (~member_KN).sum(0)
    if membership.leaves_one_out:  # a block has each record in one of its models
        in_N, out_N = in_N - 1, out_N - (int((membership.block_K == membership.block_K[0]).sum()) - 1)
    return missing_models(attack.name, needs, in_N, out_N, membership.plan_name, len(member_KN))


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
    for count_N, needed, how, mend in (
        (in_N, needs.in_models, "trained", f"use membership=halves{without}"),
        (out_N, needs.out_models, "did not train", "raise `shadow.count`"),
    ):
        lacking = int((count_N < needed).sum())
        if lacking:
            models = "one shadow model" if needed == 1 else f"{needed} shadow models"
            return (
                f"attack={name} compares each record with at least {models} that {how} on it, and {lacking} of the "
                f"{len(count_N)} records that are evidence about a target have fewer under membership={plan_name} with "
                f"{num_shadows} shadow models; {mend}."
            )
    return None
