"""`mia-store`: lists the contents of a store, verifies its checksums, removes artefacts. No torch is imported."""

import argparse
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

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
    leftovers,
    opened,
    places,
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
from mia_lightning.terminal.entry import run
from mia_lightning.terminal.parser import Parser

PROGRAM = "mia-store"
DAMAGE = 1
_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_STATES = {"running": "running", "ended": "its process has ended", "elsewhere": "on another host"}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """`mia-store`; ends the process with 0, 1 (an artefact is damaged), 2 (bad input), 130 or 143."""

    def work() -> int:
        options = _parser().parse_args(arguments)
        code: int = options.run(opened(_folder(options.dir)), options)
        return code

    run(PROGRAM, work)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=PROGRAM, description="Look after the folder where mia-lightning stores trained models.")
    folder = Parser(add_help=False)
    default = os.environ.get("MIA_STORE") or "store"
    folder.add_argument("--dir", default=default, help="the folder of the store (default: $MIA_STORE, else store)")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[Store, argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, parents=[folder], help=help, description=f"{help[0].upper()}{help[1:]}.")
        made.set_defaults(run=run)
        return made

    listed = command("ls", _list, "list stored models, trainings under way, and damaged artefacts")
    listed.add_argument("--json", action="store_true", help="print one JSON document")

    verified = command("verify", _verify, "read every artefact and compare it with its checksum")
    verified.add_argument(
        "--set-aside", action="store_true", help="move damaged artefacts to damaged/; the next run makes them again"
    )

    pruned = command("prune", _prune, "remove old, surplus, damaged or left-over artefacts, but none that is in use")
    pruned.add_argument("--older-than", type=_age, metavar="AGE", help="artefacts that are older, such as 12h, 30d, 4w")
    pruned.add_argument(
        "--keep-gb", type=_gigabytes, metavar="GB", help="the oldest artefacts, until the rest fits into so many GB"
    )
    pruned.add_argument(
        "--answers", action="store_true", help="only cached answers of models; without an age or size all of them"
    )
    pruned.add_argument("--damaged", action="store_true", help="artefacts that were set aside as damaged")
    pruned.add_argument("--leftovers", action="store_true", help="partial files and checkpoints of killed processes")
    pruned.add_argument("--dry-run", action="store_true", help="say how much would be removed, and remove nothing")
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
        lines.append(f"unreadable: {', '.join(found.unreadable)}; `mia-store verify --set-aside` moves them away")
    return lines


def _row(stack: Stack) -> list[str]:
    named = [stack.role, stack.architecture, stack.seed, stack.epochs]
    sizes = [str(stack.models), _size(stack.model_bytes), _size(stack.answer_bytes)]
    moment = _moment(stack.written) if stack.written else "-"
    return [stack.stack[:12], *("-" if each is None else str(each) for each in named), *sizes, moment]


def _of_training(training: Training) -> str:
    reached = "" if training.epoch is None else f", checkpoint at epoch {training.epoch}"
    return (
        f"{_counted(training.models, 'model')} ({training.role}) since {_moment(training.started)}, process "
        f"{training.process} on {training.host}, {_STATES[training.state]}{reached}"
    )


def _verify(store: Store, options: argparse.Namespace) -> int:
    found, num_damaged = places(store), 0
    for place in found:
        damage = store.damage(place)
        if damage is not None:
            num_damaged += 1
            print(f"damaged: {place} ({damage})")
            if options.set_aside:
                store.get(place)
    for path in leftovers(store):
        print(f"left over: {path.relative_to(store.folder)}")
    aside = " and set aside" if options.set_aside else ""
    verdict = f"{num_damaged} of them damaged{aside}" if num_damaged else "all intact"
    print(f"{store.folder}: {_counted(len(found), 'artefact')} verified, {verdict}.")
    return DAMAGE if num_damaged else 0


def _prune(store: Store, options: argparse.Namespace) -> int:
    removals = _removals(store, options)
    removed, held = remove(store, removals, dry_run=options.dry_run)
    verb = "would be removed" if options.dry_run else "removed"
    if options.dry_run:
        _summarise(removed)
    else:
        for removal in removed:
            print(f"{verb}: {removal.what} ({_size(removal.bytes)})")
    for removal in held:
        print(f"not removed: {removal.what}, which another process is using")
    print(f"{store.folder}: {_counted(len(removed), 'item')} {verb}, {_size(sum(each.bytes for each in removed))}.")
    return 0


def _summarise(removals: Sequence[Removal]) -> None:
    """A line for each kind of artefact."""
    kinds: dict[str, list[int]] = {}
    for removal in removals:
        kinds.setdefault(removal.what.partition("/")[0], []).append(removal.bytes)
    for kind, sizes in kinds.items():
        print(f"would be removed: {_counted(len(sizes), 'item')} of {kind} ({_size(sum(sizes))})")


def _removals(store: Store, options: argparse.Namespace) -> list[Removal]:
    chosen = [options.older_than is not None, options.keep_gb is not None, options.answers]
    if not any([*chosen, options.damaged, options.leftovers]):
        raise InputError(
            "prune needs to know what to remove; give --older-than, --keep-gb, --answers, --damaged or --leftovers."
        )
    kinds = [ANSWERS] if options.answers else [MODELS, ANSWERS, SYNTHESES]
    old: list[str] = []
    if options.older_than is not None:
        old += older_than(store, kinds if options.answers else [*kinds, PLANS], options.older_than)
    if options.keep_gb is not None:
        old += beyond(store, kinds, options.keep_gb)
    if chosen == [False, False, True]:
        old += store.places(ANSWERS)
    removals = removals_of(store, old)
    removals += removals_of_damaged(store) if options.damaged else []
    removals += removals_of_leftovers(store) if options.leftovers else []
    return removals


def _folder(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"`--dir` is {text}, and there is no such home folder; give the folder of a store.") from None


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


if __name__ == "__main__":
    main()
