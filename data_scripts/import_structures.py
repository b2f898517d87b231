"""Labelled structure files that ASE reads, and folders of VASP runs -> a parquet data set.

A folder is searched for vasprun.xml and OUTCAR, also compressed; each run is a trajectory that bears the name of its
folder. Of a run that was cut off the complete ionic steps are taken. An import that was interrupted goes on when the
same command is given again.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from modeling_adapt.command_line import CommandParser, require_empty_folder, run_command, whole_number
from modeling_adapt.data.building import Built, Notes, build_dataset
from modeling_adapt.data.card import write_card
from modeling_adapt.data.grouping import RowKey
from modeling_adapt.data.site_search import SiteSearch, add_host_option
from modeling_adapt.data.splitting import add_split_options, assign_rows, split_name
from modeling_adapt.data.structure_files import ReadingOptions, find_files, structure_rows
from modeling_adapt.data.summary import summarise, summary_table
from modeling_adapt.errors import InputError

EXAMPLE = """examples:
  python data_scripts/import_structures.py relaxation.traj OUTCAR datasets/mine
  python data_scripts/import_structures.py RUNS/ datasets/mine --num-proc 4
  python data_scripts/import_structures.py train=a.extxyz validation=b.extxyz datasets/mine --forces-key REF_forces
"""
_LISTED = 20  # lines about what was left out


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    output = require_empty_folder(arguments.output)
    inputs = [_split_and_path(argument) for argument in arguments.inputs]
    if any(split for split, _ in inputs) and not all(split for split, _ in inputs):
        raise InputError("name a split for every input (SPLIT=FILE) or for none")
    options = ReadingOptions(**{name: getattr(arguments, name) for name in ReadingOptions._fields})
    SiteSearch(options.host)  # a host that cannot be read is an error now, and not when the work begins
    built = build_dataset(
        output,
        find_files(inputs),
        partial(structure_rows, options=options),
        _by_name if inputs[0][0] else partial(assign_rows, split=arguments.split, seed=arguments.seed),
        plan=options,
        num_proc=arguments.num_proc,
        description="importing",
        finish=partial(_write_card, arguments),
    )
    print(summary_table(summarise(output)))
    _report(built)
    print(f"data set written to: {output}")


def _write_card(arguments: argparse.Namespace, folder: Path, notes: list[Notes]) -> None:
    files = [Path(argument.partition("=")[2] or argument).name for argument in arguments.inputs]
    provenance = {"command": "data_scripts/import_structures.py", "files": ", ".join(files)}
    write_card(folder, provenance, name=Path(arguments.output).name)


def _parser() -> CommandParser:
    parser = CommandParser(__doc__, EXAMPLE)
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="a file or a folder, or SPLIT=INPUT to name its split"
    )
    parser.add_argument("output", metavar="OUTPUT_DATASET", help="folder to write; must not exist or be empty")
    parser.add_argument("--forces-key", metavar="KEY", help="array of forces in eV/Å (default: found by its name)")
    parser.add_argument(
        "--energy-key", metavar="KEY", help="info key of the energy in eV (default: found by its name)"
    )
    parser.add_argument(
        "--group-key",
        metavar="KEY",
        help="info key that names the trajectory of a frame, which no split divides (default: consecutive frames "
        "with the same atoms, moved by less than 1 Å, are one)",
    )
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave out and list what cannot be read or has bad data, instead of stopping there",
    )
    parser.add_argument("--num-proc", type=whole_number(1), default=1, help="processes (default %(default)s)")
    add_host_option(parser)
    add_split_options(parser)
    return parser


def _split_and_path(argument: str) -> tuple[str, Path]:
    """`SPLIT=INPUT` taken apart, unless a file has that very name."""
    split, equals, path = argument.partition("=")
    if not equals or Path(argument).exists():
        return "", Path(argument)
    return split_name(split), Path(path)


def _by_name(keys: list[RowKey]) -> dict[str, list[int]]:
    """The split in which each trajectory is by its name."""
    splits: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        splits.setdefault(key.trajectory.split("/", 1)[0], []).append(row)
    return splits


def _report(built: Built) -> None:
    cut_off = sum(notes.get("cut_off", False) for notes in built.notes)
    if cut_off:
        print(f"VASP runs that were cut off, of which the complete ionic steps are taken: {cut_off}")
    if skipped := [line for notes in built.notes for line in notes["skipped"]]:
        print(f"left out because it cannot be read or has bad data: {len(skipped)}")
        print("\n".join(f"  {line}" for line in skipped[:_LISTED]))


if __name__ == "__main__":
    sys.exit(run_command(main))
