"""What all tests of callbacks need: the global generators, which loaders draw from, and Lightning's advice unheard."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _as_in_a_users_program(global_generators: None) -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers",
            ".*smaller than the logging interval",
            ".*`isinstance.treespec, LeafSpec.`",
            "Checkpoint directory .* exists and is not empty",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield
