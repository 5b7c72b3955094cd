"""What an estimator is: a network, trees, or something else. No torch."""

from typing import Any, Literal

_INNER = ("best_estimator_", "estimator_", "base_estimator_", "estimator", "base_estimator")
_TREES = ("forest", "tree", "boost", "lgbm", "iforest")
_NETWORKS = ("mlp", "logisticregression", "sgdclassifier", "perceptron", "neuralnet", "ridgeclassifier")


def kind_of_estimator(estimator: Any) -> Literal["network", "trees", "unknown"]:
    """By the name of its class, or of what a pipeline, a search or an ensemble holds last."""
    for _ in range(8):  # deep enough for any nesting in use
        name = f"{type(estimator).__module__.partition('.')[0]}.{type(estimator).__name__}".lower()
        if any(part in name for part in _TREES):
            return "trees"
        if any(part in name for part in _NETWORKS):
            return "network"
        steps = getattr(estimator, "steps", None)
        inner = (
            steps[-1][1]
            if steps
            else next((each for name in _INNER if (each := getattr(estimator, name, None)) is not None), None)
        )
        if inner is None:
            return "unknown"
        estimator = inner
    return "unknown"
