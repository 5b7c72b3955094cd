"""Whole audits of one estimator: as it is, as an ONNX model, and as a file of its predictions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from quick import quick_audit
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

import mia_lightning as mia
from mia_lightning.attacks.label_only import AugmentationLabelOnly
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.models import EndpointTarget
from mia_lightning.targets.endpoints.onnx import Onnx
from mia_lightning.targets.endpoints.predictions import Predictions
from mia_lightning.targets.endpoints.sklearn import Sklearn

MEMBERS = list(range(40))


@pytest.fixture
def estimator(blobs: Population) -> LogisticRegression:
    return LogisticRegression(C=100.0).fit(blobs.x_N[:40].numpy(), blobs.label_N[:40].numpy())


@pytest.fixture
def predictions(blobs: Population, estimator: LogisticRegression, tmp_path: Path) -> Path:
    answers = estimator.predict_proba(blobs.x_N.numpy())
    path = tmp_path / "predictions.parquet"
    pa.parquet.write_table(pa.table({name: answers[:, c] for c, name in enumerate(blobs.class_names)}), path)
    return path


def audit(population: Population, target: EndpointTarget, **options: Any) -> mia.AuditReport:
    settings = quick_audit(**{"shadow": mia.Real(count=2), **options})
    return mia.audit(population, target=target, membership=mia.Given(member_N=MEMBERS), **settings)


def test_three_ways_to_one_model_give_one_audit(
    blobs: Population, estimator: LogisticRegression, predictions: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(
        to_onnx(estimator, blobs.x_N[:1].numpy(), target_opset={"": 17, "ai.onnx.ml": 3}).SerializeToString()
    )
    report = audit(blobs, Sklearn(estimator=estimator))
    assert report.scores is not None
    label_N = blobs.label_N.numpy()
    probability_N = estimator.predict_proba(blobs.x_N.numpy())[np.arange(120), label_N]
    np.testing.assert_allclose(report.scores.score, np.log(probability_N)[report.scores.record], rtol=1e-5, atol=1e-6)
    assert report.target.train_accuracy == pytest.approx(estimator.score(blobs.x_N[:40].numpy(), label_N[:40]))
    of_file = audit(blobs, Predictions(path=predictions))
    assert of_file.scores is not None
    np.testing.assert_array_equal(of_file.scores.score, report.scores.score)
    of_onnx = audit(blobs, Onnx(path=tmp_path / "model.onnx"))
    assert of_onnx.scores is not None
    np.testing.assert_allclose(of_onnx.scores.score, report.scores.score, atol=1e-4)


def test_equal_records_keep_their_own_predictions(
    blobs: Population, estimator: LogisticRegression, predictions: Path
) -> None:
    x_N = blobs.x_N.clone()
    x_N[80:110] = x_N[:30]
    x_N[40:80] += 1
    report = audit(replace(blobs, x_N=x_N), Predictions(path=predictions))
    assert report.scores is not None
    probability_N = estimator.predict_proba(blobs.x_N.numpy())[np.arange(120), blobs.label_N.numpy()]
    np.testing.assert_allclose(report.scores.score, np.log(probability_N)[report.scores.record], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"attacks": [AugmentationLabelOnly(image_shape=(2, 3))]},
            "asks about changed copies of records, and the target has answers for the data set's own alone",
        ),
        ({"shadow": mia.ModelBased(count=2)}, r"target=predictions has no answer for record .*shadow=real"),
    ],
    ids=["views", "synthesis"],
)
def test_a_file_refuses_what_needs_other_records(
    blobs: Population, predictions: Path, options: Any, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        audit(blobs, Predictions(path=predictions), **options)


def test_an_estimator_answers_for_any_record(blobs: Population, estimator: LogisticRegression) -> None:
    report = audit(blobs, Sklearn(estimator=estimator), attacks=[AugmentationLabelOnly(image_shape=(2, 3))])
    assert report.scores is not None
    assert np.isfinite(report.scores.score).all()
