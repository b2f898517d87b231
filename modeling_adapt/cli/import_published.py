"""The published ADAPT files (.pt) -> a parquet data set.

Needs little memory, however large the files. An import that was interrupted goes on when the same command is given
again.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from ..data.options import CELL_EDGE
from ..data.split.splitting import divide_rows
from ..files import require_empty_folder
from .command_line import CommandParser, positive_number
from .dataset_options import add_host, add_output, add_processes, add_split

EXAMPLE = """example:
  python data_scripts/import_published.py frames.pt datasets/ni-br --energies energy_x.pt energy_y.pt
"""


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, EXAMPLE)
    parser.add_argument("forces", metavar="FORCES.pt", help='{"X": features and importance weights, "Y": forces}')
    add_output(parser)
    parser.add_argument(
        "--energies",
        nargs=2,
        metavar=("X.pt", "Y.pt"),
        help="features and total energies; structures that FORCES.pt lacks become rows without forces",
    )
    parser.add_argument(
        "--cell-edge",
        type=positive_number,
        default=CELL_EDGE,
        metavar="EDGE",
        help="edge of the cubic supercell in Å, which the files do not store (default %(default)s)",
    )
    add_processes(parser)
    add_host(parser)
    add_split(parser)
    arguments = parser.parse_args(argv)
    output = require_empty_folder(arguments.output)

    from tqdm import tqdm

    from ..data.build.building import build_dataset
    from ..data.build.summary import summary_table
    from ..data.read.published import plan_import

    with tqdm(unit="structure", desc="reading", disable=None) as bar:
        work = plan_import(arguments.forces, arguments.energies, arguments.cell_edge, arguments.host, bar.update)
    built = build_dataset(
        output,
        work.parts,
        work.make,
        partial(divide_rows, split=arguments.split, seed=arguments.seed),
        plan=work.plan,
        provenance=partial(_provenance, arguments),
        expected=work.count,
        num_proc=arguments.num_proc,
        description="importing",
    )
    print(summary_table(built.summary))
    print(f"data set written to: {output}")


def _provenance(arguments: argparse.Namespace, notes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "command": "data_scripts/import_published.py",
        "files": ", ".join(Path(path).name for path in (arguments.forces, *(arguments.energies or ()))),
        "cell edge in Å": arguments.cell_edge,
        "split": f"{arguments.split}, seed {arguments.seed}",
        "defect sites": arguments.host if arguments.host in ("auto", "none") else Path(arguments.host).name,
    }
