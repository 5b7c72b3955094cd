"""What a model in this process is, by the names of its classes or the operators of its graph."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from mia_lightning.targets.endpoints.own_kind import kind_of_onnx
from mia_lightning.training.estimators.kind import kind_of_estimator

pytestmark = pytest.mark.usefixtures("global_generators")  # of networks that the tests make

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


class XGBClassifier:
    """As xgboost names it."""

    __module__ = "xgboost.sklearn"


@pytest.mark.parametrize(
    ("estimator", "kind"),
    [
        (RandomForestClassifier(), "trees"),
        (ExtraTreesClassifier(), "trees"),
        (GradientBoostingClassifier(), "trees"),
        (HistGradientBoostingClassifier(), "trees"),
        (AdaBoostClassifier(), "trees"),
        (DecisionTreeClassifier(), "trees"),
        (BaggingClassifier(n_estimators=2).fit(X, Y), "trees"),
        (XGBClassifier(), "trees"),
        (make_pipeline(StandardScaler(), RandomForestClassifier()), "trees"),
        (GridSearchCV(make_pipeline(RandomForestClassifier()), {}), "trees"),
        (CalibratedClassifierCV(RandomForestClassifier()), "trees"),
        (MLPClassifier(), "network"),
        (LogisticRegression(), "network"),
        (make_pipeline(StandardScaler(), SGDClassifier()), "network"),
        (SVC(), "unknown"),
        (KNeighborsClassifier(), "unknown"),
        (GaussianNB(), "unknown"),
        (object(), "unknown"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_the_kind_of_an_estimator(estimator: Any, kind: str) -> None:
    assert kind_of_estimator(estimator) == kind


@pytest.mark.parametrize(
    ("estimator", "kind"),
    [
        (RandomForestClassifier(n_estimators=3), "trees"),
        (LogisticRegression(), "network"),
        (MLPClassifier(hidden_layer_sizes=4, max_iter=400, tol=0.1), "network"),
        (GaussianNB(), "unknown"),
        (KNeighborsClassifier(), "unknown"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_the_kind_of_a_converted_estimator(estimator: Any, kind: str) -> None:
    model = to_onnx(estimator.fit(X, Y), X[:1], target_opset={"": 17, "ai.onnx.ml": 3})
    assert kind_of_onnx(model.SerializeToString()) == kind


def test_names_in_weights_are_no_operators() -> None:
    """A constant that is called TreeEnsembleClassifier, in a graph that multiplies."""
    weight = helper.make_tensor("TreeEnsembleClassifier", TensorProto.FLOAT, (4, 2), bytes(32), raw=True)
    node = helper.make_node("MatMul", ["x", "TreeEnsembleClassifier"], ["y"])
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", n])] for name, n in (("x", 4), ("y", 2))]
    model = helper.make_model(helper.make_graph([node], "g", *ends, [weight]))
    assert kind_of_onnx(model.SerializeToString()) == "network"


@pytest.mark.parametrize("content", [b"", b"\x00" * 9, b"\xff" * 40, b"\x0b\x0c", b"not a model"])
def test_what_is_no_graph_is_of_unknown_kind(content: bytes) -> None:
    assert kind_of_onnx(content) == "unknown"
