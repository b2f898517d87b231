"""
The model in the box goes on learning from your VASP runs: import them, measure the model, train on, measure again.
Give the folder of the runs; without one a tree of samples is made (sample_runs.py).
"""

import json
import sys
from importlib.resources import files
from pathlib import Path

import sample_runs

from modeling_adapt.cli import evaluate, import_structures, train

RECIPE = str(files("modeling_adapt") / "configuration" / "recipes" / "si-dft-finetune.yaml")


def main(runs: str | None = None, folder: str = "runs/finetune", *options: str) -> dict[str, float]:
    """The error of the forces before and after, in meV/Å; `options` are of train.py, which wins over the recipe."""
    there = Path(folder)
    if runs is None:
        sample_runs.main(runs := str(there / "vasp"))
    data, model = str(there / "data"), str(there / "model")
    import_structures.main([runs, data])  # whole runs go to train, validation and test

    errors = {}
    every_epoch = ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--num_train_epochs", "10"]
    for name in ("before", "after"):
        if name == "after":
            start = ["--initial_model", "adapt-si", "--warmup_steps", "10", "--learning_rate", "1e-3"]
            train.main([RECIPE, "--dataset", data, "--output_dir", model, *start, *every_epoch, *options])
        measured = str(there / name)
        evaluate.main(["adapt-si" if name == "before" else model, data, "--checks", "0", "--output", measured])
        metrics = json.loads((Path(measured) / "metrics.json").read_text())
        errors[name] = metrics["force_mae_mev_per_ang"]
    print(f"forces on runs not trained on: {errors['before']:.1f} meV/Å before, {errors['after']:.1f} after")
    print(f"relax with it: python relax.py YOUR_FILES --model {model}")
    return errors


if __name__ == "__main__":
    main(*sys.argv[1:2])
