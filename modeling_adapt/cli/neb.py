"""Command: what it costs a defect to go from one structure to another, by a model with energies."""

import argparse
import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..device import DTYPES
from ..errors import InputError, about
from ..pretrained_adapt import DEFAULT_MODEL
from .command_line import CommandParser, positive_number, whole_number

if TYPE_CHECKING:
    from ase import Atoms

    from ..simulation.calculator import ADAPTCalculator

_RECORD = "neb.json"
_RECORDED = ("model", "revision", "images", "fmax", "steps", "keep_ends", "keep_order", "dtype")
EXAMPLE = """\
examples:
  python neb.py relaxed/one.relaxed.extxyz relaxed/two.relaxed.extxyz --model runs/si-energy
  python neb.py start/POSCAR end/POSCAR --images 9 --output barriers
  python neb.py pairs.csv --model runs/si-energy --output barriers

A table has a line for each path, with the columns start and end (files beside it) and, if you like, name. The ends are
relaxed first. Writes for each path
  NAME.path.extxyz   the images from the start to the end, with energies and forces
  NAME.path.png      the energy along the path
  NAME.path.json     barriers, energies and lengths, and what to know of them
and barriers.csv, a line for each path; with --report also report.html. When it was interrupted, the same command goes
on with the paths that are left.

exit status: 0 all paths converged, 1 at least one did not or left the trained region, 2 bad input.
"""


class _Pair(NamedTuple):
    """Where the ends are, and these, once read with their atoms in one order."""

    files: tuple[str, str]
    start: "Atoms"
    end: "Atoms"


def main(argv: list[str] | None = None) -> int | None:
    arguments = _parser().parse_args(argv)

    from ..files import alone_in
    from ..simulation import neb, results
    from ..simulation.report import write_path_report

    output = Path(arguments.output)
    pairs = _read_pairs(arguments)
    ends = {f"{name} ({end})": getattr(pair, end) for name, pair in pairs.items() for end in ("start", "end")}
    record = results.record_of(vars(arguments), ends, _RECORDED)
    results.require_same_command(output, record, _RECORD)
    calculator = _calculator(arguments, ends)
    with alone_in(output):
        results.write_record(output, record, _RECORD)
        left = {name: pair for name, pair in pairs.items() if not neb.path_file(name, output, "json").is_file()}
        if len(left) < len(pairs):
            print(f"{len(pairs) - len(left)} of {len(pairs)} paths were found before; going on with the others")
        try:
            failed = _find_paths(arguments, left, calculator, output)
            if len(failed) == len(pairs):
                raise failed[0]
            for error in failed:
                print(f"error: {error}", file=sys.stderr)
        finally:
            found = neb.read_paths(list(pairs), output)
            neb.write_barriers(output / "barriers.csv", found)
            print(neb.barrier_table(found))
        if arguments.report:
            print(f"report saved to: {write_path_report(output, record, found)}")
    print(f"paths saved to: {output}")
    return 0 if len(found) == len(pairs) and all(path["status"] == "converged" for path in found) else 1


def _find_paths(
    arguments: argparse.Namespace, pairs: Mapping[str, _Pair], calculator: "ADAPTCalculator", output: Path
) -> list[InputError]:
    """Writes each path, and tells why there is none between some ends."""
    from dataclasses import replace

    from ..simulation.neb import find_path, matched_end, write_path
    from ..simulation.relaxation import progress_bar
    from ..simulation.results import model_names

    failed: list[InputError] = []
    limits = (arguments.images, arguments.fmax, arguments.steps)
    starts, ends, notes = _ends(arguments, pairs, calculator)
    for name, pair in pairs.items():
        try:
            with about(name if arguments.keep_ends else f"{name}, relaxed"):
                matched_end(starts[name], ends[name], keep_order=True)
            with about(name), progress_bar(name, arguments.steps) as show:
                path = find_path(starts[name], ends[name], calculator, *limits, show)
        except InputError as error:
            failed.append(error)
            continue
        if notes[name]:
            status = "not converged" if path.status == "converged" else path.status
            path = replace(path, status=status, findings=(*notes[name], *path.findings))
        write_path(name, path, pair.files, output, f"{name}, {model_names(arguments.model)}")
        if not sys.stdout.isatty():  # where no bar shows how far it is
            print(f"{name}: {path.status} after {path.steps} steps, barrier {path.barrier} eV", flush=True)
    return failed


def _ends(
    arguments: argparse.Namespace, pairs: Mapping[str, _Pair], calculator: "ADAPTCalculator"
) -> "tuple[dict[str, Atoms], dict[str, Atoms], dict[str, list[str]]]":
    """Of each pair the two minima, and a line for each that is none."""
    from ..simulation.relaxation import finished_at, relax_each

    given = {(name, end): getattr(pair, end) for name, pair in pairs.items() for end in ("start", "end")}
    notes: dict[str, list[str]] = {name: [] for name in pairs}
    if not arguments.keep_ends:
        together = {f"{name} ({end})": atoms for (name, end), atoms in given.items()}
        finish = finished_at(calculator)
        results = dict(relax_each(together, calculator, arguments.fmax, arguments.steps, finish=finish))
        given = {(name, end): results[f"{name} ({end})"].atoms for name, end in given}
        for name, end in given:
            result = results[f"{name} ({end})"]
            if result.status != "converged":
                said = "; ".join(result.findings) or f"{result.fmax:.3f} eV/Å after {result.steps} steps"
                notes[name].append(f"the {end} is no minimum, its relaxation {result.status}: {said}")
    return {name: given[name, "start"] for name in pairs}, {name: given[name, "end"] for name in pairs}, notes


def _calculator(arguments: argparse.Namespace, ends: "Mapping[str, Atoms]") -> "ADAPTCalculator":
    """It ignores the trained region, with which paths are compared at their end."""
    from ..simulation.calculator import ADAPTCalculator
    from ..simulation.relaxation import require_predictable

    calculator = ADAPTCalculator.from_pretrained(
        arguments.model,
        device=arguments.device,
        outside_domain="ignore",
        dtype=arguments.dtype,
        revision=arguments.revision,
    )
    if not calculator.conservative:
        raise InputError(
            f"{arguments.model[0]} has no energies, and a barrier is one: give a pooled energy as --model"
        )
    for name, atoms in ends.items():
        with about(name):
            require_predictable(atoms, calculator)
    return calculator


def _read_pairs(arguments: argparse.Namespace) -> dict[str, _Pair]:
    """Each path by its name; what was done to the order of its atoms is said."""
    given = arguments.input
    if len(given) > 2 or (len(given) == 1 and not given[0].endswith(".csv")):
        raise InputError("a path has two ends: give START and END, or a table.csv with a row for each path")
    pairs: dict[str, _Pair] = {}
    for named, start, end in _table(Path(given[0])) if len(given) == 1 else [("", *given)]:
        with about(f"{start} and {end}"):
            name, pair = _read_pair(named, start, end, arguments.keep_order)
        if name in pairs:
            raise InputError(f"2 paths would write to the same files {name}.path.*; give them other names")
        pairs[name] = pair
    return pairs


def _read_pair(name: str, start: str, end: str, keep_order: bool) -> tuple[str, _Pair]:
    from ..simulation.inputs import read_inputs
    from ..simulation.neb import matched_end

    names, atoms = [], []
    for file in (start, end):
        (found, one), *others = read_inputs([file], any_charge=True).items()
        if others:
            raise InputError(f"{file} holds {len(others) + 1} structures; an end is one")
        names.append(found.removesuffix(".relaxed"))
        atoms.append(one)
    name = name or "-to-".join(names).replace("/", "-")
    matched, reordered = matched_end(atoms[0], atoms[1], keep_order)
    if reordered:
        print(f"{name}: {reordered} atoms of the end are in another order; each goes to the nearest place")
    return name, _Pair((start, end), atoms[0], matched)


def _table(path: Path) -> list[tuple[str, str, str]]:
    """The name, which may be empty, and the ends of each path in a CSV file."""
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise InputError(f"{path} has no rows; give the columns start and end, and a row for each path")
    pairs = []
    for number, row in enumerate(rows, start=1):
        start, end, name = (row.get(column) or "" for column in ("start", "end", "name"))
        if not start or not end:
            raise InputError(f"{path}, row {number}: there is no start or no end; give the columns start and end")
        if name and Path(name).name != name:
            raise InputError(f"{path}, row {number}: {name!r} is no name of a file; give one without folders")
        pairs.append((name, str(path.parent / start), str(path.parent / end)))
    return pairs


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("Finds the barrier between two structures with the energies of a model (NEB).", EXAMPLE)
    parser.add_argument("input", nargs="+", metavar="START END", help="files that ASE reads; or a table.csv of many")
    parser.add_argument(
        "--model",
        default=[DEFAULT_MODEL],
        nargs="+",
        help="checkpoint folder or Hub id of a model with energies; several: their mean "
        f"(default: {DEFAULT_MODEL}, in the package)",
    )
    parser.add_argument("--revision", help="branch, tag or commit of the models that are Hub ids (default: main)")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU where there is one)")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the weights, or mixed, or auto (default: as saved, float32)"
    )
    path = parser.add_argument_group("path")
    path.add_argument("--images", type=whole_number(1), default=7, help="between the ends (default: 7)")
    path.add_argument(
        "--fmax", type=positive_number, default=0.05, help="converged below this force, eV/Å (default: 0.05)"
    )
    path.add_argument("--steps", type=whole_number(0), default=500, help="most steps of each path (default: 500)")
    path.add_argument("--keep-ends", action="store_true", help="not relaxed first, as they are minima of the model")
    path.add_argument(
        "--keep-order", action="store_true", help="each atom goes to that of its number, even if another is nearer"
    )
    parser.add_argument(
        "--output", default="barriers", metavar="DIR", help="new folder for the results (default: barriers)"
    )
    parser.add_argument("--report", action="store_true", help="write report.html, which opens in any browser")
    return parser
