"""Random point defects in a 216-atom silicon cell, relaxed and labelled with a potential -> a parquet data set."""

import argparse
import sys

from tqdm import tqdm

from modeling_adapt.command_line import require_empty_folder, run_command
from modeling_adapt.data.defects import SILICON_LATTICE_CONSTANT
from modeling_adapt.data.generation import generate_structures
from modeling_adapt.data.labelling import ABSURD_FORCE, erhart_albe, load_calculator
from modeling_adapt.data.splitting import assign_splits
from modeling_adapt.data.summary import summary_table
from modeling_adapt.data.writing import write_dataset
from modeling_adapt.errors import InputError

EXAMPLE = """example:
  python data_scripts/generate_defects.py datasets/defects --structures 1000 --seed 0
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", metavar="OUTPUT_DATASET", help="folder to write; must not exist or be empty")
    parser.add_argument("--structures", type=int, required=True, metavar="N", help="how many to make")
    parser.add_argument("--seed", type=int, default=0, help="of defects, distortions and split (default %(default)s)")
    parser.add_argument(
        "--calculator",
        metavar="MODULE:FACTORY",
        help="function that makes an ASE calculator (default: the Erhart-Albe SiC potential of matscipy)",
    )
    parser.add_argument(
        "--lattice-constant",
        type=float,
        default=SILICON_LATTICE_CONSTANT,
        metavar="A",
        help="of silicon for this calculator, in Å (default %(default)s, for Erhart-Albe)",
    )
    parser.add_argument("--frames", type=int, default=10, help="to keep of a relaxation (default %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="of a relaxation at most (default %(default)s)")
    parser.add_argument(
        "--split",
        default="0.8,0.1,0.1",
        help="fractions of train, validation and test by trajectory (%(default)s), or one split name for everything",
    )
    arguments = parser.parse_args(argv)

    output = require_empty_folder(arguments.output)
    for name, least in (("structures", 1), ("frames", 1), ("steps", 0), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise InputError(f"--{name} must be at least {least}, not {getattr(arguments, name)}")
    calculator = load_calculator(arguments.calculator) if arguments.calculator else erhart_albe()
    with tqdm(total=arguments.structures, unit="structure", desc="relaxing defects", disable=None) as bar:
        rows, dropped = generate_structures(
            arguments.structures,
            calculator,
            seed=arguments.seed,
            frames=arguments.frames,
            max_steps=arguments.steps,
            lattice_constant=arguments.lattice_constant,
            progress=bar.update,
        )
    rows_by_split = assign_splits(rows, arguments.split, arguments.seed)
    write_dataset(rows_by_split, output)
    print(summary_table(rows_by_split))
    print(f"frames dropped for forces above {ABSURD_FORCE:g} eV/Å: {dropped}")
    print(f"data set written to: {output}")


if __name__ == "__main__":
    sys.exit(run_command(main))
