"""
First the main job with the model that comes along: a vacancy of silicon and its formation energy. Then the same for a
model of one's own, from start to end at a small size: data, training, evaluation, and the relaxation of a vacancy that
it has not seen. Prints each command as a user would type it, then what the outcome is worth. Run by `make demo`.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
from ase.build import bulk
from ase.optimize import FIRE

from modeling_adapt.cli.command_line import run_command
from modeling_adapt.crystal.minimum_image import largest_displacement
from modeling_adapt.data.defects.labelling import erhart_albe
from modeling_adapt.errors import InputError

FOLDER = Path("runs/demo")


def main() -> int:
    if FOLDER.exists():
        raise InputError(f"{FOLDER} exists; remove it to run the demo again")
    began = time.monotonic()
    write_silicon(FOLDER / "silicon")
    silicon = "runs/demo/silicon"
    command(f"relax.py {silicon}/vacancy.extxyz --host {silicon}/host.extxyz --output {silicon}/relaxed")
    data, model, relaxed = FOLDER / "data", FOLDER / "model", FOLDER / "relaxed"
    kinds = "vacancy,interstitial_tetrahedral,interstitial_hexagonal,interstitial_split_110"
    command(
        f"data_scripts/generate_defects.py {data} --structures 800 --kinds {kinds} --frames 8 --steps 30 --md-share 0"
    )
    command(f"train.py configuration/recipes/demo.yaml --dataset {data} --output_dir {model}")
    command(f"evaluate.py {model} {data} --split test --output {FOLDER / 'evaluation'}")
    vacancy = FOLDER / "vacancy"
    command(
        f"data_scripts/generate_defects.py {vacancy} --structures 1 --kinds vacancy --steps 0 --seed 1 --split test"
    )
    status = command(f"relax.py {vacancy} --split test --model {model} --output {relaxed}", allowed=(0, 1))
    summarise(relaxed, converged=status == 0)
    print(f"\nfigures: {FOLDER / 'evaluation' / 'parity.png'}, {model / 'training_curve.png'}")
    print(f"the demo took {(time.monotonic() - began) / 60:.1f} minutes")
    return status


def write_silicon(folder: Path) -> None:
    """A crystal of 64 atoms, and the same without one of them, its neighbours a little off their sites."""
    folder.mkdir(parents=True)
    host = bulk("Si", cubic=True, a=5.468).repeat(2)
    vacancy = host.copy()
    del vacancy[0]
    vacancy.rattle(0.05, seed=0)
    ase.io.write(folder / "host.extxyz", host)
    ase.io.write(folder / "vacancy.extxyz", vacancy)


def command(line: str, allowed: tuple[int, ...] = (0,)) -> int:
    """Shows and runs one command of this repository; its exit status must be one of `allowed`."""
    print(f"\n$ python {line}", flush=True)
    status = subprocess.run([sys.executable, *line.split()]).returncode
    if status not in allowed:
        raise InputError(f"the command above ended with status {status}")
    return status


def summarise(relaxed: Path, converged: bool) -> None:
    """Judges the relaxation with the potential that labelled the data, which the model has never seen."""
    metrics = json.loads((FOLDER / "evaluation" / "metrics.json").read_text())
    frames = list(ase.io.iread(next(relaxed.glob("*.traj.extxyz")), index=":"))
    start, end = frames[0], frames[-1]
    for atoms in (start, end):
        atoms.calc = erhart_albe()
    before, after = start.get_potential_energy(), end.get_potential_energy()
    left_over = np.linalg.norm(end.get_forces(), axis=1).max()
    minimum = start.copy()
    minimum.calc = erhart_albe()
    FIRE(minimum, logfile=None).run(fmax=0.01, steps=500)
    shift = largest_displacement(end, minimum)
    verdict = "Yes: these forces lead" if converged and shift < 0.1 else "No:  these forces do not lead"
    error, trivial = metrics["force_mae_mev_per_ang"], metrics["zero_force_mae_mev_per_ang"]
    print(f"""
What came out
  forces on trajectories not trained on: MAE {error:.1f} meV/Å, {error / trivial:.0%} of predicting zero
  vacancy: {"converged" if converged else "NOT converged"} after {len(frames) - 1} steps with the model's forces
  judged by the potential that labelled the data:
    energy from start to end {after - before:+.3f} eV, largest force left {left_over:.2f} eV/Å
    its own minimum from the same start lies {minimum.get_potential_energy() - after:+.3f} eV from there,
    with no atom further than {shift:.3f} Å from where the model put it

What to believe
  Yes: the chain works, and the errors are measured on trajectories that were held out.
  {verdict} close to the minimum of the potential that labelled the data.
  No:  they say nothing about real silicon. The labels are an empirical potential, not DFT; for real work import DFT
       data (data_scripts/import_structures.py) and train longer.
  No:  the forces are no gradient of an energy. Use them to relax, not for molecular dynamics.""")


if __name__ == "__main__":
    sys.exit(run_command(main))
