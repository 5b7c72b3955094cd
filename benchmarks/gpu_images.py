"""The part `images` of `gpu.py`: a fast recipe for small images, by this package and in a serial loop."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from gpu_loops import FastResNet, smoothed, smoothed_of_stack
from gpu_measures import Options, say, timed
from torch import Tensor, nn
from training_settings import SEED, Execution

from mia_lightning.datasets.augmentation import Crop, Flip, augmented
from mia_lightning.datasets.cifar import load_cifar10
from mia_lightning.datasets.form import one_tensor
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.seeds import derive, generator, isolated
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.step.batches import StackBatches
from mia_lightning.training.step.recipe import Recipe


def images_of(options: Options) -> tuple[Population, bool]:
    """The images, and whether they are real."""
    if options.images is not None and not options.rehearse:
        return load_cifar10(root=options.images), True
    numbers = generator(SEED, "benchmark", "random images")
    count = 120 if options.rehearse else 30_000
    pixels = torch.randint(256, (count, 3, 32, 32), generator=numbers).to(torch.uint8)
    label_N = torch.randint(10, (count,), generator=numbers)
    names = [str(c) for c in range(10)]
    return make_population(pixels, label_N, name="random images", class_names=names, scale=1 / 255), False


def images(options: Options) -> None:
    """A fast recipe on halves of the images: by this package, and in a serial loop."""
    population, are_real = images_of(options)
    population = population.to(options.device)
    epochs, size, width, together = (1, 30, 4, 2) if options.rehearse else (12, 500, 64, 16)
    half = len(population) // 2
    steps = -(-half // size)
    recipe = Recipe(
        epochs=epochs,
        batch_size=size,
        optimizer=partial(torch.optim.SGD, lr=0.4, momentum=0.9, nesterov=True, weight_decay=5e-4),
        scheduler=partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.4, total_steps=epochs * steps + 1),
        scheduler_interval="step",
        augment=[Crop(padding=4), Flip()],
        objective=smoothed_of_stack,
    )
    precision = "32" if options.rehearse else "bf16"
    make_network = bind_records(partial(FastResNet, width=width), population)

    def records(k: int) -> Tensor:
        return torch.randperm(len(population), generator=generator(SEED, "benchmark", "halves", k))[:half]

    def told(name: str, models: int, seconds: float, accuracy_K: list[float], **more: Any) -> None:
        rate = {"models": models, "s": seconds, "models_per_minute": 60 * models / seconds}
        accuracy = {"test_accuracy": sum(accuracy_K) / len(accuracy_K), "of_first": accuracy_K[0]} if are_real else {}
        say(name, **rate, **accuracy, **more)

    def serial(name: str, models: Sequence[int], compiled: bool) -> None:
        make = partial(train_image_model, population, make_network, recipe, compiled=compiled, precision=precision)
        make(records(0)[: 2 * size], 0, epochs=1)  # compiles
        seconds, networks, memory = timed(options, lambda: [make(records(k), k) for k in models])
        found = [_accuracy(each, population, records(k), precision) for k, each in zip(models, networks, strict=True)]
        told(name, len(models), seconds, found, **memory)

    def package(execution: Execution, first: int) -> float:
        engine = options.engine(precision)
        models = list(range(first, first + together))
        records_K = [records(k) for k in models]
        job = TrainingJob(
            seed=engine.seed,
            role="shadow",
            make_network=make_network,
            population=population,
            records_K=records_K,
            models=models,
            recipe=replace(recipe, execution=execution),
        )
        seconds, trained, memory = timed(options, lambda: engine.run(job))
        out_KN = torch.ones(together, len(population), dtype=torch.bool)
        for out_N, of_model in zip(out_KN, records_K, strict=True):
            out_N[of_model] = False
        answer_KNC = trained.observe(population).log_probability_KANC[:, 0]
        hit_KN = (answer_KNC.argmax(-1) == population.label_N).cpu()
        found = [float(hit_N[out_N].double().mean()) for hit_N, out_N in zip(hit_KN, out_KN, strict=True)]
        plan = next(iter(engine.plans))
        told(f"package, {execution}", together, seconds, found, took=f"{plan.execution} of {plan.chunk}", **memory)
        return seconds

    serial("serial loop", [0], compiled=False)
    took = package("auto", 0)
    if options.device.type == "cuda":
        serial("serial compiled loop", [0, 1], compiled=True)
    first = together
    while not options.rehearse and options.left > 1.2 * took:
        took = package("auto", first)
        first += together


def train_image_model(
    population: Population,
    make_network: Callable[[], nn.Module],
    recipe: Recipe,
    records: Tensor,
    k: int,
    *,
    compiled: bool,
    precision: str,
    epochs: int | None = None,
) -> nn.Module:
    """Model k as a stack would train it, by a loop written for this network alone: channels last, perhaps compiled."""
    device = population.device
    with isolated(SEED, "shadow", k, "initialisation"):
        network = make_network().to(device).to(memory_format=torch.channels_last).train()
    records = records.to(device)
    x_M, label_M = one_tensor(population.records(records)), population.label_N[records]
    optimizer = recipe.make_optimizer(network.parameters())
    scheduler = recipe.make_scheduler(optimizer)
    key_K = torch.tensor([derive(SEED, "shadow", k, "order")], device=device)
    steps = recipe.steps_per_epoch(len(records))
    batches = StackBatches([torch.arange(len(records))], key_K.cpu(), batches_per_epoch=steps, device=device)
    forward = _compiled(network) if compiled else network
    for epoch in range(recipe.epochs if epochs is None else epochs):
        batches.set_epoch(epoch)
        for place, (index_KB, _) in enumerate(batches):
            step = epoch * steps + place
            x = x_M.index_select(0, index_KB[0])[None]
            x = augmented(x, recipe.augment, key_K=key_K, step=step, index_KB=records[index_KB])
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                outputs = forward(x[0].contiguous(memory_format=torch.channels_last))
                loss = smoothed(outputs, label_M.index_select(0, index_KB[0]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
    return network.eval()


def _compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """All networks of one class share what is compiled."""
    network.compile()
    return network


@torch.no_grad()
def _accuracy(network: nn.Module, population: Population, records: Tensor, precision: str) -> float:
    """On the records that it did not train on."""
    out_N = torch.ones(len(population), dtype=torch.bool)
    out_N[records] = False
    hits = 0
    for index_B in out_N.nonzero().squeeze(1).to(population.device).split(2000):
        with torch.autocast(population.device.type, torch.bfloat16, enabled=precision == "bf16"):
            output_BC = network(one_tensor(population.records(index_B)))
        hits += int((output_BC.argmax(-1) == population.label_N[index_B]).sum())
    return hits / int(out_N.sum())
