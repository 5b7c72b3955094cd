"""Trained networks in the wrappers and forms in which people keep them: each answers as its plain network does."""

import copy
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from quick import slow_but
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.run.definition import Audit
from mia_lightning.store.identity import NoIdentityError
from mia_lightning.targets.existing import Existing, given_models

pytestmark = pytest.mark.usefixtures("global_generators")  # of networks that the tests make

CPU = torch.device("cpu")


@pytest.fixture
def plain() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
        network(torch.randn(64, 6) + 1.0)  # statistics of its own
    return network


class Holder(nn.Module):
    """Holds a moving average of a network, as some training loops do, and has no forward."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.ema_model = copy.deepcopy(network)


class Locked(nn.Sequential):
    """It cannot be copied."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.lock = threading.Lock()


class Auxiliary(nn.Module):
    """Gives auxiliary logits beside its own while it trains."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.other = network, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> object:
        return (self.network(x), self.other(x)) if self.training else self.network(x)


class WantsLabels(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        if self.training and label is None:
            raise ValueError("needs the labels to train")
        return self.network(x)


class PlainList(nn.Module):
    """Its layers are in a plain list, where no stack finds them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.layers = [network.eval()]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](x)


def with_parallel_layer(network: nn.Sequential) -> nn.Module:
    network[0] = nn.DataParallel(network[0])
    return network


def with_compiled_layer(network: nn.Sequential) -> nn.Module:
    network[0] = torch.compile(network[0])  # type: ignore[assignment]
    return network


def with_weight_norm(network: nn.Sequential) -> nn.Module:
    torch.nn.utils.weight_norm(network[0])
    network.eval()(torch.ones(4, 6))  # leaves a weight that is no leaf, which deepcopy refuses
    return network


def with_alpha_dropout(network: nn.Sequential) -> nn.Module:
    network[3] = nn.AlphaDropout(0.5)
    return network


FORMS: dict[str, Callable[[nn.Sequential], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "layer in DataParallel": with_parallel_layer,
    "compiled": torch.compile,  # type: ignore[dict-item]
    "compiled layer": with_compiled_layer,
    "DataParallel of compiled": lambda network: nn.DataParallel(torch.compile(network)),  # type: ignore[arg-type]
    "averaged": AveragedModel,
    "holder": Holder,
    "Fabric": lambda network: Fabric(accelerator="cpu", devices=1).setup(network),
    "script": torch.jit.script,
    "trace": lambda network: torch.jit.trace(network.eval(), torch.ones(2, 6)),
    "frozen": lambda network: torch.jit.freeze(torch.jit.script(network.eval())),
    "script inside": lambda network: nn.Sequential(torch.jit.script(network)),
    "fx": torch.fx.symbolic_trace,
    "SyncBatchNorm": nn.SyncBatchNorm.convert_sync_batchnorm,
    "AlphaDropout": with_alpha_dropout,
    "weight norm": with_weight_norm,
    "lock": lambda network: Locked(*network),
    "auxiliary": Auxiliary,
    "wants labels": WantsLabels,
    "plain list": PlainList,
}


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("form", slow_but([form for form in FORMS if "compiled" not in form], FORMS))
@pytest.mark.filterwarnings("ignore:.*(torch.jit|weight_norm|prefer_deferred).*", "ignore:.*is deprecated.*")
def test_each_form_answers_as_its_plain_network_in_eval_mode(
    blobs: Population, plain: nn.Sequential, form: str, mode: bool
) -> None:
    given = FORMS[form](copy.deepcopy(plain))
    if form not in ("trace", "frozen"):
        given.train(mode)
    modes = [getattr(layer, "training", None) for layer in given.modules()]
    target = Audit(
        blobs, model=lambda: nn.Linear(6, 3), membership=mia.Given(member_N=range(40)), target=given
    ).attacked
    assert isinstance(target, Existing)
    found = given_models(target.network, blobs, CPU).observe(blobs).log_probability_KANC[0, 0]
    with torch.no_grad():
        expected = plain.eval()(blobs.x_N).log_softmax(1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert [getattr(layer, "training", None) for layer in given.modules()] == modes


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/group")
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("processes")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_networks_of_several_processes_are_unwrapped_if_their_weights_are_here(
    blobs: Population, plain: nn.Sequential
) -> None:
    with torch.no_grad():
        expected = copy.deepcopy(plain).eval()(blobs.x_N).log_softmax(1)
    wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
    found = given_models(wrapped, blobs, CPU).observe(blobs).log_probability_KANC[0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    sharded = torch.distributed.fsdp.FullyShardedDataParallel(copy.deepcopy(plain), device_id=CPU)
    with pytest.raises(InputError, match="has only a shard of"):
        given_models(sharded, blobs, CPU)


@pytest.mark.filterwarnings("ignore:.*quantiz.*:DeprecationWarning", "ignore:.*quantized.*")
def test_quantised_networks_run_as_they_are_and_are_not_saved(
    blobs: Population, plain: nn.Sequential, tmp_path: Path
) -> None:
    given = torch.ao.quantization.quantize_dynamic(plain.eval(), {nn.Linear}, dtype=torch.qint8)
    models = given_models(given, blobs, CPU)
    with torch.no_grad():
        expected = given(blobs.x_N).log_softmax(1)
    torch.testing.assert_close(models.observe(blobs).log_probability_KANC[0, 0], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="the quantised weights of Sequential cannot be written"):
        models.save(tmp_path / "target.safetensors")
    with pytest.raises(NoIdentityError):
        models.identity()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_what_runs_by_its_own_forward_is_saved_like_any_other(
    blobs: Population, plain: nn.Sequential, tmp_path: Path
) -> None:
    models = given_models(torch.jit.script(plain), blobs, CPU)
    models.save(tmp_path / "target.safetensors")
    saved = load_file(tmp_path / "target.safetensors")
    assert {name: tensor.shape for name, tensor in saved.items()} == {
        name: (1, *tensor.shape) for name, tensor in plain.state_dict().items()
    }
    assert models.num_parameters == sum(p.numel() for p in plain.parameters())


class Exported(nn.Sequential):
    """Refuses to change its mode, as exported programs do."""

    def train(self, mode: bool = True) -> "Exported":
        raise NotImplementedError("Calling train() is not supported yet.")


class ManyOutputs(nn.Linear):
    def forward(self, x: Tensor) -> object:
        return {"features": x, "loss": super().forward(x).sum()}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: nn.Linear(6, 3, device="meta"), "has `weight` on the meta device"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "has lazy layers that have seen no records, such as that of `0.weig"),
        (lambda: Exported(nn.Linear(6, 3)), "cannot be put into eval mode"),
        (
            lambda: ManyOutputs(6, 3),
            r"gives dict \(`features` \[2, 6\], `loss` \[\]\) for records of shape .* in eval mode",
        ),
        (lambda: nn.Linear(7, 3), r"fails on a batch of records of shape \(2, 6\)"),
        (lambda: nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)]), "fails on a batch of records"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_cannot_answer_is_refused_in_a_sentence(
    blobs: Population, make: Callable[[], nn.Module], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        given_models(make(), blobs, CPU)


class AlwaysDrops(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5))


class CentresBatches(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


@pytest.mark.costly
@pytest.mark.parametrize("make", [AlwaysDrops, CentresBatches])
def test_a_target_whose_answers_depend_on_the_batch_is_told(blobs: Population, make: type[nn.Linear]) -> None:
    report = mia.audit(
        blobs,
        model=lambda: nn.Linear(6, 3),
        target=make(6, 3),
        membership=mia.Given(member_N=range(40)),
        shadow=mia.Real(count=2),
        attacks=[mia.Loss()],
        training=mia.default_recipe(),
        trainer=mia.TrainerSettings(accelerator="cpu"),
    )
    assert any("answers a record otherwise in another batch" in each for each in report.broken)
