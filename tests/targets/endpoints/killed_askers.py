"""Askers that are killed while they write and started again; a script that prints what it found as JSON.

python tests/targets/endpoints/killed_askers.py FOLDER SEEDS
"""

import json
import math
import mmap
import random
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
from kills import WRITING, in_phase, last_call, run, state
from scripted_endpoint import CLASSES, Scripted, softmax_of

from mia_lightning.targets.endpoints.answers import Reading
from mia_lightning.targets.endpoints.asker import Asker
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.responses import Responses

COUNT, BATCH, KILLS = 40, 4, 3
BUDGET = COUNT + KILLS * BATCH  # a kill loses one batch at most: it was counted, and perhaps answered
X_N = torch.arange(3.0 * COUNT).reshape(COUNT, 3).sin()
asked = memoryview(mmap.mmap(-1, 8)).cast("Q")  # records that the endpoint really answered, over all processes


def answer(x_B: Tensor) -> Sequence[object]:
    asked[0] += len(x_B)
    return softmax_of(x_B)


def ask(folder: Path) -> None:
    said: list[str] = []
    asking = Asking(responses=folder, batch_size=BATCH, budget=BUDGET, concurrency=1)
    asker = Asker(Scripted(answer), asking, Reading(class_names=CLASSES, place="here"), remark=said.append)
    keys = asker.ask(X_N)
    found = {"answers": asker.answers(keys), "asked": asker.responses.asked, "said": said}
    asker.close()
    (folder / "found.json").write_text(json.dumps(found))


def main(root: Path, seeds: int) -> None:
    torch.set_num_threads(1)
    for name in ("__init__", "reserve", "keep", "give_back"):
        setattr(Responses, name, in_phase(WRITING, getattr(Responses, name)))
    assert run(partial(ask, root / "undisturbed"), counts=True) is None
    calls = state[1 + WRITING]
    undisturbed = json.loads((root / "undisturbed" / "found.json").read_text())
    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        numbers, kills, work = random.Random(seed), 0, partial(ask, root / str(seed))
        asked[0] = 0
        for _ in range(KILLS):
            last_call[WRITING] = numbers.uniform(0, calls / (1 + kills))
            kills += run(work) is not None
        last_call[WRITING] = math.inf
        assert run(work) is None
        found = json.loads((root / str(seed) / "found.json").read_text())
        runs.append({"kills": kills, "really_asked": asked[0], **found})
    print(json.dumps({"calls": calls, "budget": BUDGET, "undisturbed": undisturbed, "runs": runs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
