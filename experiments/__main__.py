"""
Reruns experiments of the paper (arXiv 2509.24115) and others: trains what they need, or takes what is trained already,
and writes for each a table (CSV and Markdown), a figure and a paragraph that is made from the numbers.

What is finished is kept in the output folder and known again by its options and the content of its data, so an
interruption loses only the trainings that run.
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modeling_adapt.cli.command_line import CommandParser, positive_number, run_command, whole_number
from modeling_adapt.errors import InputError
from modeling_adapt.files import require_writable, write_whole

from .experiment import DEFECTS, REAL, Experiment, all_experiments, without_doubles

if TYPE_CHECKING:
    from .lab import Lab

EXAMPLE = """\
examples:
  python -m experiments loss attention-radius --output results
  python -m experiments all --output results --dft datasets/silicon --page docs/results.md
  python -m experiments --page docs/results.md    # the page and its figures, from the tables in docs/results/
  python -m experiments all --output results-large --scale 250    # 250,000 structures: GPUs
"""


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)

    from .lab import Lab
    from .outcome import (
        SURROUNDINGS,
        copy_results,
        draw_again,
        is_made_of,
        outcome_text,
        write_outcome,
        write_surroundings,
    )

    page = None if arguments.page is None else Path(arguments.page)
    if not arguments.names and page:
        draw_again(list(all_experiments().values()), page.with_suffix(""))
        _write_page(list(all_experiments().values()), page)
        return
    chosen = _chosen(arguments.names, arguments.charged)
    whole = set(arguments.names) == {"all"}
    if page and not whole and not (page.with_suffix("") / SURROUNDINGS).is_file():
        raise InputError("--page writes about all experiments: name all of them with 'all'")
    lab = Lab(arguments.output, arguments.scale, arguments.dataset, arguments.dft, arguments.jobs, arguments.charged)
    trainings = without_doubles(training for experiment in chosen for training in experiment.trainings(lab))
    _require_read(arguments, chosen, lab)
    lab.check(trainings)
    for folder in (lab.folder, *([page.parent] if page else [])):
        require_writable(folder)
    announce(chosen, lab)
    if arguments.dry_run:
        return
    lab.prepare(trainings)
    for experiment in chosen:
        folder = lab.folder / experiment.name
        made_of = lab.fingerprint(experiment)
        if not is_made_of(experiment, folder, made_of):
            write_outcome(experiment, experiment.measure(lab), folder, made_of)
        print(f"\n{experiment.title}\n\n{outcome_text(experiment, folder)}")
    print(f"tables and figures saved to: {', '.join(str(lab.folder / experiment.name) for experiment in chosen)}")
    if page:
        write_surroundings(lab, chosen, trainings)
        copy_results(chosen, lab.folder, page, whole)
        _write_page(list(all_experiments().values()), page)


def _write_page(experiments: list[Experiment], page: Path) -> None:
    from .outcome import page_text

    write_whole(page, page_text(experiments, page.with_suffix("")))
    print(f"page written to: {page}")


def _require_read(arguments: argparse.Namespace, chosen: list[Experiment], lab: "Lab") -> None:
    """Raises [`InputError`] for data of the user that an experiment would leave aside."""
    dataset, real = arguments.dataset, arguments.dft
    foreign = [one.name for one in chosen if one.about_silicon or DEFECTS not in _trained_on(one, lab)]
    if dataset and foreign:
        raise InputError(f"--dataset: {', '.join(foreign)} would not read it: about the generated silicon alone")
    if real and not any(REAL in _trained_on(experiment, lab) for experiment in chosen):
        raise InputError(f"--dft: {', '.join(one.name for one in chosen)} would not read it")
    if arguments.charged and not any(experiment.about_charges for experiment in chosen):
        raise InputError(f"--charged: {', '.join(one.name for one in chosen)} would not read it")


def announce(chosen: list[Experiment], lab: "Lab") -> None:
    """Says what will be trained and how long it will take, before anything is done."""
    measuring = 0.0
    for experiment in chosen:
        wanted = without_doubles(experiment.trainings(lab))
        minutes = _minutes_to_measure(experiment, lab)
        print(
            f"{experiment.name}: {len(wanted)} trainings, {len(lab.missing(wanted))} of them new (about "
            f"{lab.minutes(wanted):.0f} minutes with their data), and about {minutes:g} minutes to measure"
        )
        measuring += minutes
    wanted = without_doubles(training for experiment in chosen for training in experiment.trainings(lab))
    minutes = measuring + lab.minutes(wanted, {name for one in chosen for name in one.also_measured_on})
    print(
        f"together {len(lab.missing(wanted))} new trainings, as experiments share some: about {minutes:.0f} minutes, "
        f"{lab.jobs} trainings at a time"
    )


def _minutes_to_measure(experiment: Experiment, lab: "Lab") -> float:
    from .outcome import is_made_of

    if lab.has_all(experiment) and is_made_of(experiment, lab.folder / experiment.name, lab.fingerprint(experiment)):
        return 0
    return experiment.minutes * (1 if experiment.about_silicon else max(1, lab.scale))


def _trained_on(experiment: Experiment, lab: "Lab") -> set[str]:
    return {training.dataset for training in experiment.trainings(lab)}


def _chosen(names: list[str], charged: list[str]) -> list[Experiment]:
    if not names:
        raise InputError("name an experiment, or 'all' of them; see --help")
    known = all_experiments()
    if unknown := [name for name in names if name not in known and name != "all"]:
        raise InputError(f"there is no experiment {unknown[0]!r}; there are all, {', '.join(known)}")
    if lacking := [name for name in names if name != "all" and known[name].about_charges and not charged]:
        raise InputError(f"{lacking[0]} needs structures of several charges: name files with --charged")
    wanted = {name: one for name, one in known.items() if "all" in names and (charged or not one.about_charges)}
    return [experiment for name, experiment in known.items() if name in names or name in wanted]


def _parser() -> CommandParser:
    parser = CommandParser(__doc__, EXAMPLE, prog="python -m experiments")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="all, or an experiment by its file in this folder, with - for _"
    )
    parser.add_argument("--output", default="results", metavar="DIR", help="kept between calls (default %(default)s)")
    parser.add_argument(
        "--scale", type=positive_number, default=1.0, help="times as many structures and steps (default: 1, for a CPU)"
    )
    parser.add_argument("--dataset", help="data set of your own instead of the generated one of 216-atom cells")
    parser.add_argument(
        "--dft",
        metavar="DATASET",
        nargs="+",
        default=[],
        help="data sets of DFT structures, with a split of unseen ones",
    )
    parser.add_argument(
        "--charged",
        nargs="+",
        default=[],
        metavar="FILE",
        help="files that ASE reads, of structures of several total charges (info charge), for the experiment charges",
    )
    parser.add_argument("--jobs", type=whole_number(1), default=2, help="trainings at a time (default %(default)s)")
    parser.add_argument(
        "--page",
        metavar="FILE.md",
        help="also write a page about all of them, of which those that are named are new; without NAME, only the page "
        "and its figures, from the tables beside it",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be trained, and how long it takes")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which ends the trainings too
    sys.exit(run_command(main))
