"""`mia-store`: what stands in a store, whether it is whole, and how it is made smaller. No torch is imported."""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from mia_lightning.errors import InputError
from mia_lightning.store.artefacts import Store
from mia_lightning.store.housekeeping import (
    ANSWERS,
    MODELS,
    PLANS,
    SYNTHESES,
    Contents,
    Files,
    Stack,
    Training,
    contents,
    damages,
    leftovers,
    opened,
)
from mia_lightning.store.pruning import (
    Removal,
    beyond,
    older_than,
    removals_of,
    removals_of_damaged,
    removals_of_leftovers,
    remove,
)
from mia_lightning.terminal.exit_codes import BAD_INPUT, CLOSED, INTERRUPTED
from mia_lightning.terminal.parser import Parser, tell

PROGRAM = "mia-store"
DAMAGE = 1
_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_STATES = {"running": "running", "ended": "left by a process that is gone", "elsewhere": "on another host"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command `mia-store`; ends the process with 0, 1 (something is damaged), 2 (bad input), 130."""
    try:
        options = _parser().parse_args(arguments)
        store = opened(Path(options.dir).expanduser())
        code = options.run(store, options)
        sys.stdout.flush()
    except InputError as error:
        _complain(str(error))
        code = BAD_INPUT
    except KeyboardInterrupt:
        _complain("interrupted.")
        code = INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = CLOSED
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=PROGRAM, description="Look after the folder where mia-lightning keeps trained models.")
    folder = Parser(add_help=False)
    default = os.environ.get("MIA_STORE") or "store"
    folder.add_argument("--dir", default=default, help="the folder of the store (default: $MIA_STORE, else store)")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[Store, argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, parents=[folder], help=help, description=f"{help[0].upper()}{help[1:]}.")
        made.set_defaults(run=run)
        return made

    listed = command("ls", _list, "show what is kept, what trains, and what is damaged")
    listed.add_argument("--json", action="store_true", help="for programs")

    verified = command("verify", _verify, "read everything and compare it with its checksum")
    verified.add_argument("--set-aside", action="store_true", help="move what is damaged to damaged/, to be made anew")

    pruned = command("prune", _prune, "remove what is old, too much, damaged or left over, never what a process holds")
    pruned.add_argument(
        "--older-than", type=_age, metavar="AGE", help="what was written longer ago, such as 12h, 30d, 4w"
    )
    pruned.add_argument(
        "--keep-gb", type=_gigabytes, metavar="GB", help="the oldest, until the rest takes at most so much"
    )
    pruned.add_argument(
        "--answers", action="store_true", help="only answers of models; all of them without an age or size"
    )
    pruned.add_argument("--damaged", action="store_true", help="what was set aside")
    pruned.add_argument("--leftovers", action="store_true", help="what killed processes left, checkpoints among it")
    pruned.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    return parser


def _list(store: Store, options: argparse.Namespace) -> int:
    found = contents(store)
    print(json.dumps(asdict(found), indent=2) if options.json else "\n".join(_sentences(found)))
    return 0


def _sentences(found: Contents) -> list[str]:
    lines = [f"{found.folder}: {_counted(sum(stack.models for stack in found.stacks), 'model')}"]
    if found.stacks:
        heads = ["stack", "role", "architecture", "seed", "epochs", "models", "bytes", "answers", "last written"]
        lines += ["", *_table([heads, *(_row(stack) for stack in found.stacks)])]
    lines += ["", f"syntheses: {_files(found.syntheses)}", f"plans: {found.plans.count}"]
    lines += [f"running: {_of_training(training)}" for training in found.running] or ["running: nothing"]
    lines += [f"damaged: {_files(found.damaged)}", f"leftovers: {_files(found.leftovers)}"]
    if found.unreadable:
        lines.append(f"cannot be read: {', '.join(found.unreadable)}; `mia-store verify --set-aside` moves them away")
    return lines


def _row(stack: Stack) -> list[str]:
    named = [stack.role, stack.architecture, stack.seed, stack.epochs]
    sizes = [str(stack.models), _size(stack.model_bytes), _size(stack.answer_bytes)]
    moment = _moment(stack.written) if stack.written else "-"
    return [stack.stack[:12], *("-" if each is None else str(each) for each in named), *sizes, moment]


def _of_training(training: Training) -> str:
    reached = "" if training.epoch is None else f", kept at epoch {training.epoch}"
    return (
        f"{_counted(training.models, 'model')} ({training.role}) since {_moment(training.started)}, process "
        f"{training.process} on {training.host}, {_STATES[training.state]}{reached}"
    )


def _verify(store: Store, options: argparse.Namespace) -> int:
    count, damaged = 0, []
    for place, damage in damages(store):
        count += 1
        if damage is not None:
            damaged.append(place)
            print(f"damaged: {place} ({damage})")
            if options.set_aside:
                store.get(place)
    for path in leftovers(store):
        print(f"left over: {path.relative_to(store.folder)}")
    aside = " and set aside" if options.set_aside else ""
    found = f"{len(damaged)} of them damaged{aside}" if damaged else "all whole"
    print(f"{store.folder}: {_counted(count, 'artefact')} read, {found}.")
    return DAMAGE if damaged else 0


def _prune(store: Store, options: argparse.Namespace) -> int:
    removals = _removals(store, options)
    removed, held = remove(store, removals, dry_run=options.dry_run)
    verb = "would be removed" if options.dry_run else "removed"
    for removal in removed:
        print(f"{verb}: {removal.what} ({_size(removal.bytes)})")
    for removal in held:
        print(f"left: {removal.what}, which another process holds")
    print(f"{store.folder}: {_counted(len(removed), 'item')} {verb}, {_size(sum(each.bytes for each in removed))}.")
    return 0


def _removals(store: Store, options: argparse.Namespace) -> list[Removal]:
    chosen = [options.older_than is not None, options.keep_gb is not None, options.answers]
    if not any([*chosen, options.damaged, options.leftovers]):
        raise InputError(
            "prune was not told what to remove; give --older-than, --keep-gb, --answers, --damaged or --leftovers."
        )
    kinds = [ANSWERS] if options.answers else [MODELS, ANSWERS, SYNTHESES]
    places: list[str] = []
    if options.older_than is not None:
        places += older_than(store, kinds if options.answers else [*kinds, PLANS], options.older_than)
    if options.keep_gb is not None:
        places += beyond(store, kinds, options.keep_gb)
    if chosen == [False, False, True]:
        places += store.places(ANSWERS)
    removals = removals_of(store, places)
    removals += removals_of_damaged(store) if options.damaged else []
    removals += removals_of_leftovers(store) if options.leftovers else []
    return removals


def _age(text: str) -> float:
    """Seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no age; give a number with m (minutes), h (hours), d (days) or w (weeks), such as 30d"
        )
    return float(found[1]) * _SECONDS[found[2]]


def _gigabytes(text: str) -> float:
    """Bytes."""
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give a number of gigabytes of at least 0, such as 10")
    return float(text) * 1e9


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _files(files: Files) -> str:
    return f"{files.count} ({_size(files.bytes)})" if files.count else "none"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _complain(sentence: str) -> None:
    tell(PROGRAM, sentence)


if __name__ == "__main__":
    main()
