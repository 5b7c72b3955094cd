"""Exit codes of the project's commands; of several runs the worst counts."""

from collections.abc import Iterable

BELOW = 0  # also a run without a gate
BUG = 1
BAD_INPUT = 2
ABOVE = 3  # the limit of the gate
UNDETERMINED = 4  # whether the leakage is below the limit of the gate
LOST = 5  # killed, cancelled or timed out on a cluster; the same sweep, started again, continues the run
INTERRUPTED = 130
CLOSED = 141  # the reader of the output has ended
TERMINATED = 143

# Exit codes of a run, from the best to the worst. 3 and 4 are results. A sweep with a bug, bad input or an
# interruption among its runs has no result, whatever the other runs found.
OF_RUNS = (BELOW, UNDETERMINED, ABOVE, LOST, BUG, BAD_INPUT, INTERRUPTED, TERMINATED)


def worst(codes: Iterable[int]) -> int:
    """The worst of exit codes, by `OF_RUNS`; 0 for none."""
    return max(codes, key=OF_RUNS.index, default=0)
