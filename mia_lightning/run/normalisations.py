"""Usual normalisations of records: under which of them a target may have been trained, and how a person sets it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mia_lightning.datasets.form import one_tensor
from mia_lightning.datasets.population import Population
from mia_lightning.run.definition import Audit

_SHOWN = 4  # constants in a sentence
_COMPARED = 256  # records by which normalisations are told apart
# Two normalisations are near where this share of numbers differs by no more than this part of their deviation.
_NEARLY_ALL, _NEAR = 0.95, 0.3

# Usual normalisations of images in [0, 1].
_GREY = (
    ((0.5,), (0.5,)),
    ((0.1307,), (0.3081,)),  # MNIST
    ((0.286,), (0.353,)),  # Fashion-MNIST
    ((0.485,), (0.225,)),  # ImageNet, of one channel; with 0.229 nearly the same
    ((0.456,), (0.224,)),
    ((0.449,), (0.226,)),  # ImageNet, the mean of its channels
)
_COLOUR = (
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet
    ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),  # CIFAR-10
    ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)),  # CIFAR-10, means over images
    ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),  # CIFAR-100
    ((0.4377, 0.4438, 0.4728), (0.198, 0.201, 0.197)),  # SVHN
    ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),  # CLIP
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Normalisation:
    """`(x * scale - mean) / std`, with None for none; `name` where its constants are too many to be shown."""

    scale: float
    mean: Tensor | None = None
    std: Tensor | None = None
    name: str | None = None


def normalised(population: Population, other: Normalisation, *, as_network: bool) -> Population:
    normalised = replace(population, scale=other.scale, mean=other.mean, std=other.std)
    if as_network:
        return normalised
    return replace(normalised, x_N=one_tensor(normalised.normalised(population.x_N)), scale=1.0, mean=None, std=None)


def normalisations(population: Population, *, as_network: bool) -> list[Normalisation]:
    """Those in use for records of this form, but for those near what a target is given: records that are standardised
    by other constants are not wrong, though they may by chance suit a network less.

    Args:
        as_network: whether the target is given normalised records.
    """
    x = population.x_N.float()
    low, high, shape = float(x.min()), float(x.max()), population.input_shape
    found: list[Normalisation] = [Normalisation(scale=1.0)]
    is_image = low >= 0 and (len(shape) > 1 or not population.x_N.is_floating_point() or high <= 1)
    if is_image and high > 0:
        # The factor that brings images to [0, 1].
        unit = population.scale if high * population.scale <= 1 else 1 / 255 if high > 16 else 1 / high
        channels = shape[0] if len(shape) == 3 else 1
        whole = (255.0,) if high <= 1 and population.x_N.is_floating_point() else ()  # images as they were in bytes
        found += [Normalisation(scale=scale) for scale in (*{unit, 1 / 255, 1 / high}, *whole)]
        for mean, std in _COLOUR if channels == 3 else _GREY:
            found.append(Normalisation(scale=unit, mean=_constants(mean, shape), std=_constants(std, shape)))
        axes = (0, 2, 3) if channels > 1 else tuple(range(x.ndim))
        own = tuple((x * unit).mean(axes).flatten().tolist()), tuple((x * unit).std(axes).flatten().tolist())
        if all(each > 0 for each in own[1]):
            mean_own, std_own = (tuple(round(each, 3) for each in part) for part in own)
            if all(std_own):
                found.append(
                    Normalisation(scale=unit, mean=_constants(mean_own, shape), std=_constants(std_own, shape))
                )
    if len(shape) == 1 and len(x) > 1:
        for zero, span, brought in (
            (x.mean(0), x.std(0), "to mean 0 and deviation 1"),
            (x.amin(0), x.amax(0) - x.amin(0), "to the range from 0 to 1"),
        ):
            one = torch.where(span > 0, span, 1.0)
            found.append(Normalisation(scale=1.0, mean=zero, std=one, name=f"each column brought {brought}"))
    some_x = x[:_COMPARED]
    now = one_tensor(population.normalised(some_x)) if as_network else some_x
    different: list[Normalisation] = []
    for each in found:
        own_x = _applied(population, some_x, each)
        seen = (_applied(population, x[:1], one) for one in different)
        if not _is_near(own_x, now) and not any(torch.allclose(own_x[:1], one, rtol=1e-4, atol=1e-6) for one in seen):
            different.append(each)
    return different


def _applied(population: Population, x: Tensor, other: Normalisation) -> Tensor:
    return one_tensor(normalised(population, other, as_network=True).normalised(x))


def _is_near(x: Tensor, now: Tensor) -> bool:
    """Whether nearly all numbers are moved by no more than a part of the deviation of what they are now."""
    deviation = now.std(0) if now.ndim == 2 and len(now) > 1 else now.std()
    return bool(((x - now).abs() <= _NEAR * deviation + 1e-6).double().mean() >= _NEARLY_ALL)


def _constants(values: Sequence[float], shape: tuple[int, ...]) -> Tensor:
    """One number, or one for each channel."""
    return torch.tensor(values[0]) if len(values) == 1 else torch.tensor(values).view(-1, *(1 for _ in shape[1:]))


def described(other: Normalisation) -> str:
    if other.name is not None:
        return f"it was trained on records with {other.name}"
    parts = [f"multiplied by {other.scale:.6g}"] if other.scale != 1 else []
    if other.mean is not None and other.std is not None:
        parts.append(f"brought to mean {_numbers(other.mean)} and deviation {_numbers(other.std)}")
    return f"it was trained on records {', '.join(parts)}" if parts else "it was trained on records as they are"


def override(other: Normalisation, population: Population, audit: Audit, *, as_network: bool) -> str:
    """The settings, where the data set has them; else what to do to the records."""
    dataset = audit.config.get("dataset") or {}
    if other.name is not None or (dataset and "mean" not in dataset):
        return f"give the records so: {described(other).partition('records ')[2]}"
    parts = []
    if abs(other.scale - population.scale) > 1e-9:
        parts.append(("scale", f"{other.scale:.9g}"))
    for name, value, now in (("mean", other.mean, population.mean), ("std", other.std, population.std)):
        if value is not None:
            parts.append((name, _numbers(value)))
        elif now is not None:
            parts.append((name, "null" if dataset else "None"))
    if not dataset:
        return f"make the Population with {', '.join(f'{name}={value}' for name, value in parts)}"
    normalised = "" if as_network else " target.normalised=true"
    return f"set {' '.join(f'dataset.{name}={value}' for name, value in parts)}{normalised}"


def _numbers(value: Tensor) -> str:
    numbers = [f"{each:.6g}" for each in value.flatten().tolist()[:_SHOWN]]
    return numbers[0] if value.numel() == 1 else f"[{','.join(numbers)}{',…' if value.numel() > _SHOWN else ''}]"
