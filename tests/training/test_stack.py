"""The stack as a thing: state, saving, taking models out, layers that are replaced or refused."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.targets.weights_file import load_weights
from mia_lightning.training.stack.layers import CounterDropout, MaskedBatchNorm, make_stackable
from mia_lightning.training.stack.stack import Stack

make_mlp = partial(MLP, input_shape=(6,), num_classes=3, hidden=[5], dropout=0.5)


def make_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


@pytest.mark.parametrize("make", [make_mlp, make_norm])
@pytest.mark.usefixtures("global_generators")
def test_saved_stacks_and_single_models_give_the_same_logits(make: object, tmp_path: Path) -> None:
    stack = Stack.build(make, [0, 1, 2], seed=0, role="shadow")
    for _ in range(3):  # move the running statistics
        stack.train()(torch.randn(3, 8, 6))
    x_B = torch.randn(7, 6)
    logits_KBC = stack.eval()(x_B, shared=True)
    stack.save(tmp_path / "stack.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["stack.safetensors"]
    loaded = Stack.load(tmp_path / "stack.safetensors", make).eval()
    assert loaded.num_models == 3
    torch.testing.assert_close(loaded(x_B, shared=True), logits_KBC, rtol=0, atol=0)
    for k in range(3):
        network = stack.model(k)
        assert not any(isinstance(layer, CounterDropout | MaskedBatchNorm) for layer in network.modules())
        torch.testing.assert_close(network(x_B), logits_KBC[k])
        torch.testing.assert_close(stack.call_one(stack.state_of(k), x_B), logits_KBC[k])


@pytest.mark.usefixtures("global_generators")
def test_initialisation_depends_on_seed_role_and_number_alone() -> None:
    weights = Stack.build(make_mlp, [0, 1, 2], seed=0, role="shadow").networks.state_dict()["linear_0.weight"]
    torch.manual_seed(99)
    again = Stack.build(make_mlp, [2], seed=0, role="shadow").networks.state_dict()["linear_0.weight"]
    torch.testing.assert_close(again[0], weights[2], rtol=0, atol=0)
    for other in (Stack.build(make_mlp, [2], seed=1, role="shadow"), Stack.build(make_mlp, [2], seed=0, role="target")):
        assert not torch.equal(other.networks.state_dict()["linear_0.weight"][0], weights[2])


def test_a_class_that_is_defined_anew_for_each_network_is_refused() -> None:
    def make() -> nn.Module:
        class Net(nn.Linear):
            pass

        return Net(3, 2)

    with pytest.raises(InputError, match=r"`model` .*Net.* outside"):
        Stack.build(make, [0, 1], seed=0, role="shadow")


def test_building_a_stack_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    Stack.build(make_mlp, [0, 1], seed=0, role="shadow").model(0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


@pytest.mark.usefixtures("global_generators")
def test_a_damaged_or_foreign_stack_is_refused(tmp_path: Path) -> None:
    stack = Stack.build(make_mlp, [0, 1], seed=0, role="shadow")
    stack.save(tmp_path / "stack.safetensors")
    (tmp_path / "short.safetensors").write_bytes((tmp_path / "stack.safetensors").read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        Stack.load(tmp_path / "short.safetensors", make_mlp)
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        Stack.load(tmp_path / "absent.safetensors", make_mlp)
    with pytest.raises(InputError, match=r"another architecture: it differs at `linear_0.bias`"):
        Stack.load(tmp_path / "stack.safetensors", partial(make_mlp, hidden=[7]))
    save_file({"other": torch.zeros(2, 1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="another architecture"):
        Stack.load(tmp_path / "other.safetensors", make_mlp)
    state = load_file(tmp_path / "stack.safetensors")
    save_file(state, tmp_path / "by_others.safetensors")
    with pytest.raises(InputError, match="has no checksum"):
        Stack.load(tmp_path / "by_others.safetensors", make_mlp)
    save_file({name: tensor.int() for name, tensor in state.items()}, tmp_path / "numbers.safetensors")
    with pytest.raises(InputError, match="another architecture"):
        Stack.load(tmp_path / "numbers.safetensors", make_mlp)
    content = bytearray((tmp_path / "stack.safetensors").read_bytes())
    content[-3] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="does not match its checksum"):
        Stack.load(tmp_path / "flipped.safetensors", make_mlp)
    with pytest.raises(InputError, match=r"cannot be read as weights alone \(it does not match its checksum\)"):
        load_weights(make_mlp(), tmp_path / "flipped.safetensors")


def test_dropout_is_a_fair_coin_keyed_by_model_layer_and_step() -> None:
    layer = CounterDropout(0.3).train()
    layer.key.fill_(12345)
    x = torch.ones(400, 500)
    out = layer(x)
    kept = (out > 0).double()
    # 200,000 coins: four standard errors of the mean
    assert abs(float(kept.mean()) - 0.7) < 4 * (0.21 / 200_000) ** 0.5
    assert torch.allclose(out[out > 0], torch.tensor(1 / 0.7))
    rows, columns = kept.mean(1), kept.mean(0)
    assert float((rows - 0.7).abs().max()) < 5 * (0.21 / 500) ** 0.5
    assert float((columns - 0.7).abs().max()) < 5 * (0.21 / 400) ** 0.5

    def correlation(other: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([kept.flatten(), (other > 0).double().flatten()]))[0, 1])

    assert abs(correlation(layer(x))) < 4 / 200_000**0.5  # a second use in one forward pass draws anew
    layer.calls = 0
    layer.step.fill_(1)
    assert abs(correlation(layer(x))) < 4 / 200_000**0.5
    layer.calls = 0
    layer.step.fill_(0)
    layer.key.fill_(12346)
    assert abs(correlation(layer(x))) < 4 / 200_000**0.5
    layer.calls = 0
    whole = layer(x)
    layer.calls = 0
    assert torch.equal(whole[:10], layer(x[:10]))  # padding rows at the end move no draw
    assert torch.equal(CounterDropout(1.0).train()(x), torch.zeros_like(x))
    assert torch.equal(layer.eval()(x), x)


def test_dropout_bits_equal_an_independent_numpy_computation() -> None:
    from mia_lightning.seeds import counter_hash
    from mia_lightning.training.stack.layers import _uniform_bits

    seed = int(counter_hash(torch.tensor(2**62 + 12345), 77, 0))

    def mix(value: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            value = (value ^ (value >> np.uint32(16))) * np.uint32(0x7FEB352D)
            value = (value ^ (value >> np.uint32(15))) * np.uint32(0x846CA68B)
        return value ^ (value >> np.uint32(16))

    element = np.arange(1000, dtype=np.uint32)
    expected = mix(mix(element ^ np.uint32(seed & 0x7FFFFFFF)) ^ np.uint32((seed >> 33) & 0x7FFFFFFF))
    assert np.array_equal(_uniform_bits((10, 100), torch.tensor(seed)).numpy().ravel().view(np.uint32), expected)


def test_channel_dropout_drops_whole_channels() -> None:
    layer = make_stackable(nn.Sequential(nn.Dropout2d(0.5)), 0, "model")[0].train()
    out = layer(torch.ones(50, 8, 3, 3))
    assert set(out.flatten(2).mean(2).unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.usefixtures("global_generators")
def test_masked_batch_norm_is_torch_batch_norm_over_the_real_records(
    dimensions: int, momentum: float | None, affine: bool
) -> None:
    kind = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1]
    reference = kind(3, momentum=momentum, affine=affine)
    if affine:
        nn.init.uniform_(reference.weight)
    masked = make_stackable(nn.Sequential(kind(3, momentum=momentum, affine=affine)), 0, "model")[0]
    masked.load_state_dict(reference.state_dict())
    for size in (5, 3, 6):
        x = torch.randn(6, 3, *[4] * (dimensions if dimensions > 1 else 0))
        masked.is_real = torch.arange(6) < size
        expected, found = reference(x[:size]), masked(x)
        torch.testing.assert_close(found[:size], expected)
        for name, value in reference.state_dict().items():
            torch.testing.assert_close(masked.state_dict()[name], value)
    x = torch.randn(6, 3, *[4] * (dimensions if dimensions > 1 else 0))
    torch.testing.assert_close(masked.eval()(x), reference.eval()(x))


def test_masked_batch_norm_leaves_its_statistics_alone_without_a_real_record() -> None:
    layer = make_stackable(nn.Sequential(nn.BatchNorm1d(3)), 0, "model")[0]
    layer.is_real = torch.zeros(4, dtype=torch.bool)
    layer(torch.full((4, 3), 1e6))
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert torch.equal(layer.running_var, torch.ones(3))


@pytest.mark.usefixtures("global_generators")
def test_batch_norm_without_running_statistics_uses_the_batch_in_eval_too() -> None:
    reference = nn.BatchNorm1d(3, track_running_stats=False).eval()
    layer = make_stackable(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)), 0, "model")[0].eval()
    x = torch.randn(6, 3)
    torch.testing.assert_close(layer(x), reference(x))


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (nn.SyncBatchNorm(3), "`0` is a SyncBatchNorm"),
        (nn.AlphaDropout(0.5), "`0` is a AlphaDropout"),
        (nn.FeatureAlphaDropout(0.5), "`0` is a FeatureAlphaDropout"),
        (nn.InstanceNorm1d(3, track_running_stats=True), "track_running_stats=True"),
    ],
)
def test_layers_without_a_counterpart_are_refused(layer: nn.Module, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make_stackable(nn.Sequential(layer), 0, "model")


def test_a_shared_dropout_layer_stays_one_layer() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Dropout(0.5)
            self.second = self.first

    network = make_stackable(Shared(), 0, "model")
    assert isinstance(network.first, CounterDropout)
    assert network.first is network.second


def test_a_network_that_is_itself_a_replaced_layer_is_replaced() -> None:
    assert isinstance(make_stackable(nn.BatchNorm1d(3), 0, "model"), MaskedBatchNorm)
