"""What a report says of a user's own sets, and of a split that is given, and what of them is refused."""

from mia_lightning.datasets.augmentation import takes_index
from mia_lightning.datasets.duplicates import count_across, duplicate_group
from mia_lightning.datasets.labels import in_order
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership import Membership
from mia_lightning.run.definition import Audit
from mia_lightning.terminal.progress import Stages

FEW_EQUAL = 0.001
"""The share of non-members that may equal members before low figures are no evidence: the lowest usual FPR."""
MOST_EQUAL = 0.9
"""The share of members, or of non-members, that may stand on the other side too before nearly nothing is left."""
MOST_INFLATED = 1.1
"""The factor by which copies within a side may enlarge the variance of a mean before low figures are no evidence."""


def say_where_from(stages: Stages, audit: Audit) -> None:
    """Remark which set gave what, and what speaks against taking the sets for what they seem.

    Raises:
        InputError: the sets say who the members are, and there is no held-out set.
    """
    population, origin = audit.population, audit.population.origin
    target = audit.attacked
    is_open = not (target.is_trained_here or target.names_classes(population.class_names))
    if population.label_map is not None and is_open:
        stages.remark(
            "The target is trained already, and its outputs are taken for the classes in the order "
            f"{in_order(population.class_names)}: if it was trained with these labels as class numbers, or in another "
            "order, its figures mean nothing; then give the labels as the numbers of its outputs, from 0."
        )
    if population.augment:
        stages.remark(_about_augmentation(audit), kind="note")
    if origin is None:
        return
    if audit.membership.reads_members:
        if not origin.held_out:
            raise InputError(
                f"{origin.name} has no held-out data, and without non-members no attack can be measured; give it a "
                "`val_dataloader` or `test_dataloader`, or give held-out records as `nonmembers` of Population.of."
            )
        stages.remark(origin.as_members(), kind="note")
        if origin.doubt is not None:
            stages.remark(origin.doubt, kind="broken")
        return
    stages.remark(origin.as_pool(audit.membership.name), kind="note")
    if origin.doubt is not None:
        stages.remark(origin.doubt, kind="note")
    member_N = population.member_N
    if member_N is None or bool(member_N.all()):
        return
    count = count_across(duplicate_group(population), member_N, ~member_N)
    if count:
        stages.remark(
            f"{count:,} records of the training set of {origin.name} also stand, value for value, in its held-out sets."
        )


def check_taken_again(audit: Audit) -> None:
    """Refuse records that are not those of the user's datasets, where training takes each from its dataset again.

    Raises:
        InputError: the shadow models train on made records, or canaries have other features.
    """
    recipes = [audit.training, *([audit.guess.training] if audit.guess and audit.guess.training else [])]
    again = next((each for recipe in recipes for each in recipe.augment if takes_index(each)), None)
    if again is None:
        return
    made = None
    if audit.shadow.makes_records and audit.trains_network_shadows:
        made = f"records that shadow={audit.shadow.source} makes are in no dataset; use shadow=real"
    elif audit.canaries is not None and audit.canaries.changes_records:
        made = f"records that canary.kind={audit.canaries.kind} makes are in no dataset; set canary.kind=mislabelled"
    if made is not None:
        raise InputError(
            f"Models are trained by {again!r}, and {made}, or set `dataset.train_transform=ignore` (`train_transform` "
            "in Python)."
        )


def check_given_split(stages: Stages, audit: Audit, population: Population, membership: Membership) -> None:
    """Say where non-members of a given split equal, value for value, what the target was trained on, or each other, and
    where members do.

    Raises:
        InputError: nearly all members, or nearly all non-members, do.
    """
    if audit.membership.draws_target:
        return
    group_N, member_N, nonmember_N = duplicate_group(population), membership.member_KN[0], membership.nonmember_KN[0]
    num_members, num_nonmembers = int(member_N.sum()), int(nonmember_N.sum())
    members = count_across(group_N, member_N, nonmember_N)
    nonmembers = count_across(group_N, nonmember_N, member_N)
    if not audit.membership.reads_members:  # the loader, which knows a member column, has said so of that
        for mark in population.marks:
            stages.remark(mark.sentence(member_N.numpy(), nonmember_N.numpy()))
    mend = "take these out of the held-out records, or list the others in a file, `membership.path`"
    if members > MOST_EQUAL * num_members or nonmembers > MOST_EQUAL * num_nonmembers:
        raise InputError(
            f"{nonmembers:,} of {num_nonmembers:,} non-members of {population.name} equal, value for value, "
            f"{members:,} of its {num_members:,} members, and too few others are left to measure leakage on; {mend}."
        )
    if nonmembers > FEW_EQUAL * num_nonmembers:
        stages.remark(
            f"{nonmembers:,} of {num_nonmembers:,} non-members equal, value for value, records that the target was "
            f"trained on, so that low figures are no evidence: {mend}.",
            kind="broken",
        )
    for side, side_N in (("members", member_N), ("non-members", nonmember_N)):
        count_G = group_N[side_N].unique(return_counts=True)[1].double()
        num, inflation = int(side_N.sum()), float(count_G.square().sum() / count_G.sum())  # of the variance of a mean
        if inflation > MOST_INFLATED:
            stages.remark(
                f"The {num:,} {side} are {len(count_G):,} different records, value for value: each copy counts as a "
                f"record of its own, so that intervals are up to {inflation**0.5:.2g} times too narrow and low figures "
                "are no evidence; list each record once in a file, `membership.path`.",
                kind="broken",
            )


def _about_augmentation(audit: Audit) -> str:
    own, used = (", ".join(map(repr, each)) for each in (audit.population.augment, audit.training.augment))
    if own == used:
        return f"Records are changed at random in training, as by the training transform of the data: {own}."
    return f"`training.augment` is {used}, and takes the place of the training transform of the data: {own}."
