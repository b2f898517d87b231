"""Random defects in a cell of silicon or an ionic crystal, relaxed or heated, and labelled with a potential.

They become a parquet data set.

The same options give the same data for any number of processes. A run that was interrupted goes on when the same
command is given again.
"""

import argparse
from functools import partial

from ..data.options import HOSTS, GenerationPlan
from ..data.split.splitting import divide_rows
from ..errors import InputError
from ..files import require_empty_folder
from .command_line import CommandParser, number_not_negative, positive_number, whole_number
from .dataset_options import add_output, add_processes, add_split

EXAMPLE = """example:
  python data_scripts/generate_defects.py datasets/defects --structures 1000 --seed 0
  python data_scripts/generate_defects.py datasets/mgo --host MgO --structures 500
"""
_KINDS = tuple(dict.fromkeys(kind for host in HOSTS.values() for kind in host.kinds + host.others))


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    _complete(arguments)
    output = require_empty_folder(arguments.output)

    from ..data.build.summary import summary_table
    from ..data.defects.generation import generate_dataset
    from ..data.defects.labelling import ABSURD_FORCE, load_calculator

    load_calculator(arguments.calculator)  # a wrong one is an error now and not after the start of the processes
    plan = GenerationPlan(**{name: getattr(arguments, name) for name in GenerationPlan.__dataclass_fields__})
    divide = partial(divide_rows, split=arguments.split, seed=arguments.seed)
    built = generate_dataset(output, arguments.structures, plan, divide, arguments.num_proc)
    print(summary_table(built.summary))
    notes = built.notes
    print(f"frames dropped for forces above {ABSURD_FORCE:g} eV/Å: {sum(note['dropped'] for note in notes)}")
    if failures := [failure for note in notes for failure in note["failures"]]:
        print(f"trajectories that an error of the calculator ended: {len(failures)}")
        print("\n".join(f"  {failure}" for failure in failures))
    print(f"data set written to: {output}")


def _parser() -> CommandParser:
    parser = CommandParser(__doc__, EXAMPLE)
    add_output(parser)
    parser.add_argument("--structures", type=whole_number(1), required=True, metavar="N", help="how many to make")
    add_processes(parser)
    parser.add_argument(
        "--calculator",
        metavar="MODULE:FACTORY",
        help="function that makes an ASE calculator, also of a file in this folder (default: for Si the Erhart-Albe "
        "SiC potential of matscipy; for others rigid ions with Ewald's sum)",
    )
    parser.add_argument("--host", choices=HOSTS, default="Si", help="the crystal (default: Si)")
    parser.add_argument(
        "--kinds",
        type=_kinds,
        help=f"comma-separated, of {', '.join(_KINDS)} (default: all of the host with a defect)",
    )
    parser.add_argument(
        "--lattice-constant", type=positive_number, help="of the host for this calculator, in Å (default: of its own)"
    )
    for name, read, meaning in (
        ("repeat", whole_number(1), "cubic cells along an edge: 3 gives 216 atoms, 2 gives 64"),
        ("rattle", number_not_negative, "largest standard deviation of the rattle of the starts, in Å"),
        ("strain", number_not_negative, "largest strain of the starts"),
        ("frames", whole_number(1), "to keep of a trajectory"),
        ("steps", whole_number(0), "of a relaxation at most"),
        ("md-share", _share, "of the trajectories: molecular dynamics instead of relaxations"),
        ("md-steps", whole_number(0), "of molecular dynamics, 2 fs each"),
        ("temperature", positive_number, "highest of molecular dynamics, in K; each run has its own"),
    ):
        default = getattr(GenerationPlan, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=read, default=default, help=f"{meaning} (default {default})")
    add_split(parser)
    return parser


def _complete(arguments: argparse.Namespace) -> None:
    """What nothing was said about is what suits the host."""
    host = HOSTS[arguments.host]
    arguments.calculator = arguments.calculator or host.calculator
    arguments.lattice_constant = arguments.lattice_constant or host.lattice_constant
    arguments.kinds = arguments.kinds or host.kinds
    if unknown := [kind for kind in arguments.kinds if kind not in host.kinds + host.others]:
        known = ", ".join(host.kinds + host.others)
        raise InputError(f"{arguments.host} has no kind {unknown[0]!r}; there are {known}")


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    if unknown := [kind for kind in kinds if kind not in _KINDS]:
        raise argparse.ArgumentTypeError(f"there is no kind {unknown[0]!r}; there are {', '.join(_KINDS)}")
    return kinds


def _share(text: str) -> float:
    share = number_not_negative(text)
    if share > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1")
    return share
