"""What a report says of the sets of a user's own that the records come from."""

from mia_lightning.datasets.duplicates import count_across, duplicate_group
from mia_lightning.errors import InputError
from mia_lightning.run.definition import Audit
from mia_lightning.terminal.progress import Stages


def say_where_from(stages: Stages, audit: Audit) -> None:
    """Remark which set gave what, and what speaks against taking the sets for what they seem.

    Raises:
        InputError: the sets say who the members are, and there is no held-out set.
    """
    population, origin = audit.population, audit.population.origin
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


def _about_augmentation(audit: Audit) -> str:
    own, used = (", ".join(map(repr, each)) for each in (audit.population.augment, audit.training.augment))
    if own == used:
        return f"Records are changed at random in training, as by the training transform of the data: {own}."
    return f"`training.augment` is {used}, and takes the place of the training transform of the data: {own}."
