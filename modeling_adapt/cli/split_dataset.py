"""Divides an existing data set anew: all its splits together -> a new data set, with a file of the splits."""

from collections.abc import Sequence

from ..data.split.splitting import HELD_OUT, Division, RowKey, divide_rows, read_split_file
from ..errors import InputError
from ..files import require_empty_folder
from .command_line import CommandParser
from .dataset_options import add_output, add_split

EXAMPLE = """examples:
  python data_scripts/split_dataset.py datasets/defects datasets/no-vacancies --hold-out vacancy --hold-out divacancy
  python data_scripts/split_dataset.py datasets/relabelled datasets/alike --split-file datasets/defects/splits.csv
"""


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, EXAMPLE)
    parser.add_argument("dataset", metavar="DATASET", help="folder or Hub id of a data set")
    add_output(parser, "NEW_DATASET")
    parser.add_argument(
        "--by",
        choices=("trajectory", "config_type"),
        default="trajectory",
        help="what is never divided: trajectories, with each config type in every split, or whole config types",
    )
    parser.add_argument(
        "--hold-out",
        action="append",
        default=[],
        metavar="CONFIG_TYPE",
        help=f"goes to the split {HELD_OUT} as a whole; may be given several times",
    )
    parser.add_argument(
        "--split-file", metavar="FILE.csv", help="splits.csv of another data set: each source goes where it is there"
    )
    add_split(parser)
    arguments = parser.parse_args(argv)

    output = require_empty_folder(arguments.output)
    if arguments.split_file and (arguments.hold_out or arguments.by != "trajectory"):
        raise InputError("--split-file says where every row goes; leave out --by and --hold-out")

    def divide(sources: Sequence[str], keys: Sequence[RowKey]) -> Division:
        if arguments.split_file:
            return read_split_file(arguments.split_file, sources, keys)
        return divide_rows(
            sources, keys, arguments.split, arguments.seed, by=arguments.by, hold_out=arguments.hold_out
        )

    how = f"{arguments.split} by {arguments.by}, seed {arguments.seed}, held out: {arguments.hold_out or 'nothing'}"
    if arguments.split_file:
        how = f"as {arguments.split_file}"

    from ..data.build.summary import summary_table
    from ..data.build.writing import resplit

    print(summary_table(resplit(arguments.dataset, output, divide, how)))
    print(f"data set written to: {output}")
