"""The examples in the docstrings run and give what they show."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(("name", "least"), [("roc", 5), ("leakage", 1), ("target_accuracy", 1), ("privacy_bounds", 3)])
def test_docstring_examples(name, least):
    module = importlib.import_module(f"mia_lightning.metrics.{name}")
    results = doctest.testmod(module)
    assert results.failed == 0
    assert results.attempted >= least
