"""`mia-serve`: serve a trained model of a run over the usual protocols, or a service that trains models."""

import argparse
import math
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mia_lightning.errors import InputError
from mia_lightning.terminal.entry import import_from_here, run, working_folder
from mia_lightning.terminal.exit_codes import BELOW
from mia_lightning.terminal.parser import Parser, tell
from mia_lightning.training.plan.cores import prepare_for_sharing

if TYPE_CHECKING:
    from fastapi import FastAPI

    from mia_lightning.serve.app import Token
    from mia_lightning.serve.desk import Desk

PROGRAM = "mia-serve"
SERVICES = ("google_prediction", "amazon_ml")
_TRUSTED = (
    "warning: --trust calls whatever the run's configuration names, with your rights on this machine; leave it out for "
    "folders that you did not make."
)


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What is to be served.

    Attributes:
        app: the application.
        listening: the socket that already listens; requests wait there until the server runs.
        sentences: for the person who started it.
    """

    app: "FastAPI"
    listening: socket.socket
    sentences: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """`mia-serve`; ends the process with 0 (Ctrl-C or SIGTERM while it serves), 2 (bad input), 130 or 143."""
    prepare_for_sharing()
    run(PROGRAM, lambda: _serve(sys.argv[1:] if arguments is None else arguments), loss=" before it served anything")


def _serve(arguments: Sequence[str]) -> NoReturn:
    working_folder()  # without which torch cannot be loaded
    ready = prepare(arguments)
    from mia_lightning.serve.listening import serve

    for sentence in ready.sentences:
        tell(PROGRAM, sentence)
    serve(ready.app, ready.listening)
    tell(PROGRAM, "ended.")
    os._exit(BELOW)  # without waiting for a training in the background; nothing is buffered


def prepare(arguments: Sequence[str]) -> Ready:
    """The server that the arguments of the command describe.

    Raises:
        InputError: it cannot be served.
    """
    service = arguments[0] if arguments and arguments[0] in SERVICES else None
    options = _parser().parse_args(arguments) if service is None else _service_parser(service).parse_args(arguments[1:])
    desk, token = _desk(options), _token(options)
    from mia_lightning.serve.listening import bound

    listening = bound(options.host, options.port)  # before anything is loaded: the port may be in use
    try:
        if service is None:
            return _model(options, desk, token, listening)
        return _service(options, service, desk, token, listening)
    except BaseException:
        listening.close()
        raise


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=PROGRAM,
        parents=[_common(max_bytes=2**26, max_records=10_000)],
        description="Serves a trained model of a run with save_models=true over the Open Inference Protocol (v2), the "
        "v1 protocol and SageMaker's routes, to rehearse the audit of a served model.",
        epilog=f"{PROGRAM} {{{','.join(SERVICES)}}} runs a service that trains models instead.",
    )
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="the folder of the run")
    parser.add_argument(
        "--model", choices=("target", "shadow"), default="target", help="which to serve (default: %(default)s)"
    )
    parser.add_argument("--member", type=_whole(0), metavar="K", help="the number of the model, from 0, of several")
    parser.add_argument("--name", type=_name, help="name of the model in addresses (default: target or shadow)")
    parser.add_argument(
        "--answers", default="probabilities", help="shown: probabilities, labels or top:K (default: %(default)s)"
    )
    parser.add_argument(
        "--defense",
        action="append",
        default=[],
        metavar="NAME[.SETTING=VALUE]",
        help="an output defence, such as rounding.digits=2; may be repeated, the first one is applied first",
    )
    parser.add_argument(
        "--accelerator", choices=("cpu", "gpu"), default="cpu", help="where the model runs (default: %(default)s)"
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="call the classes and functions of others that the run's configuration names, for the data set, the model "
        "and the defences; they run with your rights, so trust the folder as you trust a program",
    )
    return parser


def _service_parser(name: str) -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"{PROGRAM} {name}",
        parents=[_common(max_bytes=2**28, max_records=1_000_000)],
        description=f"Runs {name}, a service that trains models on uploaded records and answers with them, for "
        f"mia-lightning target={name} target.url=...",
    )
    if name == "amazon_ml":
        parser.add_argument(
            "--passes", type=_whole(1), default=10, help="passes over the records (default: %(default)s)"
        )
        parser.add_argument(
            "--l2", type=_number(math.inf), default=1e-6, help="strength of L2 regularisation (default: %(default)s)"
        )
    parser.add_argument(
        "--max-projects", type=_whole(1), default=100, help="most projects at once (default: %(default)s)"
    )
    parser.add_argument(
        "--max-stored-bytes", type=_whole(1), default=2**32, help="most bytes of stored records (default: %(default)s)"
    )
    parser.add_argument(
        "--accelerator",
        choices=("cpu", "gpu", "auto"),
        default="auto",
        help="where models train (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=("32", "tf32", "bf16", "64"),
        default="32",
        help="numbers with which models train (default: %(default)s)",
    )
    return parser


def _common(*, max_bytes: int, max_records: int) -> argparse.ArgumentParser:
    parser = Parser(add_help=False)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, for this machine alone)"
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        type=_host,
        default=[],
        metavar="NAME",
        help="a further name by which clients ask, such as that of a proxy; may be repeated (default: this machine's "
        "addresses and localhost)",
    )
    parser.add_argument("--port", type=_port, default=8700, help="0 for a free port (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of faults and trainings (default: %(default)s)")
    parser.add_argument(
        "--latency", type=_number(3600), default=0.0, metavar="SECONDS", help="delay of each prediction"
    )
    parser.add_argument(
        "--faults",
        default="",
        metavar="KIND=SHARE,...",
        help="faults made on purpose, of the kinds 429, 500, 503, cut and garbage",
    )
    parser.add_argument(
        "--retry-after", type=_whole(0), metavar="SECONDS", help="how long a 429 or 503 asks the client to wait"
    )
    parser.add_argument("--token-variable", metavar="NAME", help="environment variable with the token to require")
    parser.add_argument("--token-header", default="Authorization", help="header of the token (default: %(default)s)")
    parser.add_argument(
        "--max-bytes", type=_whole(1), default=max_bytes, help="most bytes of a request (default: %(default)s)"
    )
    parser.add_argument(
        "--max-records", type=_whole(1), default=max_records, help="most records in a request (default: %(default)s)"
    )
    return parser


def _model(options: argparse.Namespace, desk: "Desk", token: "Token | None", listening: socket.socket) -> Ready:
    from mia_lightning.serve import open_inference, predict_v1
    from mia_lightning.serve.app import make_app
    from mia_lightning.serve.defenses import output_defenses
    from mia_lightning.serve.hosts import Hosts
    from mia_lightning.serve.listening import address_of
    from mia_lightning.serve.records import Form
    from mia_lightning.serve.run import next_command, served_model

    if options.trust:
        import_from_here()
    model = served_model(
        options.folder,
        role=options.model,
        member=options.member,
        name=options.name,
        defenses=output_defenses(options.defense),
        answers=options.answers,
        accelerator=options.accelerator,
        trust=options.trust,
    )
    population = model.population
    form = Form(
        shape=population.input_shape,
        dtype=population.x_N.dtype,
        max_records=options.max_records,
        data=population.form,
    )
    base, address = f"/v2/models/{model.name}", address_of(listening)
    description = (
        f"mia-serve: {model.describe()}.\nv2: GET {base}, POST {base}/infer\nv1: GET /v1/models/{model.name}, POST "
        f"/v1/models/{model.name}:predict\nSageMaker: GET /ping, POST /invocations\nCounts of requests: GET /counts\n"
    )
    routers = [each.routes(model, desk, form) for each in (open_inference, predict_v1)]
    command = next_command(
        options.folder,
        model,
        address,
        member=options.member,
        token_variable=options.token_variable or "",
        trust=options.trust,
    )
    hosts = Hosts.of(listening, [options.host, *options.allowed_host])
    trusted = (_TRUSTED,) if options.trust else ()
    return Ready(
        app=make_app(routers, desk, description=description, hosts=hosts, token=token),
        listening=listening,
        sentences=(
            *(*trusted, *model.warnings, *_warnings(listening)),
            f"{address} serves {model.describe()}. Next: {command}",
        ),
    )


def _service(
    options: argparse.Namespace, name: str, desk: "Desk", token: "Token | None", listening: socket.socket
) -> Ready:
    from mia_lightning.serve.app import make_app
    from mia_lightning.serve.hosts import Hosts
    from mia_lightning.serve.listening import address_of
    from mia_lightning.serve.projects import Projects
    from mia_lightning.serve.training import routes
    from mia_lightning.targets.services.amazon_ml import AmazonML
    from mia_lightning.targets.services.google_prediction import GooglePrediction
    from mia_lightning.training.engine import Engine
    from mia_lightning.training.trainer import TrainerSettings

    target = AmazonML(passes=options.passes, l2=options.l2) if name == "amazon_ml" else GooglePrediction()
    settings = TrainerSettings(accelerator=options.accelerator, precision=options.precision, progress_bar=False)
    engine = Engine(seed=options.seed, settings=settings)
    projects = Projects(
        name,
        lambda: target.connect(engine),
        max_projects=options.max_projects,
        max_bytes=options.max_stored_bytes,
    )
    description = (
        f"mia-serve: {name}, which trains models on uploaded records.\nPOST /v1/projects, POST "
        "/v1/projects/{project}/jobs?name=...&num_classes=... (safetensors: x, label), POST "
        "/v1/projects/{project}:train, GET /v1/projects/{project}, POST "
        "/v1/projects/{project}/models/{model}:predict\nCounts of requests: GET /counts\n"
    )
    address = address_of(listening)
    variable = f" target.token_variable={options.token_variable}" if options.token_variable else ""
    command = f"mia-lightning target={name} target.url={address}{variable} seed={options.seed} dataset=..."
    router = routes(projects, desk, max_records=options.max_records)
    hosts = Hosts.of(listening, [options.host, *options.allowed_host])
    return Ready(
        app=make_app([router], desk, description=description, hosts=hosts, token=token),
        listening=listening,
        sentences=(*_warnings(listening), f"{address} serves {name}. Next: {command}"),
    )


def _warnings(listening: socket.socket) -> tuple[str, ...]:
    from mia_lightning.serve.listening import is_loopback

    if is_loopback(listening):
        return ()
    return (
        "warning: other machines can reach this address and get answers; leave --host out for this machine alone, or "
        "require a token by --token-variable.",
    )


def _desk(options: argparse.Namespace) -> "Desk":
    try:
        import uvicorn  # noqa: F401 (that it is there)

        from mia_lightning.serve.desk import Desk
    except ImportError:
        raise InputError(
            "mia-serve needs the packages fastapi and uvicorn; pip install 'mia-lightning[serve]'."
        ) from None
    from mia_lightning.serve.faults import Faults

    return Desk(
        latency=options.latency,
        faults=Faults.parse(options.faults, options.seed),
        retry_after=options.retry_after,
        max_bytes=options.max_bytes,
    )


def _token(options: argparse.Namespace) -> "Token | None":
    if options.token_variable is None:
        return None
    value = os.environ.get(options.token_variable, "")
    if not value or not value.isascii() or not value.isprintable() or value != value.strip():
        raise InputError(
            f"`--token-variable` is {options.token_variable}, and this environment variable holds no token; export it "
            "with the token."
        )
    if not re.fullmatch(r"[\w-]{1,100}", options.token_header, re.ASCII):
        raise InputError(f"`--token-header` is {options.token_header!r}; give the name of a header, such as X-API-Key.")
    from mia_lightning.serve.app import Token

    return Token(value=value, header=options.token_header)


def _name(text: str) -> str:
    if not re.fullmatch(r"[\w.-]{1,100}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no name; give up to 100 letters, digits, dots and hyphens")
    return text


def _host(text: str) -> str:
    if not re.fullmatch(r"[\w.-]{1,253}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a host; give it without http:// and without a port")
    return text


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number; give one of at least {least}")
        return int(text)

    return read


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 0, for a free one, to 65535")
    return int(text)


def _number(most: float) -> Callable[[str], float]:
    wanted = "a number of at least 0" if most == math.inf else f"a number from 0 to {most:g}"

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number <= most or number == math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is out of range; give {wanted}")
        return number

    return read
