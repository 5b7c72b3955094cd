"""How fast a served model is asked: queries per second over loopback, and what the client itself costs.

    python benchmarks/blackbox.py [--records 2000] [--rounds 5] [--json FILE] [--quick]

A network on digits is trained and served by `mia-serve` in a process of its own. All ways of asking are timed in turn, in
each round about other records, so that no answer is kept already; figures are medians over rounds.

- `bare loop`: `httpx.Client.post`, one request after the other, with bodies made and answers read by `json` alone;
- `open_inference`: `EndpointModels.observe` with the given `concurrency` and records in a request: budget, responses on
  disk and the check of every answer included;
- `no network`: the same with an endpoint in this process that answers at once, which leaves the client's own work.

A query is one record. `of the bare loop` is the ratio of queries per second to the bare loop with as many records in a
request. The client's overhead for a query is the time of `no network` for a record.
"""

import argparse
import json
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import torch
from shadow_training import machine
from tables import render
from torch import Tensor
from whole_runs import timed_run

from mia_lightning.datasets.population import Population
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.http import Server
from mia_lightning.targets.endpoints.models import EndpointModels
from mia_lightning.targets.endpoints.open_inference import OpenInferenceEndpoint

HEADER = ("asked by", "requests at once", "records in a request", "queries/s", "min to max", "µs/query", "of the bare loop")
BARE, CLIENT, ALONE = "bare loop", "open_inference", "no network"
WAYS = ((BARE, 1, 1), (CLIENT, 1, 1), (CLIENT, 8, 1), (BARE, 1, 32), (CLIENT, 1, 32), (CLIENT, 4, 32), (ALONE, 1, 32))
CLASSES = tuple("0123456789")
NAME = "target"
