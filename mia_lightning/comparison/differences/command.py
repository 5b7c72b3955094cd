"""`mia-compare`: which of several runs leaks more; and what it would take to see a difference, before a sweep."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mia_lightning.errors import InputError
from mia_lightning.terminal.entry import run
from mia_lightning.terminal.exit_codes import BELOW
from mia_lightning.terminal.parser import Parser

PROGRAM = "mia-compare"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """`mia-compare`; ends the process with 0, 2 (bad input), 130 or 143."""
    run(PROGRAM, lambda: _work(sys.argv[1:] if arguments is None else arguments))


def _work(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.plan is not None:
        return _plan(options)
    return _compare(options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=PROGRAM,
        description="Says which of several runs leaks more, with intervals that use the records they share: the first "
        "against each of the others. Runs of a sweep that differ in nothing but the seed are trainings of one recipe.",
        epilog=f"{PROGRAM} outputs/cnn outputs/mlp; {PROGRAM} multirun/2026-11-30; {PROGRAM} --plan 0.02 --value 0.7",
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of runs, sweeps or experiments")
    parser.add_argument("--attack", default="worst", help="its name, or worst: the largest figure over all attacks")
    parser.add_argument("--figure", default="auc", help="of the sentence: auc, tpr_at_fpr_0.01, tpr_at_fpr_0.001, "
                        "advantage or precision_balanced")  # fmt: skip
    parser.add_argument("--margin", type=float, default=0.02, help="a difference up to this counts as none")
    parser.add_argument(
        "--estimand", default="auto", help="models: these; recipes: other trainings too; auto: recipes where it can be"
    )
    parser.add_argument(
        "--equal-utility", action="store_true", help="compare two recipes, each at three strengths or more, where both "
        "are equally accurate"
    )  # fmt: skip
    parser.add_argument(
        "--by", default="architecture", metavar="SETTING", help="with --equal-utility: what tells the two recipes apart"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--plan", type=float, metavar="DIFFERENCE", help="say what it takes to see so large a difference, and stop"
    )
    parser.add_argument("--value", type=float, help="with --plan: of the figure (default: that of the first RUN)")
    parser.add_argument(
        "--spread", type=float, default=0.02, help="with --plan: deviation of the figure over trainings (default: 0.02)"
    )
    parser.add_argument(
        "--correlation", type=float, default=0.0, help="with --plan: of both figures over shared records (default: 0)"
    )
    return parser


def _compare(options: argparse.Namespace) -> int:
    if not options.runs:
        raise InputError("There are no runs to compare; give two folders of runs, or one of a sweep.")
    from mia_lightning.comparison.differences.assemble import compare_sides
    from mia_lightning.comparison.differences.equal_utility import compare_at_equal_utility
    from mia_lightning.comparison.differences.sides import sides_in
    from mia_lightning.comparison.differences.words import render, render_equal_utility
    from mia_lightning.terminal.tables import printer

    sides = sides_in(options.runs)
    if options.equal_utility:
        equal = compare_at_equal_utility(sides, by=options.by, attack=options.attack)
        if options.json:
            print(json.dumps(equal.model_dump(by_alias=True), indent=2))
        else:
            printer().print(render_equal_utility(equal), crop=False)
        return BELOW
    found = compare_sides(
        sides,
        attack=options.attack,
        figure=options.figure,
        margin=options.margin,
        estimand=options.estimand,
    )
    if options.json:
        print(json.dumps(found.model_dump(by_alias=True), indent=2))
    else:
        printer().print(render(found), crop=False)
    return BELOW


def _plan(options: argparse.Namespace) -> int:
    from mia_lightning.comparison.differences.plan import plan_lines, value_in

    value = options.value
    if value is None:
        if not options.runs:
            raise InputError(
                "`--plan` needs the size of the figure; give --value, such as 0.7, or the folder of a run."
            )
        value = value_in(options.runs[0], options.attack, options.figure)
    lines = plan_lines(options.plan, options.figure, value, spread=options.spread, correlation=options.correlation)
    print("\n".join(lines))
    return BELOW


if __name__ == "__main__":
    main()
