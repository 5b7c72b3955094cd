"""What the structure of the targets gives away by itself, beside the attacks, as tabular disclosure control asks."""

from collections.abc import Sequence

import numpy as np

from mia_lightning.reports.schema import LeavesSection, StructureSection
from mia_lightning.run.observation import Observation
from mia_lightning.training.estimators.leaves import FEWEST


def structure_section(observation: Observation) -> StructureSection | None:
    """The section, means over the targets; None for targets that are no estimators."""
    columns = observation.target_columns
    structures = observation.audit.attacked.structures(
        observation.targets, observation.population.part(columns), observation.membership.columns(columns)
    )
    if not structures:
        return None
    known = [each for each in structures if each is not None]
    if len(known) < len(structures):
        return StructureSection(leaves=None)
    means = {name: float(np.mean([getattr(each, name) for each in known])) for name in vars(known[0])}
    return StructureSection(leaves=LeavesSection(**means))


def structure_sentences(section: StructureSection | None, values: Sequence[str] = ()) -> list[str]:
    """A sentence for each indicator.

    Args:
        values: names of the numbers that are predicted; () for classes.
    """
    if section is None:
        return []
    leaves = section.leaves
    if leaves is None:
        return ["What the structure of the target discloses is not known: its leaves cannot be read."]
    what = "value" if values else "class"
    each = leaves.num_leaves / leaves.num_records
    trees = "1 tree" if leaves.num_trees == 1 else f"{leaves.num_trees:,.0f} trees"
    enough = "enough to hold every record" if each >= 1 else "fewer leaves than records"
    return [
        f"Parameters against records: {trees} with {leaves.num_leaves:,.0f} leaves for {leaves.num_records:,.0f} "
        f"training records, {each:.2f} each: {enough}.",
        f"Alone in a leaf: {100 * leaves.alone:.1f} % of the training records are the only one in a leaf of some tree.",
        f"Disclosed by a group: {100 * leaves.disclosed:.1f} % of the training records are, in some tree, in a leaf of "
        f"2 to {FEWEST - 1} records of one {what}, so that whoever knows that somebody is among them knows the {what}.",
    ]
