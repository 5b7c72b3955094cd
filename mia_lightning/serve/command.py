"""`mia-serve`: a trained model of a run over the usual protocols, or a service that trains models."""

import argparse
import math
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mia_lightning.errors import InputError
from mia_lightning.terminal.exit_codes import BAD_INPUT, INTERRUPTED
from mia_lightning.terminal.parser import Parser, tell

if TYPE_CHECKING:
    from fastapi import FastAPI

    from mia_lightning.serve.app import Token
    from mia_lightning.serve.desk import Desk

PROGRAM = "mia-serve"
SERVICES = ("google_prediction", "amazon_ml")


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What is to be served.

    Attributes:
        app: the application.
        listening: where, before the first request is read.
        sentences: for the person who started it.
    """

    app: "FastAPI"
    listening: socket.socket
    sentences: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command `mia-serve`; ends the process with 0 (Ctrl-C or SIGTERM), or 2 for bad input."""
    sys.path.insert(0, os.getcwd())  # for models of one's own, as mia-lightning finds them
    try:
        ready = prepare(sys.argv[1:] if arguments is None else arguments)
        from mia_lightning.serve.listening import serve

        for sentence in ready.sentences:
            tell(PROGRAM, sentence)
        serve(ready.app, ready.listening)
        tell(PROGRAM, "ended.")
    except InputError as error:
        tell(PROGRAM, str(error))
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        tell(PROGRAM, "interrupted before it served anything.")
        sys.exit(INTERRUPTED)
    os._exit(0)  # without waiting for a training in the background; nothing is buffered


def prepare(arguments: Sequence[str]) -> Ready:
    """The server that the arguments of the command describe.

    Raises:
        InputError: they cannot be served.
    """
    service = arguments[0] if arguments and arguments[0] in SERVICES else None
    options = _parser().parse_args(arguments) if service is None else _service_parser(service).parse_args(arguments[1:])
    desk, token = _desk(options), _token(options)
    from mia_lightning.serve.listening import bound

    listening = bound(options.host, options.port)  # a port in use is told before anything is loaded
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
        "v1 protocol and SageMaker's routes, so that an audit can be rehearsed.",
        epilog=f"{PROGRAM} {{{','.join(SERVICES)}}} serves a service that trains models instead.",
    )
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="the folder of the run")
    parser.add_argument("--model", choices=("target", "shadow"), default="target", help="default: %(default)s")
    parser.add_argument("--member", type=_whole(0), metavar="K", help="which of several models, from 0")
    parser.add_argument("--name", type=_name, help="of the model in addresses (default: target or shadow)")
    parser.add_argument(
        "--answers", default="probabilities", help="probabilities, labels or top:K (default: %(default)s)"
    )
    parser.add_argument(
        "--defense",
        action="append",
        default=[],
        metavar="NAME[.SETTING=VALUE]",
        help="an output defence, such as rounding.digits=2; may be repeated, the first is nearest to the model",
    )
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu", help="default: %(default)s")
    return parser


def _service_parser(name: str) -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"{PROGRAM} {name}",
        parents=[_common(max_bytes=2**28, max_records=1_000_000)],
        description=f"Serves {name}, which trains models on uploaded records and answers for them: the other side of "
        f"mia-lightning target={name} target.url=...",
    )
    if name == "amazon_ml":
        parser.add_argument("--passes", type=_whole(1), default=10, help="over the records (default: %(default)s)")
        parser.add_argument("--l2", type=float, default=1e-6, help="amount of regularisation (default: %(default)s)")
    parser.add_argument("--max-projects", type=_whole(1), default=100, help="kept at once (default: %(default)s)")
    parser.add_argument("--max-stored-bytes", type=_whole(1), default=2**32, help="of records (default: %(default)s)")
    parser.add_argument("--accelerator", choices=("cpu", "gpu", "auto"), default="auto", help="default: %(default)s")
    parser.add_argument(
        "--precision", default="32", help="of the trainings: 32, tf32, bf16 or 64 (default: %(default)s)"
    )
    return parser


def _common(*, max_bytes: int, max_records: int) -> argparse.ArgumentParser:
    parser = Parser(add_help=False)
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s, which other machines cannot reach")
    parser.add_argument("--port", type=_port, default=8700, help="0 for a free one (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of faults and of trainings (default: %(default)s)")
    parser.add_argument(
        "--latency", type=_seconds, default=0.0, metavar="SECONDS", help="each prediction waits so long"
    )
    parser.add_argument("--faults", default="", metavar="KIND=SHARE,...", help="of 429, 500, 503, cut, garbage")
    parser.add_argument("--retry-after", type=_whole(0), metavar="SECONDS", help="what a 429 or 503 asks to wait")
    parser.add_argument("--token-variable", metavar="NAME", help="the environment variable with the token to require")
    parser.add_argument("--token-header", default="Authorization", help="where it is looked for (default: %(default)s)")
    parser.add_argument("--max-bytes", type=_whole(1), default=max_bytes, help="of a body (default: %(default)s)")
    parser.add_argument(
        "--max-records", type=_whole(1), default=max_records, help="in a request (default: %(default)s)"
    )
    return parser


def _model(options: argparse.Namespace, desk: "Desk", token: "Token | None", listening: socket.socket) -> Ready:
    from mia_lightning.serve import open_inference, predict_v1
    from mia_lightning.serve.app import make_app
    from mia_lightning.serve.defenses import output_defenses
    from mia_lightning.serve.listening import address_of
    from mia_lightning.serve.records import Form
    from mia_lightning.serve.run import next_command, served_model

    model = served_model(
        options.folder,
        role=options.model,
        member=options.member,
        name=options.name,
        defenses=output_defenses(options.defense),
        answers=options.answers,
        accelerator=options.accelerator,
    )
    form = Form(shape=model.population.input_shape, dtype=model.population.x_N.dtype, max_records=options.max_records)
    base, address = f"/v2/models/{model.name}", address_of(listening)
    description = (
        f"mia-serve: {model.describe()}.\nv2: GET {base}, POST {base}/infer\nv1: GET /v1/models/{model.name}, POST "
        f"/v1/models/{model.name}:predict\nSageMaker: GET /ping, POST /invocations\nWhat was asked: GET /counts\n"
    )
    routers = [each.routes(model, desk, form) for each in (open_inference, predict_v1)]
    command = next_command(
        options.folder, model, address, member=options.member, token_variable=options.token_variable or ""
    )
    return Ready(
        app=make_app(routers, desk, description=description, token=token),
        listening=listening,
        sentences=(*_warnings(listening), f"{address} serves {model.describe()}. Next: {command}"),
    )


def _service(
    options: argparse.Namespace, name: str, desk: "Desk", token: "Token | None", listening: socket.socket
) -> Ready:
    from mia_lightning.serve.app import make_app
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
        "/v1/projects/{project}/models/{model}:predict\nWhat was asked: GET /counts\n"
    )
    address = address_of(listening)
    variable = f" target.token_variable={options.token_variable}" if options.token_variable else ""
    command = f"mia-lightning target={name} target.url={address}{variable} seed={options.seed} dataset=..."
    return Ready(
        app=make_app(
            [routes(projects, desk, max_records=options.max_records)], desk, description=description, token=token
        ),
        listening=listening,
        sentences=(*_warnings(listening), f"{address} serves {name}. Next: {command}"),
    )


def _warnings(listening: socket.socket) -> tuple[str, ...]:
    from mia_lightning.serve.listening import is_loopback

    if is_loopback(listening):
        return ()
    return (
        "warning: other machines can reach this address, and what they ask is answered; leave --host out for this "
        "machine alone, or require a token by --token-variable.",
    )


def _desk(options: argparse.Namespace) -> "Desk":
    try:
        import uvicorn  # noqa: F401 (that it is there)

        from mia_lightning.serve.desk import Desk
    except ImportError:
        raise InputError("mia-serve needs the libraries fastapi and uvicorn; install mia-lightning[serve].") from None
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
            f"`--token-variable` is {options.token_variable}, and this environment variable holds no token; set it."
        )
    if not re.fullmatch(r"[\w-]{1,100}", options.token_header, re.ASCII):
        raise InputError(f"`--token-header` is {options.token_header!r}; give the name of a header, such as X-API-Key.")
    from mia_lightning.serve.app import Token

    return Token(value=value, header=options.token_header)


def _name(text: str) -> str:
    if not re.fullmatch(r"[\w.-]{1,100}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no name; give a word of letters, digits, dots and hyphens")
    return text


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
        return int(text)

    return read


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 0 (a free one) to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to 3600")
    return seconds
