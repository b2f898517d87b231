"""Random point defects in a 216-atom silicon cell, relaxed and labelled with a potential -> a parquet data set."""

import sys

from tqdm import tqdm

from modeling_adapt.command_line import (
    CommandParser,
    number_not_negative,
    positive_number,
    require_empty_folder,
    run_command,
    whole_number,
)
from modeling_adapt.data.defects import DEFECT_KINDS, SILICON_LATTICE_CONSTANT, STRUCTURE_KINDS
from modeling_adapt.data.generation import generate_structures
from modeling_adapt.data.labelling import ABSURD_FORCE, erhart_albe, load_calculator
from modeling_adapt.data.splitting import add_split_options, assign_splits
from modeling_adapt.data.summary import summary_table
from modeling_adapt.data.writing import write_dataset
from modeling_adapt.errors import InputError

EXAMPLE = """example:
  python data_scripts/generate_defects.py datasets/defects --structures 1000 --seed 0
"""


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, EXAMPLE)
    parser.add_argument("output", metavar="OUTPUT_DATASET", help="folder to write; must not exist or be empty")
    parser.add_argument("--structures", type=whole_number(1), required=True, metavar="N", help="how many to make")
    parser.add_argument(
        "--calculator",
        metavar="MODULE:FACTORY",
        help="function that makes an ASE calculator (default: the Erhart-Albe SiC potential of matscipy)",
    )
    parser.add_argument(
        "--lattice-constant",
        type=positive_number,
        default=SILICON_LATTICE_CONSTANT,
        metavar="A",
        help="of silicon for this calculator, in Å (default %(default)s, for Erhart-Albe)",
    )
    parser.add_argument(
        "--repeat",
        type=whole_number(1),
        default=3,
        help="cubic cells along an edge: 3 gives 216 atoms, 2 gives 64 (default %(default)s)",
    )
    parser.add_argument(
        "--kinds", default=",".join(DEFECT_KINDS), help=f"comma-separated, of {', '.join(STRUCTURE_KINDS)}"
    )
    for name, read, default, meaning in (
        ("--rattle", number_not_negative, 0.04, "largest rattle of the starts, in Å"),
        ("--strain", number_not_negative, 0.0, "largest strain of the starts"),
        ("--frames", whole_number(1), 10, "to keep of a relaxation"),
        ("--steps", whole_number(0), 60, "of a relaxation at most"),
    ):
        parser.add_argument(name, type=read, default=default, help=f"{meaning} (default %(default)s)")
    add_split_options(parser)
    arguments = parser.parse_args(argv)

    output = require_empty_folder(arguments.output)
    kinds = arguments.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in STRUCTURE_KINDS]:
        raise InputError(f"--kinds: there is no kind {unknown[0]!r}; there are {', '.join(STRUCTURE_KINDS)}")
    calculator = load_calculator(arguments.calculator) if arguments.calculator else erhart_albe()
    with tqdm(total=arguments.structures, unit="structure", desc="relaxing defects", disable=None) as bar:
        rows, dropped = generate_structures(
            arguments.structures,
            calculator,
            seed=arguments.seed,
            frames=arguments.frames,
            max_steps=arguments.steps,
            lattice_constant=arguments.lattice_constant,
            repeat=arguments.repeat,
            rattle=arguments.rattle,
            strain=arguments.strain,
            kinds=kinds,
            progress=bar.update,
        )
    rows_by_split = assign_splits(rows, arguments.split, arguments.seed)
    write_dataset(rows_by_split, output)
    print(summary_table(rows_by_split))
    print(f"frames dropped for forces above {ABSURD_FORCE:g} eV/Å: {dropped}")
    print(f"data set written to: {output}")


if __name__ == "__main__":
    sys.exit(run_command(main))
