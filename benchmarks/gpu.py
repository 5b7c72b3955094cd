"""All that a GPU is to show, in so many minutes: each part in a process of its own, the most important first.

    python benchmarks/gpu.py [--minutes 8] [--json FILE] [--images FOLDER] [--location FOLDER] [--parts NAME ...]
                             [--rehearse]

- `tests`: `pytest -m cuda`.
- `runs`: wall time of `mia-lightning` as it comes, and of Location with 60 shadow models (`--location`, the folder of
  dataset_location.tgz).
- `purchase`: 1,024 networks of Purchase-100's size as one stack, in float32, TF32 and bf16, each as it is, with CUDA
  graphs, with packed bits, too, and compiled, too (with the time that compiling takes), beside a `pl.Trainer` loop over
  4 of them and a bare loop over 16 whose step is a CUDA graph; with the bandwidth of a large copy, and the time that
  the memory alone would take.
- `images`: models of a fast recipe for images of CIFAR-10's size on halves of `--images` (the folder of its zip file;
  random images without): models per minute and test accuracy, beside a serial loop of the same compiled network.
- `ways`: a step of ResNet-18, Wide ResNet 28-2 and the vision transformer, stacked, looped (contiguous and channels
  last), both compiled, too, loops in several streams and as CUDA graphs, and in bare loops, compiled and as a CUDA
  graph; then stacks of 1 to 1,024 small networks, with CUDA graphs and without.
- `scoring`: every attack in closed form, at 256 models, 60,000 records and 10 classes on the device.

Each part has its share of the minutes, and what earlier parts left. A part that no longer fits is skipped; one that
takes longer is ended, and what it had measured stays: every measurement is printed, and FILE is written anew, as it
comes. With each stands the most memory that torch had allocated on the device.

It needs the packages that this project needs, pytest for `tests`, and no network. `--rehearse` does the same on the CPU
with small sizes, whose times mean nothing; without it and without a CUDA device it prints `no CUDA device` and ends
with 0. The exit code is 1 where a part has failed.
"""

import argparse
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_measures import PREFIX
from this_machine import machine

_USUAL = 8.0  # minutes, of which the shares are
_GRACE = 5.0  # seconds in which a part may end by itself


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part, with its share of eight minutes and the least time that makes sense, in seconds."""

    name: str
    seconds: float
    least: float


PARTS = (
    Part(name="tests", seconds=90, least=40),
    Part(name="runs", seconds=60, least=25),
    Part(name="purchase", seconds=110, least=40),
    Part(name="images", seconds=120, least=45),
    Part(name="ways", seconds=70, least=25),
    Part(name="scoring", seconds=25, least=15),
)


def allowances(parts: Sequence[Part], minutes: float, clock: Iterator[float]) -> Iterator[tuple[Part, float | None]]:
    """Each part with the seconds that it may take: its share, and what those before it left; None where it is skipped.

    Args:
        clock: seconds since the start, asked once for each part when its turn comes.
    """
    total, share = 60 * minutes, minutes / _USUAL
    for place, part in enumerate(parts):
        left = total - next(clock)
        later = share * sum(each.seconds for each in parts[place + 1 :])
        allowed = min(left, max(share * part.seconds, left - later))
        yield part, None if allowed < min(1.0, share) * part.least else allowed


@dataclass(kw_only=True)
class Results:
    """What was measured so far, on paper and in a file."""

    path: Path | None
    content: dict[str, Any]

    def add(self, part: str, measured: dict[str, Any]) -> None:
        """Print a measurement, and write all of them."""
        self.content["measurements"].append({"part": part, **measured})
        print(f"{part:9} {line_of(measured)}", flush=True)
        if self.path is not None:
            beside = self.path.with_name(self.path.name + ".part")
            beside.write_text(json.dumps(self.content, indent=2) + "\n")
            os.replace(beside, self.path)


def line_of(measured: dict[str, Any]) -> str:
    """A measurement in a line."""
    rest = {name: value for name, value in measured.items() if name != "what"}
    shown = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in rest.items())
    return f"{measured['what']:34} {'  '.join(shown)}"


def command_of(part: Part, seconds: float, options: argparse.Namespace) -> list[str]:
    """Of the process of a part."""
    command = [sys.executable, str(Path(__file__).with_name("gpu_parts.py")), part.name, "--seconds", f"{seconds:.1f}"]
    command += ["--device", "cpu" if options.rehearse else "cuda", *(["--rehearse"] if options.rehearse else [])]
    for name in ("images", "location"):
        if getattr(options, name) is not None:
            command += [f"--{name}", str(getattr(options, name))]
    return command


def run_part(part: Part, seconds: float, options: argparse.Namespace, results: Results) -> bool:
    """Whether a part ended well, or was ended when its time was over; it passes its measurements on as they come."""
    command = command_of(part, seconds, options)
    with tempfile.TemporaryFile("w+") as said:
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, start_new_session=True) as process:
            is_over = _pass_on(process, started + seconds + _GRACE, part.name, results)
        took = time.perf_counter() - started
        said.seek(0)
        words = said.read().strip().splitlines()
    if is_over:
        results.add(part.name, {"what": "ended: its time was over", "wall_s": took})
        return True
    ended: dict[str, Any] = {"what": "done" if process.returncode == 0 else "FAILED", "wall_s": took}
    if process.returncode:
        print("\n".join(words[-30:]), file=sys.stderr, flush=True)
        ended |= {"exit": process.returncode, "said": words[-30:]}
    results.add(part.name, ended)
    return process.returncode == 0


def _pass_on(process: "subprocess.Popen[bytes]", deadline: float, part: str, results: Results) -> bool:
    """Read what a part prints until it ends; whether it had to be ended at the deadline."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    begun = ""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.perf_counter())):
                os.killpg(process.pid, signal.SIGKILL)  # of its own session: with the processes that it started
                process.wait()
                return True
            text = os.read(process.stdout.fileno(), 2**16).decode()
            if not text:
                process.wait()
                return False
            *lines, begun = (begun + text).split("\n")
            for line in lines:
                if line.startswith(PREFIX):
                    results.add(part, json.loads(line.removeprefix(PREFIX)))


def main(given: Sequence[str] | None = None) -> int:
    """0 where all parts that were begun ended well."""
    options = arguments(given)
    if not options.rehearse and not torch.cuda.is_available():
        print("no CUDA device")
        return 0
    started = time.perf_counter()
    about = machine(torch.device("cpu" if options.rehearse else "cuda"))
    print(about, flush=True)
    content = {"machine": about, "minutes": options.minutes, "rehearsal": options.rehearse, "measurements": []}
    results = Results(path=options.json, content=content)
    chosen = [part for part in PARTS if part.name in options.parts]
    is_well = True
    clock = iter(lambda: time.perf_counter() - started, None)
    for part, seconds in allowances(chosen, options.minutes, clock):
        if seconds is None:
            results.add(part.name, {"what": "skipped: no time is left for it"})
        else:
            is_well = run_part(part, seconds, options, results) and is_well
    results.add("all", {"what": "done", "wall_s": time.perf_counter() - started})
    return 0 if is_well else 1


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=_USUAL, help="for all parts together (default: 8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements there, too, as they come")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="of CIFAR-10, for `images`")
    parser.add_argument("--location", type=Path, metavar="FOLDER", help="of dataset_location.tgz, for `runs`")
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with small sizes, to test the script")
    options = parser.parse_args(given)
    if not 0 < options.minutes < 1000:
        parser.error("--minutes must be above 0 and below 1000")
    for name in ("images", "location"):
        folder = getattr(options, name)
        if folder is not None and not folder.is_dir():
            parser.error(f"--{name} is {folder}, which is no folder")
    return options


if __name__ == "__main__":
    sys.exit(main())
