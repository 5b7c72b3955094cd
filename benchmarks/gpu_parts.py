"""The parts of `gpu.py`, each a process of its own, which prints its measurements as they come.

python benchmarks/gpu_parts.py PART [--seconds 60] [--device cuda|cpu] [--images FOLDER] [--location FOLDER]
                               [--rehearse]
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import attacks as of_attacks
import convolutions
import scaling
import torch
import torch._dynamo
from gpu_images import images
from gpu_loops import Step, train_by_graphs
from gpu_measures import Options, say, timed
from shadow_training import LEARNING_RATE, train_by_trainer
from this_machine import synchronise
from training_settings import PURCHASE, SEED, Case, make_case

from mia_lightning.attacks.interface import Evidence
from mia_lightning.datasets.form import one_tensor
from mia_lightning.models.vit import VisionTransformer
from mia_lightning.seeds import isolated
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.plan.execution import SWITCHES
from mia_lightning.training.step import compiled
from mia_lightning.training.step.recipe import Recipe

_LARGE_COPY = 2**30  # bytes
_ROOT = Path(__file__).parents[1]


def tests(options: Options) -> None:
    """`pytest -m cuda`; rehearsed, the same tests on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "cuda",
            "tests/cuda",
            "-n",
            "0",
            "-q",
            "-p",
            "no:cacheprovider",
        ]
        command += ["-W", "default", f"--junitxml={report}"]
        environment = {**os.environ, **({"MIA_CUDA_TESTS_ON_CPU": "1"} if options.rehearse else {})}
        done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
        if not report.is_file():
            raise SystemExit(f"pytest ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    slowest = sorted(suite.iter("testcase"), key=lambda case: -float(case.get("time", 0)))[:3]
    say("pytest -m cuda", **counts, slowest=[f"{case.get('name')} {case.get('time')}" for case in slowest])
    failed = [
        case for case in suite.iter("testcase") if any(case.find(kind) is not None for kind in ("failure", "error"))
    ]
    for case in failed:
        found = case.find("failure")
        found = case.find("error") if found is None else found
        assert found is not None
        say("failed", test=case.get("name"), why=(found.get("message") or "")[:500])
    if failed:
        raise SystemExit(done.stdout[-4000:])


def runs(options: Options) -> None:
    """Whole runs of the command, imports and report included, without a store."""
    commands: dict[str, list[str]] = {"mia-lightning": []}
    if options.location is not None:
        data = ["dataset=location", f"dataset.root={options.location.absolute()}"]
        commands["Location, 60 shadow models"] = [*data, "shadow.count=60"]
    accelerator = "gpu" if options.device.type == "cuda" else "cpu"
    for what, chosen in commands.items():
        small = ["shadow.count=2", "training.epochs=2"] if options.rehearse else []
        for where in dict.fromkeys((accelerator, "cpu")):
            seconds, report = _run([*chosen, *small, f"trainer.accelerator={where}", "store.dir=null"])
            say(what, on=where, s=seconds, test_accuracy=report["target"]["test_accuracy"])


def _run(overrides: list[str]) -> tuple[float, dict[str, Any]]:
    """Seconds of a run, and its report."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mia_lightning", *overrides, f"hydra.run.dir={folder}/run"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
        start = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            said = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            raise SystemExit(f"{' '.join(overrides)} ended with {done.returncode}:\n{said}")
        return seconds, json.loads((Path(folder) / "run" / "report.json").read_text())


def bandwidth(device: torch.device) -> float:
    """Bytes per second of a large copy on the device, read and written bytes both counted."""
    source = torch.empty(_LARGE_COPY if device.type == "cuda" else 2**22, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates = []
    for _ in range(10):
        synchronise(device)
        start = time.perf_counter()
        target.copy_(source)
        synchronise(device)
        rates.append(2 * len(source) / (time.perf_counter() - start))
    return sorted(rates)[len(rates) // 2]


def floor_bytes(case: Case, num_models: int) -> int:
    """Bytes that the steps of a stack move at least.

    Seven passes over all parameters, gradients and moments a step (the forward and the backward product read the
    weights, the gradient is written, and Adam, one fused kernel, reads it and reads and writes what is left), and the
    gathered batches twice.
    """
    setting = case.setting
    parameters = sum(p.numel() for p in case.make_network().parameters())
    steps = case.epochs * -(-setting.records // setting.batch_size)
    batch = setting.batch_size * case.population.x_N[0].numel()
    return steps * num_models * 4 * (7 * parameters + 2 * batch)


def train_stack(options: Options, case: Case, num_models: int, precision: str, **switches: Any) -> float:
    """The mean final loss of one stack, trained with all that the engine does around the steps."""
    engine = options.engine(precision)
    recipe = Recipe(
        epochs=case.epochs,
        batch_size=case.setting.batch_size,
        optimizer=partial(torch.optim.Adam, lr=LEARNING_RATE),
        execution="stack",
        **switches,
    )
    trained = engine.run(
        TrainingJob(
            seed=engine.seed,
            role="shadow",
            make_network=case.make_network,
            population=case.population,
            records_K=[case.records(k) for k in range(num_models)],
            recipe=recipe,
        )
    )
    return float(trained.train_loss_EK[-1].mean())


def purchase(options: Options) -> None:
    """Purchase-100's networks."""
    setting = replace(PURCHASE, population=400, records=200) if options.rehearse else PURCHASE
    num_models, of_trainer, of_graphs, epochs = (4, 1, 2, 2) if options.rehearse else (1024, 4, 16, 50)
    case, warm_up = (make_case(setting, options.device, count) for count in (epochs, 1))
    rate = bandwidth(options.device)
    least = floor_bytes(case, num_models)
    say("copy", gb_per_s=rate / 1e9, floor_s=least / rate)
    rates: dict[str, float] = {}

    def measure(name: str, count: int, train: Callable[[], float]) -> None:
        seconds, loss, memory = timed(options, train)
        rates[name] = count / seconds
        more: dict[str, float] = {}
        if name.startswith("stack"):
            more = {"gb_per_s": least / seconds / 1e9, "of_copy": least / seconds / rate}
        beside = rates.get("trainer loop")
        more |= {} if beside is None else {"times_trainer_loop": rates[name] / beside}
        say(name, models=count, s=seconds, models_per_s=rates[name], loss=loss, **more, **memory)

    switched_on = {
        "": (),
        ", graphs": ("cuda_graphs",),
        ", graphs, bits": ("cuda_graphs", "packed_bits"),
        ", graphs, compiled": ("cuda_graphs", "compile"),
    }
    stacks = {
        f"stack {precision}{words}": (precision, {name: name in names for name in SWITCHES})
        for words, names in switched_on.items()
        for precision in ("tf32", "32", "bf16")
    }

    def stack(name: str) -> None:
        precision, switches = stacks[name]
        measure(name, num_models, partial(train_stack, options, case, num_models, precision, **switches))

    for precision, switches in stacks.values():
        if not switches["compile"]:  # other sizes are compiled anew
            train_stack(options, warm_up, min(4, num_models), precision, **switches)
    plain, graphed = "stack tf32", "stack tf32, graphs"
    stack(plain)
    stack(graphed)
    loops = {"trainer loop": (of_trainer, train_by_trainer), "graphed loop": (of_graphs, train_by_graphs)}
    for name, (count, train) in loops.items():
        train(warm_up, [0])

        def losses(train: Any = train, count: int = count) -> float:
            found = [case.loss(k, take_out()) for k, take_out in enumerate(train(case, range(count)))]
            return sum(found) / count

        measure(name, count, losses)
    others = [name for name in stacks if name not in (plain, graphed)]
    for name in (*others, *stacks, *stacks):  # again, for the spread, where there is time
        stack(name)
        if options.rehearse or options.left < 2 * num_models / min(rates[each] for each in rates if "stack" in each):
            break


def ways(options: Options) -> None:
    """Ways to take a step, and how the time grows with the number of models."""
    vit = convolutions.Setting(network="vit", make=VisionTransformer, steps=4, batch_size=32)
    settings = [setting for setting in (*convolutions.SETTINGS, vit) if setting.network != "cnn"]
    if options.rehearse:
        settings = [replace(convolutions.SETTINGS[0], steps=2, batch_size=4)]
    for setting in settings:
        steps = setting if options.rehearse else replace(setting, steps=20, batch_size=128)
        case = convolutions.make_case(steps, options.device, 2 if options.rehearse else 8)
        for variant in convolutions.make_variants(case, compiles=True):
            if not variant.bf16 and (", " in variant.name or not options.rehearse):
                continue
            variant.measure()
            variant.milliseconds_R.clear()
            _, _, memory = timed(options, variant.measure)
            name = f"{setting.network} {variant.name} {variant.memory_format}"
            say(name, precision=variant.precision, ms_per_step=variant.median, loss=variant.loss, **memory)
        _, milliseconds, memory = timed(options, partial(_graphed, case, "32" if options.rehearse else "bf16"))
        say(f"{setting.network} graphed loop", ms_per_step=milliseconds, **memory)
    for models in (1, 2) if options.rehearse else [2**j for j in range(11)]:
        for cuda_graphs in (False, True):
            point, least = scaling.Point("models", models=models), 0.01 if options.rehearse else 0.2
            measured = scaling.measure(point, options.device, 1, least, cuda_graphs=cuda_graphs)
            name = f"stack of {models}{', graphs' if cuda_graphs else ''}"
            say(name, s_per_epoch=measured.seconds, models_per_s=models / measured.seconds)


def _graphed(case: convolutions.Case, precision: str) -> float:
    """Milliseconds of a step of one network, captured, channels last."""
    size = case.setting.batch_size
    records = case.records_K[0].to(case.device)
    x_M = one_tensor(case.population.records(records)).contiguous(memory_format=torch.channels_last)
    with isolated(SEED, "shadow", 0, "initialisation"):
        network = case.make_network().to(case.device).to(memory_format=torch.channels_last).train()
    step = Step(network, x_M, case.population.label_N[records], size, precision=precision)
    parts = torch.arange(len(records), device=case.device).split(size)
    step(parts[0])
    synchronise(case.device)
    start = time.perf_counter()
    for index_B in parts:
        step(index_B)
    synchronise(case.device)
    return 1e3 * (time.perf_counter() - start) / len(parts)


def scoring(options: Options) -> None:
    """Attacks in closed form on the device: fitted, and one target scored."""
    sizes = (8, 200, 3) if options.rehearse else (256, 60_000, 10)
    shadows, target = of_attacks.make_evidence(*sizes)
    shadows, target = _moved(shadows, options.device), target.to(options.device)
    total = 0.0
    for name, attack in of_attacks.attacks().items():
        if hasattr(attack, "training") or attack.needs.views:
            continue  # networks are another part's; views would have to be asked about
        work = partial(_fit_and_score, attack, shadows, target)
        work()
        seconds, _, memory = timed(options, work)
        total += seconds
        say(name, s=seconds, **memory)
    say("all of them", s=total)


def _fit_and_score(attack: Any, shadows: Evidence, target: Any) -> None:
    attack.fit(shadows, of_attacks.ENGINE).score(target, shadows.label_N)


def _moved(shadows: Evidence, device: torch.device) -> Evidence:
    names = ("member_KN", "scored_KN", "block_K", "label_N", "target_scored_N", "population_N")
    tensors = {name: getattr(shadows, name).to(device) for name in names}
    return replace(shadows, signals=shadows.signals.to(device), **tensors)


PARTS: dict[str, Callable[[Options], None]] = {
    each.__name__: each for each in (tests, runs, purchase, images, ways, scoring)
}


def main() -> None:
    parser = argparse.ArgumentParser(description="One part of gpu.py.")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--location", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    given = vars(parser.parse_args())
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")  # advice on workers, once for each model
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # where Slurm is installed
    if given["rehearse"]:  # without the minutes that a C++ compiler takes
        compiled.BACKEND = torch._dynamo.lookup_backend("aot_eager")
    part = PARTS[given.pop("part")]
    part(Options(started=time.perf_counter(), **{**given, "device": torch.device(given["device"])}))


if __name__ == "__main__":
    main()
