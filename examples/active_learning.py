"""
A loop of active learning: the model names the structures that would teach it most, these are labelled, it learns them.
Labels come from the empirical potential of Erhart and Albe here; put your DFT in `label`.
"""

from importlib.resources import files
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk

from modeling_adapt.cli import import_structures, select_structures, train
from modeling_adapt.data.defects.labelling import erhart_albe

RECIPE = str(files("modeling_adapt") / "configuration" / "recipes" / "si-dft-finetune.yaml")
EPOCHS = "--eval_strategy epoch --save_strategy epoch --num_train_epochs 10 --warmup_steps 5".split()


def label(atoms: Atoms) -> Atoms:
    """With energy and forces, here by a potential that takes no time."""
    atoms.calc = erhart_albe()
    atoms.get_forces()
    return atoms


def candidates(count: int, seed: int) -> list[Atoms]:
    """Vacancies, all atoms off their sites, some of them far."""
    found = [bulk("Si", cubic=True, a=5.429).repeat(2)[1:] for _ in range(count)]
    for number, atoms in enumerate(found):
        atoms.rattle(0.02 + 0.13 * number / count, rng=np.random.default_rng((seed, number)))
    return found


def main(folder: str = "runs/active", rounds: int = 3, number: int = 8, pool: int = 40, *options: str) -> str:
    """The folder of the last model; `options` are of train.py."""
    model, learned = "adapt-si", []
    checked = [label(atoms) for atoms in candidates(number, seed=0)]
    for turn in range(1, rounds + 1):
        there = Path(folder) / f"round_{turn}"
        there.mkdir(parents=True)
        ase.io.write(there / "pool.extxyz", candidates(pool, seed=turn))
        chosen = ["--model", model, "--number", str(number), "--output", str(there / "next")]
        select_structures.main([str(there / "pool.extxyz"), *chosen])
        learned += [label(next(ase.io.iread(path))) for path in sorted((there / "next").glob("*/POSCAR"))]
        ase.io.write(there / "train.traj", learned)
        ase.io.write(there / "validation.traj", checked)

        inputs = [f"train={there}/train.traj", f"validation={there}/validation.traj"]
        import_structures.main([*inputs, str(there / "data")])
        run = ["--dataset", str(there / "data"), "--initial_model", model, "--output_dir", str(there / "model")]
        train.main([RECIPE, *run, *EPOCHS, *options])
        model = str(there / "model")
    return model


if __name__ == "__main__":
    main()
