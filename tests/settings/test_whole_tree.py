"""For random values of random settings a run is prepared, or refused in a sentence that names setting, value and mend.

Nothing is trained: what is refused later is refused by what a run finds out on the way.
"""

import copy
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_setting import all_checked
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mia_lightning.command.configuration import content_of
from mia_lightning.command.experiment import plan
from mia_lightning.command.job import Job
from mia_lightning.command.mistakes import config_directory
from mia_lightning.errors import InputError
from mia_lightning.run.preparation import engine_of, prepare
from mia_lightning.terminal.progress import Stages

SECONDS = 60  # of the processor for one example; most take 0.02
SERVED = ["target.url=http://127.0.0.1:9", "target.model=m", "membership=given", "membership.member_N=[1,2,3]"]
SEVERAL = ["attack=all", "skip_inapplicable=true"]
SMALL = "comparison={title: t, question: q, source: s, variants: {a: {x: 1, set: ['seed=1']}}}"


def names_of(group: str) -> list[str]:
    return sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))


CHOICES = [
    *([], SEVERAL, ["canary.count=2"], ["gate.metric=auc", "gate.limit=0.5"], [SMALL]),
    ["guess.model={hidden:[8]}", "guess.training={epochs:3}"],
    ["dataset=npz", "dataset.path=my.npz"],
    ["dataset=csv", "dataset.path=my.csv", "dataset.label_column=klass"],
    *([f"membership={name}", "attack=loss"] for name in ("halves", "bernoulli", "one_canary")),
    ["membership=given", "membership.member_N=[1,2,3,4,5]"],
    *([f"model={name}"] for name in names_of("model") if name not in ("custom", "lightning")),
    *([f"shadow={name}"] for name in names_of("shadow")),
    *([f"attack={name}", "membership=halves"] for name in names_of("attack")),
    *([f"defense={name}"] for name in names_of("defense")),
    *([f"logger={name}"] for name in names_of("logger")),
    *(["target=google_prediction"], ["target=amazon_ml"], ["target=leave_one_out", "membership=halves", "attack=loss"]),
    *([f"target={name}", *SERVED] for name in ("open_inference", "predict_v1")),
]

CONTENTS: list[dict[str, Any]] = []  # of the choices

NUMBERS = [0, 1, -1, 2, 3, 7, 10**9, -(10**9), 10**30, 0.0, 0.5, 1.0, -0.5, 1e-9, 1e300]
TEXTS = ["", " ", "x", "auto", "cpu", "0", "nan", "a b", "é", "a\nb", "\0", "\udcff", "~nobody_x/y", "../..", "x" * 300]
NODES = [
    *({}, {"a": 1}, {None: 1}, {"x": {"y": {}}}, {"_partial_": True}, {"_partial_": 3}),
    *({"_target_": name} for name in ("builtins.dict", "nowhere.X", "os.getcwd", "", 5)),
]
VALUES = st.recursive(
    st.sampled_from([None, True, False, float("inf"), -float("inf"), float("nan"), *NUMBERS, *TEXTS])
    | st.integers(-100, 100)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(NODES).map(copy.deepcopy),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "_target_"]), inner, max_size=1),
    max_leaves=3,
)
OF_PYTHON = VALUES | st.sampled_from(
    [
        *(np.int64(2), np.float32(0.5), np.bool_(True), np.array([1, 2]), np.array(3), np.float64("nan")),
        *(b"x", object(), dict, int, print, (1, 2), {1, 2}, range(3), Path("x"), 1j, iter([1]), ..., NotImplemented),
    ]
)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compose all choices, in a folder with a small data set of each form."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("tree"))
        rng = np.random.default_rng(0)
        np.savez("my.npz", x=rng.normal(size=(300, 6)).astype("float32"), label=np.arange(300) % 3)
        lines = [f"{rng.normal():.3f},{rng.normal():.3f},{'xyz'[i % 3]}" for i in range(300)]
        Path("my.csv").write_text("\n".join(["a,b,klass", *lines]))
        with initialize_config_dir(str(config_directory()), version_base="1.3"):
            first = ["logger=none", "trainer.accelerator=cpu"]
            CONTENTS[:] = [content_of(compose("config", overrides=[*first, *choice])) for choice in CHOICES]
            yield


@contextmanager
def soon() -> Iterator[None]:
    """Within the context, what computes much longer than it should is an error."""

    def late(*_: object) -> None:
        raise AssertionError(f"it has computed for {SECONDS} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def outcome(work: Callable[[], object]) -> str | None:
    """The sentence; None for a run."""
    with soon(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what was prepared all the same
        try:
            work()
        except InputError as error:
            sentence = str(error)
            assert "\n" not in sentence
            return sentence
    return None


def prepared(content: dict[str, Any]) -> None:
    job = Job(content)
    if job.configuration.comparison is not None:
        plan(job, [])
    audit = job.audit()
    prepare(engine_of(audit, Stages()), audit)


@cache
def outcome_of(choice: int) -> str | None:
    """Of a choice as it is written."""
    return outcome(lambda: prepared(copy.deepcopy(CONTENTS[choice])))


def leaves(node: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of all settings, and of the sections around them."""
    if place:
        yield place
    if isinstance(node, dict):
        for name, value in node.items():
            yield from leaves(value, (*place, name))


BOUNDED = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@pytest.mark.usefixtures("global_generators", "contents")  # of networks that are made for a look
@BOUNDED
@given(choice=st.integers(0, len(CHOICES) - 1), place_number=st.integers(0, 10_000), value=VALUES)
def test_any_value_of_any_setting_is_a_run_or_a_sentence(choice: int, place_number: int, value: object) -> None:
    content = copy.deepcopy(CONTENTS[choice])
    places = [place for place in leaves(content) if place != ("shards",)]  # which is made of those of `shadow`
    *sections, name = place = places[place_number % len(places)]
    before = outcome_of(choice)
    node = content
    for each in sections:
        node = node[each]
    node[name] = value
    sentence = outcome(lambda: prepared(content))
    if sentence is not None and sentence != before:
        section = {
            "shards": "shadow",
            "model_output": "model",
            "attack": place[1:2] and place[1],
            "defense": place[1:2] and place[1],
        }
        named = {name, place[0], section.get(place[0]) or name, *place[:2]} - {"_target_", "_partial_"}
        assert any(str(each) in sentence for each in named), (place, sentence)


ARGUMENTS = [
    (each, name)
    for each in all_checked()
    if not each.name.startswith(("datasets.", "sweep.slurm"))
    for name in each.parameters
]


@pytest.mark.slow
@pytest.mark.usefixtures("global_generators", "contents")
@settings(BOUNDED, max_examples=2000)
@given(number=st.integers(0, len(ARGUMENTS) - 1), value=OF_PYTHON)
def test_any_value_of_any_argument_is_taken_or_refused_in_a_sentence(number: int, value: object) -> None:
    checked, name = ARGUMENTS[number]
    # The weights of a network are not made: those of a wide one take minutes and gigabytes.
    with torch.device("meta") if checked.name.startswith("models.") else nullcontext():
        outcome(lambda: checked.make(**{**checked.required(), name: value}))
