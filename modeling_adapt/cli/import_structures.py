"""Labelled structure files that ASE reads, and folders of VASP runs -> a parquet data set.

A folder is searched for vasprun.xml and OUTCAR, also compressed; each run is a trajectory that bears the name of its
folder, by which its config type is named too. Of a run that was cut off the complete ionic steps are taken, and none
whose SCF did not converge or that is of ML_FF; a run that cannot be read is listed. NELECT gives the charge. An import
that was interrupted goes on when the same command is given again.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.options import ENERGY_KEYS, FORCE_KEYS, STRESS_KEYS, ReadingOptions
from ..data.split.splitting import Division, RowKey, divide_rows, split_name, train_subsets
from ..errors import InputError
from ..files import require_empty_folder
from .command_line import CommandParser
from .dataset_options import add_host, add_output, add_processes, add_split

if TYPE_CHECKING:
    from ..data.build.building import Built, Notes
    from ..data.read.structure_files import StructureFile

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
    split_of: dict[Path, str] = {}
    for split, path in inputs:
        if split_of.setdefault(path.resolve(), split) != split:
            raise InputError(f"{path} is of two splits, and what is trained on cannot be tested on; name it once")
    if inputs[0][0] and arguments.split != _parser().get_default("split"):
        raise InputError("--split divides files whose split is not named; leave it out or write INPUT for SPLIT=INPUT")

    from ..data.build.building import build_dataset
    from ..data.build.label_checks import doubtful_labels
    from ..data.build.summary import summary_table
    from ..data.read.site_search import SiteSearch, host_state
    from ..data.read.structure_files import find_files, structure_rows

    told = vars(arguments)  # a pattern of groups is only for lists of sources
    options = ReadingOptions(**{name: told[name] for name in ReadingOptions._fields if name in told})
    SiteSearch(options.host)  # a host that cannot be read is an error now, and not when the work begins
    files = find_files(inputs)
    divide = partial(divide_rows, split=arguments.split, seed=arguments.seed)
    if inputs[0][0]:
        divide = partial(_by_name, seed=arguments.seed)
    built = build_dataset(
        output,
        files,
        partial(structure_rows, options=options),
        divide,
        plan=[options, host_state(options.host)],
        provenance=partial(_provenance, arguments, files),
        num_proc=arguments.num_proc,
        description="importing",
    )
    print(summary_table(built.summary))
    _report(built)
    if doubtful := doubtful_labels(output):
        print(f"labels that look wrong, imported all the same: {len(doubtful)}")
        print("\n".join(f"  {line}" for line in doubtful[:_LISTED]))
    print(f"data set written to: {output}")


def _provenance(arguments: argparse.Namespace, files: "list[StructureFile]", notes: "list[Notes]") -> dict[str, Any]:
    return {
        "command": "data_scripts/import_structures.py",
        "files": ", ".join(Path(path).name for _, path in map(_split_and_path, arguments.inputs)),
        "number of files": len(files),
        "split": "as given" if files[0].owner else f"{arguments.split}, seed {arguments.seed}",
        "defect sites": arguments.host if arguments.host in ("auto", "none") else Path(arguments.host).name,
        "keys": f"forces {arguments.forces_key}, energy {arguments.energy_key}, stress {arguments.stress_key}, "
        f"trajectory {arguments.group_key}",
        "VASP runs that were cut off": _cut_off(notes),
        "ionic steps left out": _steps_left_out(notes) or "none",
        "isolated atoms": ", ".join(_isolated(notes)) or "none",
        "left out": "; ".join(line.rpartition("/")[2] for line in _skipped(notes)) or "none",  # without the folders
    }


def _cut_off(notes: "list[Notes]") -> int:
    return sum(note.get("cut_off", False) for note in notes)


def _steps_left_out(notes: "list[Notes]") -> str:
    from ..data.read.vasp_steps import LEFT_OUT

    counts = {words: sum(note.get(reason, 0) for note in notes) for reason, words in LEFT_OUT.items()}
    return ", ".join(f"{count} {words}" for words, count in counts.items() if count)


def _isolated(notes: "list[Notes]") -> list[str]:
    return [f"{symbol} {energy:.4f} eV" for note in notes for symbol, energy in note["isolated"]]


def _skipped(notes: "list[Notes]") -> list[str]:
    return [line for note in notes for line in note["skipped"]]


def _parser() -> CommandParser:
    parser = CommandParser(__doc__, EXAMPLE)
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="a file or a folder, or SPLIT=INPUT to name its split"
    )
    add_output(parser)
    parser.add_argument("--forces-key", metavar="KEY", help=f"array of forces in eV/Å (default: {_first(FORCE_KEYS)})")
    parser.add_argument(
        "--energy-key",
        metavar="KEY",
        help=f"info key of the energy in eV (default: of VASP runs the free energy, or {_first(ENERGY_KEYS)})",
    )
    parser.add_argument(
        "--stress-key",
        metavar="KEY",
        help="info key of the stress in eV/Å³, positive under tension; with virial in its name, of the virial in eV; "
        f"none: leave it out (default: {_first(STRESS_KEYS)})",
    )
    parser.add_argument(
        "--group-key",
        metavar="KEY",
        help="info key that names the trajectory of a frame, which no split divides (default: consecutive frames "
        "with the same atoms, moved by less than 1 Å, are one)",
    )
    broken = parser.add_mutually_exclusive_group()
    broken.add_argument(
        "--skip-broken",
        action="store_true",
        default=None,
        help="leave out and list what cannot be read or has bad data, instead of stopping there "
        "(default: of the VASP runs that are found in a folder)",
    )
    broken.add_argument(
        "--strict", action="store_false", dest="skip_broken", help="stop at a run in a folder that cannot be read too"
    )
    add_processes(parser)
    add_host(parser)
    add_split(parser)
    return parser


def _first(keys: Sequence[str]) -> str:
    return f"the first of {', '.join(keys)}"


def _split_and_path(argument: str) -> tuple[str, Path]:
    """`SPLIT=INPUT` taken apart, unless a file has that very name."""
    split, equals, path = argument.partition("=")
    if not equals or Path(argument).exists():
        return "", Path(argument)
    if not path:
        raise InputError(f"{argument}: no file after the =")
    return split_name(split), Path(path)


def _by_name(sources: Sequence[str], keys: Sequence[RowKey], seed: int) -> Division:
    """The split in which each trajectory is by its name."""
    from ..data.read.structure_files import owner_of

    splits: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        splits.setdefault(owner_of(key.trajectory), []).append(row)
    return splits, train_subsets(keys, splits, seed)


def _report(built: "Built") -> None:
    if cut_off := _cut_off(built.notes):
        print(f"VASP runs that were cut off, of which the complete ionic steps are taken: {cut_off}")
    if steps := _steps_left_out(built.notes):
        print(f"ionic steps left out: {steps}")
    if isolated := _isolated(built.notes):
        print(f"isolated atoms, whose energies become reference energies: {', '.join(isolated)}")
    if skipped := _skipped(built.notes):
        print(f"left out because it cannot be read or has bad data: {len(skipped)}")
        print("\n".join(f"  {line}" for line in skipped[:_LISTED]))
