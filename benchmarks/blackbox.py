"""How fast a served model is asked: queries per second over loopback, and what the client itself costs.

    python benchmarks/blackbox.py [--records 2000] [--rounds 5] [--json FILE] [--quick]

A network on digits is trained and served by `mia-serve` in a process of its own. All ways of asking are timed in turn,
in each round about other records, so that no answer is kept already; figures are medians over rounds.

- `bare loop`: `httpx.Client.post`, one request after the other, with bodies made and answers read by `json` alone;
- `open_inference`: `EndpointModels.observe` with the given `concurrency` and records in a request: budget, responses on
  disk and the check of every answer included;
- `no network`: the same with an endpoint in this process that answers at once, which leaves the client's own work.

A query is one record. `of the bare loop` is the ratio of queries per second to the bare loop with as many records in a
request. The client's overhead for a query is the time of `no network` for a record.
"""

import argparse
import contextlib
import json
import signal
import socket
import statistics
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import torch
from tables import render
from this_machine import machine
from torch import Tensor
from whole_runs import timed_run

from mia_lightning.datasets.population import Population
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.interface import Endpoint
from mia_lightning.targets.endpoints.models import EndpointModels
from mia_lightning.targets.endpoints.open_inference import OpenInference, OpenInferenceEndpoint
from mia_lightning.targets.http_client import HttpClient

HEADER = (
    "asked by",
    "requests at once",
    "records in a request",
    "queries/s",
    "min to max",
    "µs/query",
    "of the bare loop",
)
BARE, CLIENT, ALONE = "bare loop", "open_inference", "no network"
WAYS = ((BARE, 1, 1), (CLIENT, 1, 1), (CLIENT, 8, 1), (BARE, 1, 32), (CLIENT, 1, 32), (CLIENT, 4, 32), (ALONE, 1, 32))
CLASSES = tuple("0123456789")
MODEL = "target"
PATIENCE = 120  # seconds until the server answers


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One way of asking.

    Attributes:
        by: who asks.
        concurrency: requests at once.
        batch: records in a request.
        rates: queries per second, one for each round.
    """

    by: str
    concurrency: int
    batch: int
    rates: list[float]

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


class Immediate:
    """An endpoint that answers all records alike, at once."""

    protocol = place = "nowhere"
    identity: Mapping[str, object] = {}

    def ask(self, x_B: Tensor) -> list[list[float]]:
        return [[0.1] * len(CLASSES)] * len(x_B)

    def close(self) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of `mia-serve` for a network on digits that is trained for it."""
    run = folder / "run"
    settings = [
        "dataset=digits",
        "shadow.count=2",
        "training.epochs=10",
        "attack=loss",
        "logger=none",
        "store.dir=null",
    ]
    timed_run([*settings, "save_models=true", f"hydra.run.dir={run}"], folder=folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sysconfig.get_path("scripts")) / "mia-serve"), str(run), "--port", str(port)]
    with (folder / "served.txt").open("w") as log, subprocess.Popen(command, stderr=log) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address, server, folder / "served.txt")
            yield address
        finally:
            server.send_signal(signal.SIGINT)


def wait_for(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until the server answers; raises `SystemExit` with what it said where it does not."""
    end = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{address}/v2/health/ready").raise_for_status()
            return
        time.sleep(0.2)
    server.kill()
    raise SystemExit(f"mia-serve does not answer:\n{log.read_text()}")


def records(num: int, number: int) -> Tensor:
    """Different records in the form of digits, uint8 `[N, 64]`; others for each number."""
    return torch.randint(17, (num, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))


def bare_rate(address: str, batch: int, x_N: Tensor) -> float:
    """Queries per second of a loop over `httpx.Client.post`."""
    start = time.perf_counter()
    with httpx.Client() as client:
        for x_B in x_N.split(batch):
            tensor = {"name": "x", "datatype": "UINT8", "shape": list(x_B.shape), "data": x_B.flatten().tolist()}
            answer = client.post(f"{address}/v2/models/{MODEL}/infer", json={"inputs": [tensor]})
            answer.raise_for_status()
            answer.json()
    return len(x_N) / (time.perf_counter() - start)


def client_rate(endpoint: Endpoint, concurrency: int, batch: int, x_N: Tensor, folder: Path) -> float:
    """Queries per second of the client, with its responses on disk."""
    asking = Asking(batch_size=batch, concurrency=concurrency, responses=folder, sentinels=0)
    models = EndpointModels(endpoint, asking, CLASSES)
    label_N = torch.zeros(len(x_N), dtype=torch.int64)
    population = Population(name="random", x_N=x_N, label_N=label_N, class_names=CLASSES)
    start = time.perf_counter()
    models.observe(population)
    seconds = time.perf_counter() - start
    models.close()
    return len(x_N) / seconds


def measured(num_records: int, rounds: int, folder: Path) -> list[Asked]:
    """All ways in turn, in each round about records that nobody asked about before."""
    asked = [Asked(by=by, concurrency=concurrency, batch=batch, rates=[]) for by, concurrency, batch in WAYS]
    with served(folder) as address:
        open_inference = OpenInference(url=address, model=MODEL)
        bare_rate(address, 32, records(64, -1))  # the first requests of a server are slower
        for number in range(rounds):
            for place, way in enumerate(asked):
                x_N = records(num_records, len(WAYS) * number + place)
                if way.by == BARE:
                    way.rates.append(bare_rate(address, way.batch, x_N))
                    continue
                endpoint: Endpoint = Immediate()
                if way.by == CLIENT:
                    client = HttpClient(address, connections=way.concurrency)
                    endpoint = OpenInferenceEndpoint(open_inference, client, len(CLASSES))
                way.rates.append(client_rate(endpoint, way.concurrency, way.batch, x_N, folder / "responses"))
    return asked


def row(way: Asked, asked: Sequence[Asked]) -> tuple[str, ...]:
    """A line of the table."""
    bare = next(each for each in asked if each.by == BARE and each.batch == way.batch)
    ratio = "–" if way.by == ALONE else f"{way.rate / bare.rate:.2f}"
    spread = f"{min(way.rates):,.0f} to {max(way.rates):,.0f}"
    cost = f"{1e6 / way.rate:,.0f}"
    return (way.by, str(way.concurrency), str(way.batch), f"{way.rate:,.0f}", spread, cost, ratio)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--records", type=int, default=None, help="asked about in each round (default: 2000)")
    parser.add_argument("--rounds", type=int, default=None, help="of all ways in turn (default: 5)")
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    parser.add_argument("--quick", action="store_true", help="40 records, 1 round: a test of the script")
    parsed = parser.parse_args(given)
    parsed.records = parsed.records or (40 if parsed.quick else 2000)
    parsed.rounds = parsed.rounds or (1 if parsed.quick else 5)
    if parsed.records < 1 or parsed.rounds < 1:
        parser.error("--records and --rounds must be at least 1")
    return parsed


def main() -> None:
    parsed = arguments()
    with tempfile.TemporaryDirectory() as folder:
        asked = measured(parsed.records, parsed.rounds, Path(folder))
    print(f"{machine(torch.device('cpu'))}\n\n{render(HEADER, [row(way, asked) for way in asked])}\n")
    print(f"{parsed.records:,} records a round; rounds: {parsed.rounds}, medians.")
    if parsed.json is not None:
        parsed.json.write_text(json.dumps([asdict(way) for way in asked], indent=2))


if __name__ == "__main__":
    main()
