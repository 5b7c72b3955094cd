"""The gate: whether the leakage that an audit found stays below a limit, as an exit code for a pipeline.

A gate passes only where the whole confidence interval lies below the limit, and fails only where the whole interval
lies above it; otherwise it says how many records would settle it. Several attacks share the error rate (Bonferroni). A
pass says that these attacks with these shadow models did not exceed the limit, and nothing about other attacks.

Nothing heavy is imported before there is a report to judge.
"""

from mia_lightning.gate.verdict import GateVerdict as GateVerdict
from mia_lightning.gate.verdict import judge as judge
from mia_lightning.run.gate import Gate as Gate
from mia_lightning.run.gate import gate_from as gate_from
