"""Command: relaxes structures with a force model, and says which relaxations are to be believed."""

import argparse
import sys

import ase.io
import numpy as np
from ase import Atoms
from ase.io.formats import string2index
from tqdm import tqdm

from modeling_adapt.command_line import CommandParser, positive_number, require_empty_folder, run_command, whole_number
from modeling_adapt.device import available_device
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.inputs import read_inputs
from modeling_adapt.simulation.relaxation import RelaxationResult, relax
from modeling_adapt.simulation.summary import SummaryFile, summary_table

EXAMPLE = """\
examples:
  python relax.py vacancy.extxyz interstitial.cif --model runs/silicon/final --output relaxed
  python relax.py vacancy.extxyz --model runs/one runs/two --num-images 8 --output relaxed
  python relax.py datasets/silicon --split validation --index 0 --model runs/silicon/final --output relaxed

Writes for each structure
  NAME.traj.extxyz      every step, as it happens
  NAME.relaxed.extxyz   the last step; its comment line says whether it converged
and summary.csv, a line for each structure.

exit status: 0 all converged, 1 at least one did not or left the trained region, 2 bad input.
"""


def main(argv: list[str] | None = None) -> int | None:
    arguments = _parser().parse_args(argv)
    output = require_empty_folder(arguments.output)
    structures = read_inputs(arguments.input, arguments.index, arguments.split)
    device = available_device(arguments.device)
    # The relaxation itself watches the trained region, and says at which step it was left.
    calculator = ADAPTCalculator.from_pretrained(
        arguments.model, arguments.energy_model, device, outside_domain="ignore", num_images=arguments.num_images
    )
    for name, atoms in structures.items():
        _require_readable(name, atoms, calculator)
    domain = calculator.domain
    if domain is None:
        print(
            "This model does not say what it was trained on, so nothing tells whether to believe it.", file=sys.stderr
        )

    output.mkdir(parents=True, exist_ok=True)
    summary = SummaryFile(output / "summary.csv")
    results: dict[str, RelaxationResult] = {}
    try:
        for name, atoms in structures.items():
            with tqdm(desc=name, total=arguments.steps, unit=" steps", leave=False, disable=None) as bar:

                def show(step: int, largest_force: float, bar: tqdm = bar) -> None:
                    bar.update(step - bar.n)
                    bar.set_postfix_str(f"fmax {largest_force:.3f} eV/Å")

                trajectory = output / f"{name}.traj.extxyz"
                result = relax(atoms, calculator, arguments.fmax, arguments.steps, domain, trajectory, show)
            result.atoms.info["status"] = result.status
            ase.io.write(output / f"{name}.relaxed.extxyz", result.atoms)
            summary.append(name, result)
            results[name] = result
    finally:
        if results:
            print(summary_table(results))
    print(f"structures saved to: {output}")
    return 0 if all(result.status == "converged" for result in results.values()) else 1


def _require_readable(name: str, atoms: Atoms, calculator: ADAPTCalculator) -> None:
    """One prediction tells whether the models take a structure, before anything is written."""
    try:
        calculator.calculate(atoms, calculator.implemented_properties)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    if not all(np.isfinite(values).all() for values in calculator.results.values()):
        raise InputError(f"{name}: the model predicts values that are not finite")


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
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the results")
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
    parser.add_argument("--split", default="test", help="which split of a data set (default: test)")
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


if __name__ == "__main__":
    sys.exit(run_command(main))
