"""The published ADAPT files (.pt) -> a parquet data set."""

import sys

from modeling_adapt.command_line import CommandParser, positive_number, require_empty_folder, run_command
from modeling_adapt.data.published import CELL_EDGE, read_published
from modeling_adapt.data.splitting import add_split_options, assign_splits
from modeling_adapt.data.summary import summary_table
from modeling_adapt.data.writing import write_dataset

EXAMPLE = """example:
  python data_scripts/import_published.py frames.pt datasets/ni-br --energies energy_x.pt energy_y.pt
"""


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, EXAMPLE)
    parser.add_argument("forces", metavar="FORCES.pt", help='{"X": features and importance weights, "Y": forces}')
    parser.add_argument("output", metavar="OUTPUT_DATASET", help="folder to write; must not exist or be empty")
    parser.add_argument(
        "--energies",
        nargs=2,
        metavar=("X.pt", "Y.pt"),
        help="features and total energies; structures that FORCES.pt lacks become rows without forces",
    )
    parser.add_argument(
        "--lattice-constant",
        type=positive_number,
        default=CELL_EDGE,
        metavar="EDGE",
        help="edge of the cubic supercell in Å, which the files do not store (default %(default)s)",
    )
    add_split_options(parser)
    arguments = parser.parse_args(argv)

    output = require_empty_folder(arguments.output)
    rows = read_published(arguments.forces, arguments.energies, arguments.lattice_constant)
    rows_by_split = assign_splits(rows, arguments.split, arguments.seed)
    write_dataset(rows_by_split, output)
    print(summary_table(rows_by_split))
    print(f"data set written to: {output}")


if __name__ == "__main__":
    sys.exit(run_command(main))
