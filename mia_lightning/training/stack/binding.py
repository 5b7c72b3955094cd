"""A model bound to its records: shapes filled in, flattened images unflattened, the way in which it is asked."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from mia_lightning.datasets.population import Population
from mia_lightning.seeds import isolated
from mia_lightning.settings.kinds import OutputForm
from mia_lightning.training.stack.architecture import bind_form, bind_shapes
from mia_lightning.training.stack.stack import MakeNetwork
from mia_lightning.training.stack.way import bind_outputs


def bind_records(make: Callable[..., nn.Module], population: Population, form: OutputForm = "auto") -> MakeNetwork:
    """`make` with the shape of a record and the number of classes filled in (`bind_shapes`).

    Where records are flattened images, a network that runs on images alone is given those. What a network gives is made
    outputs `[B, C]` (`way.bind_outputs`).

    Raises:
        InputError: as `bind_outputs`.
    """
    return bind_outputs(_bind_images(make, population), population, form)


def _bind_images(make: Callable[..., nn.Module], population: Population) -> MakeNetwork:
    bound = bind_form(make, population)
    image_shape = population.image_shape
    if image_shape is None or _runs(bound, population.input_shape):
        return bound
    of_images = bind_shapes(make, image_shape, population.num_classes)
    return partial(on_flattened, of_images, image_shape) if _runs(of_images, image_shape) else bound


def on_flattened(make_network: MakeNetwork, image_shape: tuple[int, ...]) -> nn.Module:
    """A network for images that takes flattened ones; its class and its weights keep their names."""
    network = make_network()
    network.register_forward_pre_hook(partial(_unflattened, image_shape=image_shape))
    return network


def _unflattened(network: nn.Module, inputs: tuple[Tensor], *, image_shape: tuple[int, ...]) -> tuple[Tensor]:
    return (inputs[0].unflatten(1, image_shape),)


def _runs(make_network: MakeNetwork, shape: tuple[int, ...]) -> bool:
    with isolated(0, "records or images"), torch.no_grad():
        try:
            make_network().eval()(torch.zeros(2, *shape))
        except Exception:  # what it says is raised again where the network is made for use
            return False
    return True
