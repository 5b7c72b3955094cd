"""The audit of `end_to_end.py` done with the Adversarial Robustness Toolbox; run by that script, in its environment.

    python toolbox_audit.py TASK.npz ANSWER.json

`TASK.npz` holds records, labels, who is a member of the target, which records are the shadow models', and the sizes of
the job. The networks, epochs, batches and the optimiser are those of the other side; what the toolbox fixes or proposes
itself (its attack network, that network's epochs and learning rate) is left as it is. Its `ShadowModels` cannot pass
epochs to `fit`, so these are bound to the classifier.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.attacks.inference.membership_inference import (  # type: ignore[import-not-found]
    MembershipInferenceBlackBox,
    ShadowModels,
)
from art.estimators.classification import PyTorchClassifier  # type: ignore[import-not-found]
from torch import nn


class Classifier(PyTorchClassifier):  # type: ignore[misc]
    """A classifier that trains for the epochs of the task whenever it is fitted."""

    epochs = 1
    batch = 100

    def fit(self, x: Any, y: Any, **_: Any) -> None:
        super().fit(x, y, batch_size=self.batch, nb_epochs=self.epochs)

    def clone_for_refitting(self) -> "Classifier":
        return self.make()

    make: Callable[[], "Classifier"]


def main(task_file: str, answer_file: str) -> None:
    """Train target and shadow models, fit the attack, score; write the scores and the seconds of each stage."""
    task = dict(np.load(task_file))
    Classifier.epochs, Classifier.batch = int(task["epochs"]), int(task["batch_size"])
    x_N, label_N = task["x"].astype(np.float32), task["label"]
    features, num_classes = x_N.shape[1], int(label_N.max()) + 1
    one_hot_NC = np.eye(num_classes, dtype=np.float32)[label_N]

    def make() -> Classifier:
        network = nn.Sequential(
            nn.Linear(features, int(task["hidden"])), nn.Tanh(), nn.Linear(int(task["hidden"]), num_classes)
        )
        classifier = Classifier(
            model=network,
            loss=nn.CrossEntropyLoss(),
            optimizer=torch.optim.Adam(network.parameters(), lr=float(task["lr"])),
            input_shape=(features,),
            nb_classes=num_classes,
        )
        classifier.make = make
        return classifier

    torch.manual_seed(int(task["seed"]))
    np.random.seed(int(task["seed"]))  # the generator that the toolbox draws from
    seconds = {}

    def stage(name: str, started: float) -> float:
        seconds[name] = time.perf_counter() - started
        return time.perf_counter()

    clock = time.perf_counter()
    target = make()
    target.fit(x_N[task["member"]], one_hot_NC[task["member"]])
    clock = stage("target", clock)

    pool = task["pool"]
    shadows = ShadowModels(make(), num_shadow_models=int(task["shadows"]), random_state=int(task["seed"]))
    members, nonmembers = shadows.generate_shadow_dataset(
        x_N[pool], one_hot_NC[pool], member_ratio=len(task["member"]) / len(pool)
    )
    clock = stage("shadow models", clock)

    attack = MembershipInferenceBlackBox(target, attack_model_type="nn", input_type="prediction")
    attack.fit(members[0], members[1], nonmembers[0], nonmembers[1], members[2], nonmembers[2])
    clock = stage("attack network", clock)

    judged = np.concatenate([task["member"], task["nonmember"]])
    score_M = attack.infer(x_N[judged], one_hot_NC[judged], probabilities=True).reshape(-1)
    stage("scores", clock)
    Path(answer_file).write_text(json.dumps({"score": score_M.tolist(), "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
