"""Runs a study: trains and evaluates what is missing of its arms and seeds, then writes table, figure and paragraph.

    python -m apo.study table1

Studies are the YAML files of experiments/study/. The same command again goes on where it was interrupted. An arm that
fails is named and left out, the others go on; the exit status is 1 then. Overrides after the name go to the trainings;
those of model, trainer and logger to the evaluations, too; those of conditions and evaluator to the evaluations alone.
What comes out: outputs/studies/<name>.
"""

import argparse
import re
import signal

import apo.quiet  # noqa: F401  isort: skip

from apo.errors import UserError, one_line
from apo.studies.definition import load


def main() -> None:
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # both save what runs; a shell's `&` would have commands ignore SIGINT
        signal.signal(number, signal.default_int_handler)
    with one_line("study"):
        run()


def run() -> None:
    args = parsed()
    study = load(args.study)
    if args.seeds is not None:
        study.seeds = numbers(args.seeds)
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: give at least 1")
    arms = [study.arm(name) for name in args.only] or list(study.arms.values())
    from apo.studies.session import Session  # torch takes seconds: mistakes in the names are found before

    session = Session(study, args.overrides, args.jobs, dry=args.print or args.report, exact=not args.report)
    results = session.searched(arms) if study.search else session.run(arms)
    if args.print:
        print("\n".join(session.commands()))
    elif results is not None:
        print(results.write())
        if args.docs:
            print("\n".join(f"filled: {path}" for path in results.fill_docs()))
    session.require_whole()


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("study", help="its name in experiments/study, or the path of a YAML file")
    add(
        "overrides",
        nargs="*",
        help="of conf/train.yaml and conf/evaluation/evaluate.yaml, such as trainer=gpu conditions.count=64",
    )
    add("--print", action="store_true", help="only print the commands that are missing, for a cluster")
    add("--jobs", type=int, default=1, help="commands at a time on this machine; above 1, each has one thread")
    add(
        "--only",
        action="append",
        default=[],
        metavar="ARM",
        help="this arm, and those it is trained after and compared with",
    )
    add("--seeds", metavar="N,N", help="instead of the study's own")
    add(
        "--report",
        action="store_true",
        help="train and evaluate nothing: table and figure of what is there, whatever its settings",
    )
    add("--docs", action="store_true", help="also put the tables into docs/*.md, once all is evaluated")
    return parser.parse_intermixed_args()


def numbers(text: str) -> list[int]:
    """'0,1,2' or '0 1 2'."""
    words = re.split(r"[,\s]+", text.strip())
    if not all(word.isdecimal() for word in words):
        raise UserError(f"--seeds {text}: give whole numbers, such as 0,1,2")
    return [int(word) for word in words]


if __name__ == "__main__":
    main()
