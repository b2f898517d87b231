"""Command: relaxes structures with a force model, and says which relaxations are to be believed."""

import argparse
import functools
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from accelerate import PartialState
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.formats import string2index
from tqdm import tqdm

from ..data.read.structure_files import read_frames
from ..device import DTYPES, available_device
from ..errors import InputError
from ..simulation.calculator import ADAPTCalculator
from ..simulation.formation import Host
from ..simulation.inputs import read_inputs
from ..simulation.ranking import converged_candidates, rank, ranking_table, write_ranking
from ..simulation.record import record_of, require_same_command, write_record
from ..simulation.relaxation import RelaxationResult, relax
from ..simulation.report import write_report
from ..simulation.results import ending_of, result_file, writable_format, write_as, write_result
from ..simulation.summary import SummaryFile, summary_table
from .command_line import CommandParser, positive_number, run_command, whole_number

EXAMPLE = """\
examples:
  python relax.py vacancy.extxyz interstitial.cif --model runs/silicon --output relaxed
  python relax.py vacancy.extxyz --model runs/one runs/two --num-images 8 --output relaxed
  python relax.py vacancy.extxyz --model org/adapt-si --revision v1 --output relaxed
  python relax.py candidates/*.cif --model runs/si-energy --host host.cif --report --output relaxed
  python relax.py datasets/silicon --split validation --index 0 --model runs/silicon --output relaxed

Writes for each structure
  NAME.traj.extxyz      every step, as it happens
  NAME.relaxed.extxyz   the last step; its comment line says whether it converged
and summary.csv, a line for each structure, and ranking.csv: which of those that converged are the same minimum, and
which is lowest. Files may be given as folders or globs, and as JSON of pymatgen or doped. When it was interrupted, the
same command goes on with the structures that are left; "accelerate launch relax.py ..." spreads them over processes.
With the extra [batch] (torch-sim), many structures are relaxed at once.

exit status: 0 all converged, 1 at least one did not or left the trained region, 2 bad input.
"""


def main(argv: list[str] | None = None) -> int | None:
    arguments = _parser().parse_args(argv)
    # A process that has done its share waits for the slowest, for hours if need be.
    processes = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=30))
    structures = read_inputs(arguments.input, arguments.index, arguments.split)
    output = Path(arguments.output)
    record = record_of(arguments, structures)
    require_same_command(output, record)
    device = available_device(arguments.device) if arguments.device else processes.device  # one for each process
    # The relaxation itself watches the trained region, and says at which step it was left.
    calculator = ADAPTCalculator.from_pretrained(
        arguments.model,
        arguments.energy_model,
        device,
        outside_domain="ignore",
        num_images=arguments.num_images,
        dtype=arguments.dtype,
        compiled=arguments.compile,
        revision=arguments.revision,
        energy_subfolder=arguments.energy_subfolder or "",
        energy_revision=arguments.energy_revision,
    )
    host = read_host(arguments, calculator)
    for name, atoms in structures.items():
        require_fits(name, atoms, host)
    summary = SummaryFile(output / "summary.csv")
    done = summary.names()
    left = [name for name in structures if name not in done]
    for name in left:
        require_readable(name, structures[name], calculator, arguments.format)
    processes.wait_for_everyone()  # nobody writes before everybody has checked
    if processes.is_main_process:
        if calculator.domain is None:
            print(
                "This model does not say what it was trained on, so nothing tells whether to believe it.",
                file=sys.stderr,
            )
        output.mkdir(parents=True, exist_ok=True)
        write_record(output, record)
        summary.start()
    processes.wait_for_everyone()  # nobody adds a line before there is a file
    if done and processes.is_main_process:
        print(f"{len(done)} of {len(structures)} structures were relaxed before; going on with the others")
    mine = {name: structures[name] for name in left[processes.process_index :: processes.num_processes]}
    try:
        for name, result in relax_each(mine, calculator, arguments, output):
            write_result(name, result, output)
            summary.append(name, result)
    finally:
        if processes.num_processes == 1:
            print(summary_table(summary.lines()))
    processes.wait_for_everyone()
    lines = summary.lines()
    if processes.is_main_process:
        if processes.num_processes > 1:
            print(summary_table(lines))
        if arguments.format is not None:
            write_formats(arguments.format, [line["name"] for line in lines], output)
        ranked = rank(converged_candidates(output, lines), host)
        write_ranking(output / "ranking.csv", ranked)
        if len(ranked) > 1 or host is not None:
            print(ranking_table(ranked))
        if arguments.report:
            print(f"report saved to: {write_report(output)}")
        print(f"structures saved to: {output}")
    return 0 if len(lines) == len(structures) and all(line["status"] == "converged" for line in lines) else 1


def relax_each(
    structures: dict[str, Atoms], calculator: ADAPTCalculator, arguments: argparse.Namespace, output: Path
) -> Iterator[tuple[str, RelaxationResult]]:
    """Relaxations as they end: many at once what torch-sim can, where it is installed; then one after the other."""
    limits = {"fmax": arguments.fmax, "steps": arguments.steps, "domain": calculator.domain}
    together = {name: atoms for name, atoms in structures.items() if can_batch(atoms, calculator, arguments)}
    if together:
        from ..simulation.batched import relax_batched

        with tqdm(total=len(together), desc="relaxing", unit=" structures", leave=False, disable=None) as bar:
            trajectory = functools.partial(_trajectory, output)
            for name, result in relax_batched(together, calculator.model, trajectory=trajectory, **limits):
                bar.update()
                yield name, result
    for name, atoms in structures.items():
        if name in together:
            continue
        with tqdm(desc=name, total=arguments.steps, unit=" steps", leave=False, disable=None) as bar:

            def show(step: int, largest_force: float, bar: tqdm = bar) -> None:
                bar.update(step - bar.n)
                bar.set_postfix_str(f"fmax {largest_force:.3f} eV/Å")

            result = relax(atoms, calculator, trajectory=_trajectory(output, name), on_step=show, **limits)
        yield name, result


def can_batch(atoms: Atoms, calculator: ADAPTCalculator, arguments: argparse.Namespace) -> bool:
    """torch-sim moves all atoms of crystals by one model, which reads them as they are."""
    if calculator.domain is not None and calculator.domain.frame is not None:
        return False
    free = atoms.pbc.all() and not atoms.constraints
    one = len(arguments.model) == 1 and arguments.num_images == 1 and arguments.energy_model is None
    return free and one and not arguments.one_by_one and _torch_sim_is_here()


def _torch_sim_is_here() -> bool:
    """The extra [batch]; a release before 0.6, the last for Python 3.11, has another interface."""
    try:
        return tuple(map(int, version("torch-sim-atomistic").split(".")[:2])) >= (0, 6)
    except PackageNotFoundError:
        return False


def _trajectory(output: Path, name: str) -> Path:
    return output / f"{name}.traj.extxyz"


def read_host(arguments: argparse.Namespace, calculator: ADAPTCalculator) -> Host | None:
    """The perfect crystal with its energy by the model, where the command names one."""
    if arguments.host is None:
        if arguments.chemical_potentials:
            raise InputError("--chemical-potentials are for formation energies: give the perfect crystal with --host")
        return None
    if "energy" not in calculator.implemented_properties:
        raise InputError("--host needs energies: give --energy-model, or a pooled energy as --model")
    potentials = dict(arguments.chemical_potentials)
    if len(potentials) < len(arguments.chemical_potentials):
        raise InputError("--chemical-potentials: an element has one chemical potential, not two")
    (name, atoms), *others = read_inputs([arguments.host], index=":").items()
    if others:
        raise InputError(f"{arguments.host} holds {len(others) + 1} structures; the host is one")
    require_readable(name, atoms, calculator)
    for line in [] if calculator.domain is None else calculator.domain.check(atoms):
        print(f"warning: the host {name} is outside the trained region: {line}", file=sys.stderr)
    return Host(atoms, calculator.results["energy"], potentials)


def require_fits(name: str, atoms: Atoms, host: Host | None) -> None:
    """Raises [`InputError`] unless the host can be that of a structure."""
    try:
        if host is not None:
            host.require_fits(atoms)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def require_readable(name: str, atoms: Atoms, calculator: ADAPTCalculator, format_name: str | None = None) -> None:
    """One prediction tells whether the models take a structure, and a file whether a format does, before all else."""
    try:
        calculator.calculate(atoms, calculator.implemented_properties)
        if format_name is not None:
            with TemporaryDirectory() as folder:
                write_as(format_name, Path(folder) / f"{name}.{ending_of(format_name)}", atoms)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    if not all(np.isfinite(values).all() for values in calculator.results.values()):
        raise InputError(f"{name}: the model predicts values that are not finite")


def write_formats(format_name: str, names: Sequence[str], output: Path) -> None:
    """Last structures in another format too, of relaxations before an interruption as well."""
    for name in names:
        path = output / f"{name}.relaxed.{ending_of(format_name)}"
        if not path.exists() and result_file(name, output).is_file():
            write_as(format_name, path, next(iter(read_frames(result_file(name, output), "-1"))))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "Relaxes the atoms of structures in their fixed cells with the forces of a model (FIRE).", EXAMPLE
    )
    parser.add_argument("input", nargs="+", help="file that ASE reads, or folder of a data set")
    parser.add_argument(
        "--model", required=True, nargs="+", help="checkpoint folder or Hub id of a force model; several: their mean"
    )
    parser.add_argument(
        "--num-images",
        type=whole_number(1),
        default=1,
        help="symmetry images of each structure to average over, at most 48 (default: 1)",
    )
    parser.add_argument("--energy-model", help="checkpoint folder or Hub id of an energy model, for energy changes")
    parser.add_argument("--energy-subfolder", metavar="NAME", help="where in --energy-model it is, such as energy")
    parser.add_argument("--revision", help="branch, tag or commit of the models that are Hub ids (default: main)")
    parser.add_argument("--energy-revision", metavar="REVISION", help="that of --energy-model (default: --revision)")
    parser.add_argument(
        "--host", metavar="FILE", help="perfect crystal in the same cell, for formation energies (of neutral defects)"
    )
    parser.add_argument(
        "--chemical-potentials",
        type=_chemical_potential,
        nargs="+",
        default=[],
        metavar="ELEMENT=EV",
        help="energy of an atom in its reservoir, as the model counts it (default: an atom of a host of one element)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the results")
    parser.add_argument(
        "--format",
        type=writable_format,
        help="write the last steps in this format too: cif, vasp, ... of ASE, or pymatgen",
    )
    parser.add_argument("--report", action="store_true", help="write report.html, which opens in any browser")
    parser.add_argument(
        "--fmax", type=positive_number, default=0.05, help="converged below this, in eV/Å (default: 0.05)"
    )
    parser.add_argument(
        "--steps", type=whole_number(0), default=500, help="most steps of each relaxation (default: 500)"
    )
    parser.add_argument(
        "--index",
        type=_index,
        default="-1",
        help="which frames of a file or rows of a split: 0, -1, :, ::10 (default: -1)",
    )
    parser.add_argument(
        "--one-by-one", action="store_true", help="not many at once, which they are where torch-sim is installed"
    )
    parser.add_argument("--split", default="test", help="which split of a data set (default: test)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (default: as saved, float32)")
    parser.add_argument("--compile", action="store_true", help="make kernels for the model first, a minute or so")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU where there is one)")
    return parser


def _index(text: str) -> str:
    try:
        index = string2index(text)
        is_index = isinstance(index, int) or isinstance(index, slice) and index.step != 0
    except ValueError:
        is_index = False
    if not is_index:
        raise argparse.ArgumentTypeError(f"{text!r} is no index such as 0, -1, : or ::10")
    return text


def _chemical_potential(text: str) -> tuple[str, float]:
    element, _, energy = text.partition("=")
    try:
        value = float(energy)
    except ValueError:
        value = np.nan
    if element not in atomic_numbers or element == "X" or not np.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no chemical potential such as Si=-5.42")
    return element, value


if __name__ == "__main__":
    sys.exit(run_command(main))
