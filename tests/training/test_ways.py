"""What users' modules give, as targets and in stacks, against the logits inside them."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from given_setup import given_setup
from odd_forms import Core, log_probability, settled
from torch import Tensor, nn

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError, SettingError
from mia_lightning.targets.existing import Existing
from mia_lightning.training.stack.architecture import inspect_architecture
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.stack.outputs import stays_in_0_1
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.stack.way import ask

pytestmark = [
    pytest.mark.usefixtures("global_generators"),  # of networks that the tests make
    pytest.mark.filterwarnings("ignore:You are trying to `self.log"),
]

Named = namedtuple("Named", ["features", "logits"])


@dataclass
class Result:
    loss: Tensor | None
    logits: Tensor


FORMS: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "logits": (lambda z, x: z, ""),
    "tuple": (lambda z, x: (z, x), "place 0 of the tuple"),
    "tuple, later": (lambda z, x: (x, z, x.sum()), "place 1 of the tuple"),
    "list": (lambda z, x: [z], "place 0 of the list"),
    "dict": (lambda z, x: {"logits": z, "features": x}, "`logits` of the dict"),
    "dict of both": (lambda z, x: {"probs": z.softmax(1), "logits": z}, "`logits` of the dict"),
    "dict, pred": (lambda z, x: {"pred": z, "z": z * 0}, "`pred` of the dict"),
    "dict, another name": (lambda z, x: {"yhat": z, "x": x, "loss": z.sum()}, "`yhat` of the dict"),
    "ordered": (lambda z, x: OrderedDict(loss=z.sum(), logits=z), "`logits` of the OrderedDict"),
    "named tuple": (lambda z, x: Named(x, z), "`logits` of the Named"),
    "object": (lambda z, x: SimpleNamespace(loss=None, logits=z), "`logits` of the SimpleNamespace"),
    "dataclass": (lambda z, x: Result(None, z), "`logits` of the Result"),
    "nested": (lambda z, x: {"out": {"logits": z}, "x": x}, "`out.logits` of the dict"),
    "probabilities": (lambda z, x: z.softmax(1), "gives probabilities"),
    "dict of probabilities": (lambda z, x: {"probs": z.softmax(1)}, "`probs` of the dict"),
    "log probabilities": (lambda z, x: z.log_softmax(1), "log probabilities are taken as such"),
    "shifted": (lambda z, x: z + 5, ""),
}


@pytest.mark.costly
@pytest.mark.parametrize("form", FORMS)
def test_a_target_is_taken_for_what_it_gives_and_that_is_said(blobs: Population, form: str) -> None:
    make, words = FORMS[form]
    core = settled(Core(make), blobs.x_N)
    setup = given_setup(blobs)
    models = Existing(network=core).obtain(setup)
    found = models.observe(blobs).log_probability_KANC[0, 0]
    torch.testing.assert_close(found, log_probability(core, blobs.x_N), rtol=1e-4, atol=1e-5)
    assert models.architecture.name == "Core"
    said = " ".join([*setup.engine.stages.notes, *setup.engine.stages.remarks])
    assert words in said
    assert bool(said) == bool(words)


@pytest.mark.costly
@pytest.mark.parametrize("form", [form for form in FORMS if "probabilities" not in form or "log" in form])
def test_a_stack_of_networks_answers_as_each_alone(blobs: Population, form: str) -> None:
    make, _ = FORMS[form]
    bound = bind_records(lambda: Core(make), blobs)
    architecture = inspect_architecture(bound, blobs)
    assert architecture.refusal is None
    stack = Stack.build(bound, range(3), seed=1, role="shadow").eval()
    with torch.no_grad():
        found_KNC = stack(blobs.x_N, shared=True).log_softmax(-1)
    for k in range(3):
        alone = stack.model(k)
        assert isinstance(alone, Core)
        torch.testing.assert_close(found_KNC[k], log_probability(alone, blobs.x_N), rtol=1e-4, atol=1e-5)
        assert type(alone(blobs.x_N[:2])) is type(Core(make)(blobs.x_N[:2]))  # its own forward is its own


def audit(population: Population, **options: Any) -> mia.AuditReport:
    return mia.audit(
        population,
        shadow=mia.Real(count=2),
        attacks=[mia.Loss()],
        training=mia.Recipe(epochs=2, batch_size=20),
        trainer=mia.TrainerSettings(accelerator="cpu"),
        **{"membership": mia.Disjoint(train_size=20), **options},
    )


@pytest.mark.costly
@pytest.mark.parametrize("form", ["dict", "tuple, later", "log probabilities"])
def test_models_of_any_form_are_trained_as_their_logits_would_be(blobs: Population, form: str) -> None:
    make, words = FORMS[form]
    report = audit(blobs, model=partial(Core, make))
    plain = audit(blobs, model=partial(Core, FORMS["logits"][0]))
    assert report.scores is not None
    assert plain.scores is not None
    torch.testing.assert_close(
        torch.tensor(report.scores.score),
        torch.tensor(plain.scores.score),
        rtol=0,
        atol=1e-2 if "log" in form else 1e-4,
    )
    assert any(words in note for note in report.notes)
    assert not any("`model` makes" in note for note in plain.notes)


class Auxiliary(Core):
    """More in train mode than in eval mode."""

    def forward(self, x: Tensor) -> Any:
        z = self.layers(x)
        return {"aux": z * 2, "logits": z} if self.training else z


def test_what_is_given_in_train_mode_alone_is_found(blobs: Population) -> None:
    report = audit(blobs, model=Auxiliary)
    assert any("`logits` of the dict that it gives in train mode" in note for note in report.notes)


def test_probabilities_that_our_cross_entropy_would_train_are_refused(blobs: Population) -> None:
    for form in ("probabilities", "dict of probabilities"):
        with pytest.raises(InputError, match="gives probabilities"):
            audit(blobs, model=partial(Core, FORMS[form][0]))


class Sigmoids(Core):
    def __init__(self) -> None:
        super().__init__(lambda z, x: z.sigmoid())


def test_a_number_between_0_and_1_for_each_class_is_a_probability(blobs: Population) -> None:
    core = settled(Sigmoids(), blobs.x_N)
    setup = given_setup(blobs)
    found = Existing(network=core).obtain(setup).observe(blobs).log_probability_KANC[0, 0]
    with torch.no_grad():
        share_NC = core.eval().layers(blobs.x_N).sigmoid()
    torch.testing.assert_close(found.exp(), share_NC / share_NC.sum(1, keepdim=True), rtol=1e-4, atol=1e-5)
    assert any("do not sum to 1" in note for note in setup.engine.stages.notes)
    with pytest.raises(InputError, match="gives probabilities"):
        audit(blobs, model=Sigmoids)


class Small(Core):
    """Logits that lie between 0 and 1 by chance, or are all 0."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        with torch.no_grad():
            self.layers[3].weight.mul_(1e-3 if bias else 0.0)
            self.layers[3].bias.fill_(bias)


@pytest.mark.parametrize("bias", [0.5, 0.0])
def test_logits_between_0_and_1_stay_logits(blobs: Population, bias: float) -> None:
    setup = given_setup(blobs)
    models = Existing(network=Small(bias)).obtain(setup)
    assert not models.architecture.gives_probabilities
    assert not setup.engine.stages.notes


def reading_as(blobs: Population, core: Core, output: str) -> Tensor:
    models = Existing(network=core, output=output).obtain(given_setup(blobs))
    return models.observe(blobs).log_probability_KANC[0, 0]


def test_what_a_user_says_of_the_outputs_holds(blobs: Population) -> None:
    core = settled(Core(FORMS["probabilities"][0]), blobs.x_N)
    with torch.no_grad():
        given = core.eval()(blobs.x_N)
    torch.testing.assert_close(reading_as(blobs, core, "logits"), given.log_softmax(1))
    torch.testing.assert_close(reading_as(blobs, core, "probabilities"), given.log(), rtol=1e-4, atol=1e-5)
    with pytest.raises(SettingError, match=r"`target.output` is 'log_probabilities', but the model Core gives 0"):
        reading_as(blobs, core, "log_probabilities")
    with pytest.raises(SettingError, match=r"`target.output` is 'probabilities', but the model Core gives -"):
        reading_as(blobs, Core(lambda z, x: z - 100), "probabilities")
    core = settled(Core(lambda z, x: z.log_softmax(1)), blobs.x_N)
    torch.testing.assert_close(reading_as(blobs, core, "log_probabilities"), reading_as(blobs, core, "auto"))


def test_logits_that_look_like_probabilities_are_said(blobs: Population) -> None:
    setup = given_setup(blobs)
    Existing(network=Core(FORMS["probabilities"][0]), output="logits").obtain(setup)
    assert any("taken as logits" in note and "sum to 1" in note for note in setup.engine.stages.notes)


def test_the_setting_holds_for_the_networks_of_model(blobs: Population) -> None:
    with pytest.raises(SettingError, match=r"`model.output` is 'probabilities', but the model Core gives -"):
        audit(blobs, model=Core, model_output="probabilities")
    with pytest.raises(
        SettingError, match=r"`model.output` is 'logit' .*; it must be one of auto, logits, probabilities"
    ):
        audit(blobs, model=Core, model_output="logit")
    audit(blobs, model=partial(Core, FORMS["log probabilities"][0]), model_output="log_probabilities")
    trained = audit(blobs, model=partial(Core, FORMS["probabilities"][0]), model_output="logits")
    assert any("taken as logits" in note for note in trained.notes)


def test_a_guess_says_of_its_own_networks_what_they_give(blobs: Population) -> None:
    guess = mia.Guess(model=Core, output="probabilities")
    with pytest.raises(SettingError, match=r"output` is 'probabilities', but the model Core gives -"):
        audit(blobs, model=Core, guess=guess)


@pytest.fixture
def two(blobs: Population) -> Population:
    return replace(blobs, label_N=blobs.label_N % 2, class_names=("no", "yes"))


class One(nn.Module):
    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.form = nn.Linear(6, 1), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.layer(x))


ONES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "dict": (lambda z: {"logits": z, "x": z.expand(-1, 6)}, "logit"),
    "tuple": (lambda z: (z.squeeze(-1), z.sum()), "logit"),
    "dict of a probability": (lambda z: {"prob": z.sigmoid()}, "probability"),
}


@pytest.mark.parametrize("form", ONES)
def test_one_number_a_record_is_found_in_what_holds_it(two: Population, form: str) -> None:
    make, answer = ONES[form]
    network = One(make)
    setup = given_setup(two)
    models = Existing(network=network).obtain(setup)
    with torch.no_grad():
        logit_N = network.layer(two.x_N).squeeze(1)
    expected = torch.stack([nn.functional.logsigmoid(-logit_N), nn.functional.logsigmoid(logit_N)], -1)
    found = models.observe(two).log_probability_KANC[0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert models.architecture.one_output == answer


def test_what_one_number_is_can_be_said(two: Population) -> None:
    network = One(torch.sigmoid)
    found = {
        output: Existing(network=network, output=output).obtain(given_setup(two)).architecture.one_output
        for output in ("auto", "logits", "probabilities")
    }
    assert found == {"auto": "probability", "logits": "logit", "probabilities": "probability"}
    with pytest.raises(SettingError, match=r"`target.output` is 'log_probabilities', and the model gives one number"):
        Existing(network=network, output="log_probabilities").obtain(given_setup(two))


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (lambda z, x: {"a": z, "b": z}, "several tensors that could be its logits: `a`, `b`"),
        (lambda z, x: {"features": x, "loss": z.sum()}, r"gives dict \(`features` \[2, 6\], `loss` \[\]\) for records"),
        (lambda z, x: (z.argmax(1),), r"gives tuple \(`0` \[2\]\) for records"),
        (lambda z, x: "text", "gives str for records"),
        (lambda z, x: z.argmax(1), r"gives \[2\] for records"),
        (lambda z, x: z.long(), "gives numbers of type int64"),
    ],
)
def test_what_holds_no_logits_is_refused(blobs: Population, form: Callable[[Tensor, Tensor], Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Existing(network=Core(form)).obtain(given_setup(blobs))
    with pytest.raises(InputError, match=words):
        audit(blobs, model=partial(Core, form))


class Scales(nn.Module):
    """Gives its records, scaled; it has a hook of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Core()
        self.register_forward_hook(lambda module, inputs, output: (output, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.core(x)


def test_hooks_of_the_users_own_are_heard(blobs: Population) -> None:
    bound = bind_records(Scales, blobs)
    assert ask(bound(), blobs.x_N[:4]).shape == (4, 3)
    assert isinstance(bound()(blobs.x_N[:4]), tuple)


def test_log_probabilities_of_nothing_are_those_of_the_smallest_probability(blobs: Population) -> None:
    core = Core(lambda z, x: (z * 1e4).softmax(1).log())
    assert bool((core.eval()(blobs.x_N) == -torch.inf).any())
    models = Existing(network=core).obtain(given_setup(blobs))
    assert models.architecture.gives_log_probabilities
    assert bool(models.observe(blobs).log_probability_KANC.isfinite().all())


def test_what_a_user_says_of_the_outputs_does_not_slow_a_stack_down(blobs: Population) -> None:
    plain, said = (
        Stack.build(bind_records(lambda: nn.Linear(6, 3), blobs, form), [0, 1], seed=0, role="shadow")
        for form in ("auto", "logits")
    )
    assert plain._dense is not None
    assert said._dense is not None
    x_KB = blobs.x_N[None].expand(2, -1, -1)
    assert torch.equal(plain(x_KB), said(x_KB))


class Locked(nn.Linear):
    """A network that cannot be copied."""

    def __init__(self) -> None:
        super().__init__(6, 1)
        self.lock = Lock()
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, 0.5)


@pytest.mark.parametrize("is_cast", [False, True])
def test_other_weights_tell_a_logit_and_are_taken_back(blobs: Population, is_cast: bool) -> None:
    network = Locked()
    before = {name: (value, value.clone()) for name, value in network.named_parameters()}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_cast), torch.no_grad():
        assert not stays_in_0_1(network, blobs.x_N, lambda network, x_B: network(x_B))
        assert stays_in_0_1(network, blobs.x_N, lambda network, x_B: network(x_B).sigmoid())
        assert bool((network(blobs.x_N) == 0.5).all())
    for name, value in network.named_parameters():
        assert value is before[name][0]
        assert torch.equal(value, before[name][1])
