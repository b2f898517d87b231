"""Any labelled structure file that ASE reads -> a parquet data set."""

import sys
from pathlib import Path

from modeling_adapt.command_line import CommandParser, require_empty_folder, run_command
from modeling_adapt.data.splitting import add_split_options, assign_splits, split_name
from modeling_adapt.data.structure_files import distinct_names, read_structures
from modeling_adapt.data.summary import summary_table
from modeling_adapt.data.writing import write_dataset
from modeling_adapt.errors import InputError

EXAMPLE = """examples:
  python data_scripts/import_structures.py relaxation.traj OUTCAR datasets/mine
  python data_scripts/import_structures.py train=a.extxyz validation=b.extxyz datasets/mine --forces-key REF_forces
"""


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, EXAMPLE)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="a file, or SPLIT=FILE to name its split")
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
    add_split_options(parser)
    arguments = parser.parse_args(argv)

    output = require_empty_folder(arguments.output)
    splits, paths = zip(*map(_split_and_file, arguments.inputs), strict=True)
    if any(splits) and not all(splits):
        raise InputError("name a split for every input (SPLIT=FILE) or for none")
    keys = {"forces_key": arguments.forces_key, "energy_key": arguments.energy_key, "group_key": arguments.group_key}
    names = distinct_names(paths)
    by_file = [read_structures(path, name=name, **keys) for path, name in zip(paths, names, strict=True)]

    if all(splits):
        rows_by_split: dict[str, list[dict]] = {}
        for split, rows in zip(splits, by_file, strict=True):
            rows_by_split.setdefault(split, []).extend(rows)
    else:
        rows_by_split = assign_splits(sum(by_file, []), arguments.split, arguments.seed)
    write_dataset(rows_by_split, output)
    print(summary_table(rows_by_split))
    print(f"data set written to: {output}")


def _split_and_file(argument: str) -> tuple[str | None, Path]:
    """`SPLIT=FILE` taken apart, unless a file has that very name."""
    split, equals, file = argument.partition("=")
    if not equals or Path(argument).exists():
        return None, Path(argument)
    return split_name(split), Path(file)


if __name__ == "__main__":
    sys.exit(run_command(main))
