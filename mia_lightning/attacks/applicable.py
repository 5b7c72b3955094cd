"""Whether an attack fits a plan and the records, known before anything is trained."""

from mia_lightning.attacks.interface import Attack
from mia_lightning.membership import Membership


def refusal(attack: Attack, plan: Membership, input_shape: tuple[int, ...]) -> str | None:
    """Why the attack cannot be run, in one sentence that names the mend; None where it can."""
    needs, name = attack.needs, f"attack={attack.name}"
    for view in needs.views:
        reason = view.refusal(input_shape)
        if reason is not None:
            return f"{name}: {reason}"
    if needs.population and not len(plan.population_N):
        return f"{name} needs records that are evidence about no model; set `membership.population` to their number."
    is_scored_N = plan.scored_KN[plan.targets].any(0)
    member_KN = plan.member_KN[plan.shadows][:, is_scored_N]
    in_N, out_N = member_KN.sum(0), (~member_KN).sum(0)
    if plan.leaves_one_out:  # a block has each record in one of its models
        in_N, out_N = in_N - 1, out_N - (int((plan.block_K == plan.block_K[0]).sum()) - 1)
    for have_N, needed, kind, mend in (
        (in_N, needs.in_models, "are trained on it", "use its offline form, or membership=halves"),
        (out_N, needs.out_models, "have not seen it", "raise `shadow.count`"),
    ):
        short = int((have_N < needed).sum())
        if short:
            return (
                f"{name} compares each record with at least {needed} shadow models that {kind}, and under "
                f"membership={plan.plan} {short} of {len(have_N)} records have fewer; {mend}."
            )
    return None
