"""Command: relaxes structures with a force model, and says which relaxations are to be believed."""

import argparse
import math
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..device import DTYPES, keep_freed_memory
from ..elements_adapt import SYMBOLS
from ..errors import InputError, about
from ..pretrained_adapt import DEFAULT_MODEL
from .command_line import CommandParser, finite_number, positive_number, whole_number

if TYPE_CHECKING:
    from accelerate import PartialState
    from ase import Atoms

    from ..simulation.calculator import ADAPTCalculator
    from ..simulation.inputs import Found
    from ..simulation.ranking import Host
    from ..simulation.results import Line

EXAMPLE = """\
examples:
  python relax.py POSCAR
  python relax.py host.cif --cell --output host
  python relax.py vacancy.extxyz interstitial.cif --model runs/silicon --output relaxed
  python relax.py vacancy.extxyz --model runs/one runs/two --num-images 8 --output relaxed
  python relax.py vacancy.extxyz --model org/adapt-si --revision v1 --output relaxed
  python relax.py candidates/*.cif --model runs/si-energy --host host.cif --report --output relaxed
  python relax.py shakenbreak_folder/ --include "v_Cd_0/*" --exclude Rattled --output relaxed
  python relax.py datasets/silicon --split validation --index 0 --model runs/silicon --output relaxed

Writes for each structure
  NAME.traj.extxyz      every step, as it happens
  NAME.relaxed.extxyz   the last step; its comment line says whether it converged
and summary.csv, a line for each structure, and ranking.csv: which of those that converged are the same minimum, and
which is lowest. Files may be given as folders, which are searched with all that is in them, or globs, and as JSON of
pymatgen or doped. A structure that cannot be relaxed is skipped: skipped.csv says why. When it was interrupted, the
same command goes on with the structures that are left; "accelerate launch relax.py ..." spreads them over processes.
With the extra [batch] (torch-sim), many structures are relaxed at once.

exit status: 0 all converged, 1 at least one did not, left the trained region or was skipped, 2 bad input.
"""

_LISTED = 20  # lines about what is skipped


def main(argv: list[str] | None = None) -> int | None:
    arguments = _parser().parse_args(argv)
    keep_freed_memory()

    from dataclasses import replace

    from ..files import alone_in, require_empty_folder
    from ..simulation import results
    from ..simulation.inputs import Selection, find_inputs
    from ..simulation.relaxation import relax_each

    if arguments.format is not None:
        results.require_writable_format(arguments.format)
    if arguments.write_tree is not None and require_empty_folder(arguments.write_tree) == Path(arguments.output):
        raise InputError("--write-tree and --output are one folder; name another for the tree")
    processes, output = _processes(), Path(arguments.output)
    calculator = _calculator(arguments, processes)
    selection = Selection(arguments.include, arguments.exclude)
    any_charge = getattr(calculator, "reads_charge", False)
    found = find_inputs(arguments.input, arguments.index, arguments.split, selection, any_charge, arguments.charge)
    structures, skipped = found.structures, found.skipped
    arguments.finish = _finish(arguments, calculator)
    record = results.record_of(vars(arguments), structures)
    results.require_same_command(output, record)
    if arguments.cell:
        _require_cells(arguments, structures, calculator)
    host = _host(arguments, calculator)
    if arguments.write_tree is not None and "energy" not in calculator.implemented_properties:
        raise InputError("--write-tree needs energies: give --energy-model, or a pooled energy as --model")
    summary = results.SummaryFile(output / "summary.csv")
    done = summary.names()
    left = {name: atoms for name, atoms in structures.items() if name not in done}
    _require_fit(host, {name: atoms for name, atoms in structures.items() if name in done})
    unusable = _unusable(left, calculator, host, arguments.format)
    skipped |= unusable
    left = {name: atoms for name, atoms in left.items() if name not in unusable}
    if not done and not left:
        raise InputError(_none_is_left(skipped))
    processes.wait_for_everyone()  # nobody writes before everybody has checked
    with alone_in(output) if processes.is_main_process else nullcontext():
        if processes.is_main_process:
            if calculator.domain is None:
                print(
                    "This model does not say what it was trained on, so nothing tells whether to believe it.",
                    file=sys.stderr,
                )
            _tell(found.notes, skipped, left, arguments.format)
            results.write_record(output, record)
            results.write_skipped(output, skipped)
            summary.start()
        processes.wait_for_everyone()  # nobody adds a line before there is a file
        if done and processes.is_main_process:
            print(f"{len(done)} of {len(structures)} structures were relaxed before; going on with the others")
        results.make_folders(output, left)
        mine = dict(list(left.items())[processes.process_index :: processes.num_processes])
        trajectory = partial(results.trajectory_file, output=output)
        limits = (arguments.fmax, arguments.steps)
        try:
            mine, stuck = _with_cells(arguments, mine, calculator)
            relaxations = relax_each(mine, calculator, *limits, trajectory, arguments.one_by_one, arguments.finish)
            for name, result in relaxations:
                if name in stuck:
                    status = "not converged" if result.status == "converged" else result.status
                    result = replace(result, status=status, findings=(*stuck[name], *result.findings))
                results.write_result(name, result, output, structures[name])
                summary.append(name, result)
                if not sys.stdout.isatty():  # where no bar shows how far it is
                    print(results.ended_line(name, result), flush=True)
        finally:
            if processes.num_processes == 1 and (lines := summary.lines()):
                print(results.summary_table(lines))
        processes.wait_for_everyone()
        lines = summary.lines()
        if processes.is_main_process:
            if processes.num_processes > 1:
                print(results.summary_table(lines))
            _conclude(arguments, lines, calculator, host, output, found)
            if skipped:
                print(f"skipped: {len(skipped)} (reasons in {output / results.SKIPPED})")
        complete = len(lines) == len(structures) and not skipped
        return 0 if complete and all(line["status"] == "converged" for line in lines) else 1


def _processes() -> "PartialState":
    """One or, through `accelerate launch`, several; one that has done its share waits for the slowest, for hours."""
    from datetime import timedelta

    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=30))


def _calculator(arguments: argparse.Namespace, processes: "PartialState") -> "ADAPTCalculator":
    """It ignores the trained region: the relaxation watches it, and says at which step it was left."""
    from ..device import available_device
    from ..simulation.calculator import ADAPTCalculator

    return ADAPTCalculator.from_pretrained(
        arguments.model,
        arguments.energy_model,
        available_device(arguments.device) if arguments.device else processes.device,  # one for each process
        outside_domain="ignore",
        num_images=arguments.num_images,
        dtype=arguments.dtype,
        compiled=arguments.compile,
        revision=arguments.revision,
        energy_subfolder=arguments.energy_subfolder or "",
        energy_revision=arguments.energy_revision,
    )


def _finish(arguments: argparse.Namespace, calculator: "ADAPTCalculator") -> float:
    """How far relaxations go in eV/Å: where there are energies, what is compared by them is to be at a minimum."""
    from ..simulation.relaxation import finished_at

    if arguments.finish is None:
        has_energy = "energy" in calculator.implemented_properties
        return min(arguments.fmax, finished_at(calculator)) if has_energy else arguments.fmax
    if arguments.finish > arguments.fmax:
        raise InputError(
            f"--finish {arguments.finish:g} is above --fmax {arguments.fmax:g}; give less, or a larger --fmax"
        )
    return arguments.finish


def _require_cells(
    arguments: argparse.Namespace, structures: "Mapping[str, Atoms]", calculator: "ADAPTCalculator"
) -> None:
    """Before any is relaxed for minutes."""
    from ..simulation.relaxation import require_cell_to_relax

    if arguments.host is not None:
        raise InputError("--cell is for the host itself; relax that first, and its defects in the cell that it gets")
    for name, atoms in structures.items():
        with about(name):
            require_cell_to_relax(atoms, calculator)


def _with_cells(
    arguments: argparse.Namespace, structures: "dict[str, Atoms]", calculator: "ADAPTCalculator"
) -> "tuple[dict[str, Atoms], dict[str, tuple[str, ...]]]":
    """The structures in the cells that they are to have, and a line for each cell that has not converged."""
    from ..simulation.relaxation import relax_cell

    if not arguments.cell:
        return structures, {}
    moved: dict[str, Atoms] = {}
    stuck: dict[str, tuple[str, ...]] = {}
    for name, atoms in structures.items():
        with about(name):
            moved[name], line, converged = relax_cell(atoms, calculator, arguments.finish, arguments.steps)
        print(f"{name}: {line}")
        if not converged:
            stuck[name] = (f"the cell has not converged after {arguments.steps} steps",)
    return moved, stuck


def _host(arguments: argparse.Namespace, calculator: "ADAPTCalculator") -> "Host | None":
    """The perfect crystal with its energy by the model, where the command names one."""
    from ..simulation.inputs import read_inputs
    from ..simulation.ranking import Host
    from ..simulation.relaxation import require_predictable

    if arguments.host is None:
        if arguments.chemical_potentials:
            raise InputError("--chemical-potentials are for formation energies: give the perfect crystal with --host")
        return None
    if "energy" not in calculator.implemented_properties:
        raise InputError("--host needs energies: give --energy-model, or a pooled energy as --model")
    if arguments.charge:
        raise InputError("--host is for formation energies of neutral defects; leave --charge out")
    potentials = dict(arguments.chemical_potentials)
    if len(potentials) < len(arguments.chemical_potentials):
        raise InputError("--chemical-potentials: an element has one chemical potential, not two")
    (name, atoms), *others = read_inputs([arguments.host], index=":").items()
    if others:
        raise InputError(f"{arguments.host} holds {len(others) + 1} structures; the host is one")
    with about(name):
        require_predictable(atoms, calculator)
    for line in [] if calculator.domain is None else calculator.domain.check(atoms):
        print(f"warning: the host {name} is outside the trained region: {line}", file=sys.stderr)
    return Host.by(calculator, atoms, calculator.results["energy"], potentials)


def _require_fit(host: "Host | None", done: "Mapping[str, Atoms]") -> None:
    """A host that another command named may not fit what was relaxed before, which will be ranked with it."""
    if host is None:
        return
    for name, atoms in done.items():
        with about(name):
            host.require_fits(atoms)


def _unusable(
    structures: "Mapping[str, Atoms]", calculator: "ADAPTCalculator", host: "Host | None", format_name: str | None
) -> dict[str, str]:
    """Which structures models, host or format do not take, and why: before all else."""
    from ..simulation.relaxation import require_predictable
    from ..simulation.results import require_writable

    reasons = {}
    for name, atoms in structures.items():
        try:
            with about(name):
                require_predictable(atoms, calculator)
                if host is not None:
                    host.require_fits(atoms)
                if format_name is not None:
                    require_writable(name, atoms, format_name)
        except InputError as error:
            reasons[name] = str(error)
    return reasons


def _none_is_left(skipped: Mapping[str, str]) -> str:
    first = next(iter(skipped.values()))
    return first if len(skipped) == 1 else f"none of {len(skipped)} structures can be relaxed; the first: {first}"


def _tell(
    notes: list[str], skipped: Mapping[str, str], structures: "Mapping[str, Atoms]", format_name: str | None
) -> None:
    """What was found, and what will not be done, before anything is."""
    from ..simulation.results import not_held

    for note in notes:
        print(note)
    if skipped:
        print(f"skipped, with {len(structures)} left to relax: {len(skipped)}", file=sys.stderr)
        print("\n".join(f"  {reason}" for reason in list(skipped.values())[:_LISTED]), file=sys.stderr)
    for line in not_held(structures, format_name) if format_name is not None else ():
        print(line, file=sys.stderr)


def _conclude(
    arguments: argparse.Namespace,
    lines: "list[Line]",
    calculator: "ADAPTCalculator",
    host: "Host | None",
    output: Path,
    found: "Found",
) -> None:
    """What is made of all relaxations together: other formats, the ranking and the report."""
    from ..simulation.doubt import DifferenceDoubt
    from ..simulation.ranking import converged_candidates, rank, ranking_table, write_ranking
    from ..simulation.report import write_report
    from ..simulation.results import model_names, write_formats
    from ..simulation.tree import write_tree

    if arguments.format is not None:
        write_formats(arguments.format, [line["name"] for line in lines], output)
    ranked = rank(converged_candidates(output, lines), host, DifferenceDoubt.by(calculator))
    write_ranking(output / "ranking.csv", ranked)
    if len(ranked) > 1 or host is not None:
        print(ranking_table(ranked))
        _tell_finish(arguments, lines)
    if arguments.write_tree is not None:
        entries = found.defect_entries({one.name for one in ranked})
        write_tree(Path(arguments.write_tree), ranked, model_names(arguments.model), entries, host)
        print(f"structures for DFT saved to: {arguments.write_tree}" if ranked else "no minimum to write for DFT")
    if arguments.report:
        print(f"report saved to: {write_report(output)}")
    print(f"structures saved to: {output}")


def _tell_finish(arguments: argparse.Namespace, lines: "list[Line]") -> None:
    """How near to their minima the structures were when they were compared."""
    if arguments.finish < arguments.fmax:
        print(f"relaxed on from {arguments.fmax:g} to {arguments.finish:g} eV/Å before they were compared (--finish)")
    for line in lines:
        if line["status"] == "converged" and float(line["fmax_ev_per_ang"]) >= arguments.finish:
            left = f"still {float(line['fmax_ev_per_ang']):.3f} eV/Å after {arguments.steps} more steps"
            print(f"{line['name']}: {left}; it may be on its way to another minimum")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("Relaxes the atoms of structures in their fixed cells with the forces of a model.", EXAMPLE)
    structures = parser.add_argument_group("structures")
    structures.add_argument(
        "input", nargs="+", help="file that ASE reads, JSON of pymatgen or doped, folder of either or of a data set"
    )
    structures.add_argument(
        "--index",
        type=_index,
        default="-1",
        help="which frames of a file or rows of a split: 0, -1, :, ::10 (default: -1)",
    )
    structures.add_argument("--split", default="test", help="which split of a data set (default: test)")
    structures.add_argument(
        "--charge",
        type=finite_number,
        help="of every structure, for models that read it (default: what the inputs say, or 0); 0 relaxes charged "
        "structures as neutral ones, by any model",
    )
    structures.add_argument(
        "--include",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help='only what a pattern matches: a name, a path, or a folder in it, such as "v_Cd_0/*"',
    )
    structures.add_argument(
        "--exclude", nargs="+", default=[], metavar="PATTERN", help="nothing that a pattern matches"
    )

    models = parser.add_argument_group("models")
    models.add_argument(
        "--model",
        default=[DEFAULT_MODEL],
        nargs="+",
        help=f"checkpoint folder or Hub id of a model; several: their mean (default: {DEFAULT_MODEL}, in the package)",
    )
    models.add_argument("--revision", help="branch, tag or commit of the models that are Hub ids (default: main)")
    models.add_argument("--energy-model", help="checkpoint folder or Hub id of an energy model, for energy changes")
    models.add_argument("--energy-subfolder", metavar="NAME", help="where in --energy-model it is, such as energy")
    models.add_argument("--energy-revision", metavar="REVISION", help="that of --energy-model (default: --revision)")
    models.add_argument(
        "--num-images",
        type=whole_number(1),
        default=1,
        help="symmetry images of each structure to average over, at most 48 (default: 1)",
    )
    models.add_argument(
        "--dtype", choices=DTYPES, help="of the weights, or mixed, or auto (default: as saved, float32)"
    )
    models.add_argument("--compile", action="store_true", help="make kernels for the model first, a minute or two")
    models.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU where there is one)")

    relaxation = parser.add_argument_group("relaxation")
    relaxation.add_argument(
        "--fmax", type=positive_number, default=0.05, help="converged below this, in eV/Å (default: 0.05)"
    )
    relaxation.add_argument(
        "--steps", type=whole_number(0), default=500, help="most steps of each relaxation (default: 500)"
    )
    relaxation.add_argument(
        "--cell", action="store_true", help="the cell too, before the positions: of a host, by a model with a stress"
    )
    relaxation.add_argument(
        "--finish",
        type=positive_number,
        metavar="FMAX",
        help="relax those that converged on to this before they are compared, as they may stand on a plateau "
        "(default: 0.002 eV/Å where the model has energies, 0.01 in low precision, else --fmax)",
    )
    relaxation.add_argument(
        "--one-by-one", action="store_true", help="not many at once, which they are where torch-sim is installed"
    )

    results = parser.add_argument_group("results")
    results.add_argument(
        "--output", default="relaxed", metavar="DIR", help="new folder for the results (default: relaxed)"
    )
    results.add_argument(
        "--host", metavar="FILE", help="perfect crystal in the same cell, for formation energies (of neutral defects)"
    )
    results.add_argument(
        "--chemical-potentials",
        type=_chemical_potential,
        nargs="+",
        default=[],
        metavar="ELEMENT=EV",
        help="energy of an atom in its reservoir, as the model counts it (default: an atom of a host of one element)",
    )
    results.add_argument(
        "--format", metavar="NAME", help="write the last steps in this format too: cif, vasp, ... of ASE, or pymatgen"
    )
    results.add_argument(
        "--write-tree",
        metavar="DIR",
        help="new folder to go on from with DFT: DEFECT_CHARGE/RANK/POSCAR of each minimum, and what ShakeNBreak and "
        "doped read",
    )
    results.add_argument("--report", action="store_true", help="write report.html, which opens in any browser")
    return parser


def _index(text: str) -> str:
    parts = text.split(":")
    try:
        numbers = [int(part) if part else None for part in parts]
    except ValueError:
        numbers = []
    single = len(numbers) == 1 and numbers[0] is not None
    if not (single or len(numbers) == 2 or len(numbers) == 3 and numbers[2] != 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no index such as 0, -1, : or ::10")
    return text


def _chemical_potential(text: str) -> tuple[str, float]:
    element, _, energy = text.partition("=")
    try:
        value = float(energy)
    except ValueError:
        value = math.nan
    if element not in SYMBOLS[1:] or not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no chemical potential such as Si=-5.42")
    return element, value
