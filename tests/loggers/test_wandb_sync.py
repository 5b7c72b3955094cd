"""An offline run can be uploaded later: `wandb sync`, to a server on this machine that answers as wandb's does."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mia_lightning.loggers.wandb import WandbReport
from mia_lightning.reports.rows import headline_scalars
from mia_lightning.reports.schema import AuditReport

RUN = {
    "id": "1",
    "name": "synced",
    "displayName": "synced",
    "config": "{}",
    "summaryMetrics": "{}",
    "wandbConfig": "{}",
    "historyTail": "[]",
    "eventsTail": "[]",
    "historyLineCount": 0,
    "eventsLineCount": 0,
    "logLineCount": 0,
    "tags": [],
    "project": {"id": "2", "name": "mia_lightning", "entity": {"id": "3", "name": "team"}},
}
ARTIFACT = {"id": "4", "state": "COMMITTED", "artifactSequence": {"id": "5", "latestArtifact": None}}


class Server(ThreadingHTTPServer):
    """Keeps what it is given: files by name, and the runs that were created."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Server

    def do_PUT(self) -> None:
        self.server.files[self.path.removeprefix("/upload/")] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if "graphql" not in self.path:
            self._answer({})
            return
        asked = json.loads(body)
        variables = asked.get("variables") or {}
        if "UpsertBucket" in asked["query"]:
            self.server.created.append(variables)
        names = variables.get("files", []) if "CreateRunFiles" in asked["query"] else []
        places = [{"name": name, "uploadUrl": f"{self.server.address}/upload/{name}"} for name in names]
        data = {
            "serverInfo": {"features": []},
            "viewer": {"id": "6", "entity": "team", "username": "me", "flags": "{}", "teams": {"edges": []}},
            "upsertBucket": {"bucket": RUN, "inserted": True},
            "createArtifact": {"artifact": ARTIFACT},
            "createRunFiles": {"runID": "1", "uploadHeaders": [], "files": places},
        }
        self._answer({"data": data})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, content: dict[str, Any]) -> None:
        encoded = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.served
@pytest.mark.usefixtures("global_generators")  # wandb's waits are drawn
def test_an_offline_run_is_uploaded_by_wandb_sync(report: AuditReport, server: Server, tmp_path: Path) -> None:
    import wandb

    with WandbReport(name="nightly", tags=["a"]).start(tmp_path, {"seed": 3}) as run:
        run.finish(report)
    wandb.teardown()
    assert run.location is not None
    assert server.created == []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {
        "WANDB_BASE_URL": server.address,
        "WANDB_API_KEY": 40 * "a",
        "WANDB_ERROR_REPORTING": "false",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", run.location],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Finished syncing" in done.stderr + done.stdout
    assert (server.created[0]["project"], server.created[0]["displayName"]) == ("mia_lightning", "nightly")
    assert json.loads(server.created[0]["config"])["seed"]["value"] == 3
    summary = json.loads(server.files["wandb-summary.json"])
    flat: dict[str, Any] = dict(_flat(summary))
    for name, value in headline_scalars(report).items():
        assert flat[name] == pytest.approx(value)
    assert any(name.startswith("media/table/per_class") for name in server.files)


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Summaries nest where a name has a dot in it."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
