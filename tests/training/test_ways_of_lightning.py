"""How a LightningModule is asked: by its forward, its predict_step or its network."""

import pytest
import pytorch_lightning as pl
import torch
from given_setup import given_setup
from odd_forms import Core, log_probability, settled
from torch import Tensor, nn

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.targets.existing import Existing
from mia_lightning.training.stack.architecture import inspect_architecture
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.stack.stack import Stack

pytestmark = [
    pytest.mark.usefixtures("global_generators"),  # of networks that the tests make
    pytest.mark.filterwarnings("ignore:You are trying to `self.log"),
]


class Lit(pl.LightningModule):
    """Of which each class below answers in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Core()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net.layers(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


class ByForward(Lit):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Softmaxed(ByForward):
    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self(batch[0]).softmax(-1)


class Classes(ByForward):
    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(batch).argmax(-1)


class Tempered(ByForward):
    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(batch) / 3


class OfRecords(Lit):
    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.net(batch)


class OfPairs(Lit):
    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        x, y = batch
        self.log("seen", float(len(y)))
        return {"preds": self.net(x), "targets": y}


class ForwardOfPairs(Lit):
    def forward(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, y = batch
        logits = self.net(x)
        return nn.functional.cross_entropy(logits, y), logits


class ByItsNetwork(Lit):
    """As many are: the steps call the network, and there is no forward."""


class OnlyClasses(Lit):
    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.net(batch).argmax(-1)


LIT: dict[type[Lit], str] = {
    ByForward: "",
    Softmaxed: "",
    Classes: "its `predict_step`, which is not asked, gives [3]",
    Tempered: "its `predict_step`, which is not asked, gives other probabilities",
    OnlyClasses: "since it has no forward, and its `predict_step`, which is not asked, gives [3]",
    OfRecords: "its `predict_step` is asked for records, since it has no forward",
    OfPairs: "its `predict_step` is asked for (records, labels), since it has no forward, and `preds` of the dict",
    ForwardOfPairs: "its forward is given (records, labels), and place 1 of the tuple",
    ByItsNetwork: "its `net` is asked, which holds all of its parameters",
}


@pytest.mark.costly
@pytest.mark.parametrize("kind", LIT)
def test_a_lightning_module_answers_by_its_forward_or_its_predict_step(blobs: Population, kind: type[Lit]) -> None:
    module = kind()
    settled(module.net, blobs.x_N)
    setup = given_setup(blobs)
    found = Existing(network=module).obtain(setup).observe(blobs).log_probability_KANC[0, 0]
    torch.testing.assert_close(found, log_probability(module.net, blobs.x_N), rtol=1e-4, atol=1e-5)
    said = " ".join(setup.engine.stages.notes)
    assert LIT[kind] in said
    assert bool(said) == bool(LIT[kind])


@pytest.mark.costly
@pytest.mark.parametrize("kind", LIT)
def test_a_stack_of_lightning_modules_answers_as_each_alone(blobs: Population, kind: type[Lit]) -> None:
    bound = bind_records(kind, blobs)
    architecture = inspect_architecture(bound, blobs)
    assert architecture.refusal is None
    stack = Stack.build(bound, range(2), seed=1, role="shadow").eval()
    with torch.no_grad():
        found_KNC = stack(blobs.x_N, shared=True).log_softmax(-1)
        for k in range(2):
            alone = stack.model(k)
            torch.testing.assert_close(found_KNC[k], log_probability(alone.net, blobs.x_N), rtol=1e-4, atol=1e-5)


class Nothing(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(2, 2)


class NothingButClasses(Nothing):
    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.net(batch).argmax(-1)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(NothingButClasses, r"gives \[2\] for records"), (Nothing, "forward")],
    ids=["classes", "nothing"],
)
def test_a_lightning_module_that_gives_no_logits_is_refused(blobs: Population, kind: type[Lit], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Existing(network=kind()).obtain(given_setup(blobs))


def test_nothing_of_the_target_is_changed_to_find_out(blobs: Population) -> None:
    module = OfPairs().train()
    module.net.layers[0].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    Existing(network=module).obtain(given_setup(blobs))
    assert module.training
    assert not module.net.layers[0].training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not [name for name in vars(module) if name.startswith("_mia")]
