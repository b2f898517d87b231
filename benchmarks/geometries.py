"""
Trains each geometry for the same wall-clock time on the same data set and compares the force errors on unseen
trajectories.

    python benchmarks/geometries.py datasets/defects --minutes 10 --output results/geometries
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from modeling_adapt.cli.command_line import CommandParser, positive_number, run_command, whole_number
from modeling_adapt.errors import InputError
from modeling_adapt.files import require_empty_folder
from modeling_adapt.tables import format_table

ROOT = Path(__file__).parents[1]
PROBE_STEPS = 15  # of a training that only tells how long a step takes
# Preset, and the rate at which it learns best in a few minutes; all else is alike.
GEOMETRIES = {
    "cartesian": ("published-small", 3e-4),
    "fourier": ("fourier-small", 1e-3),
    "pairwise": ("pairwise-small", 2e-3),
}


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, "example:\n  python benchmarks/geometries.py datasets/defects --output results/g")
    parser.add_argument("dataset", help="with splits train, validation and test")
    parser.add_argument("--output", required=True, help="folder for the trained models; must not exist or be empty")
    parser.add_argument("--minutes", type=positive_number, default=10.0, help="of each training (default %(default)s)")
    parser.add_argument("--batch-size", type=whole_number(1), default=8, help="structures (default %(default)s)")
    parser.add_argument("--split", default="test", help="to report on (default %(default)s)")
    parser.add_argument("--geometries", default=",".join(GEOMETRIES), help="(default %(default)s)")
    arguments = parser.parse_args(argv)
    output = require_empty_folder(arguments.output)
    rows = []
    for name in arguments.geometries.split(","):
        if name not in GEOMETRIES:
            raise InputError(f"there is no geometry {name!r}; there are {', '.join(GEOMETRIES)}")
        steps, minutes = train(name, arguments.dataset, output / name, arguments.minutes, arguments.batch_size)
        metrics = evaluate(output / name, arguments.dataset, arguments.split, output / f"{name}-evaluation")
        error, zero = metrics["force_mae_mev_per_ang"], metrics["zero_force_mae_mev_per_ang"]
        near_cell = "-"
        if near := metrics.get("near_defect_mae_mev_per_ang"):
            near_cell = f"{near:.1f} ({near / metrics['zero_force_near_defect_mae_mev_per_ang']:.0%})"
        rows.append((name, str(steps), f"{minutes:.1f}", f"{error:.1f} ({error / zero:.0%})", near_cell))
    print(format_table(("geometry", "steps", "minutes", "force MAE", "near the defect"), rows))
    print(f"meV/Å, and share of predicting zero forces; split {arguments.split} of {arguments.dataset}")


def train(name: str, dataset: str, folder: Path, minutes: float, batch_size: int) -> tuple[int, float]:
    """Trains as many steps as fit into the time; returns them and the minutes that they took."""
    preset, rate = GEOMETRIES[name]
    options = {
        "dataset": dataset,
        "model": preset,
        "learning_rate": rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 50,
        "max_grad_norm": 1.0,
        "per_device_train_batch_size": batch_size,
        "eval_strategy": "no",
        "save_strategy": "no",
    }
    seconds = run_train(options | {"max_steps": PROBE_STEPS, "output_dir": folder.with_name(f"{name}-probe")})
    steps = max(PROBE_STEPS, int(60 * minutes / seconds))
    return steps, run_train(options | {"max_steps": steps, "output_dir": folder}) * steps / 60


def run_train(options: dict[str, object]) -> float:
    """Seconds per step, as the Trainer measures them; start and evaluation do not count."""
    run("train.py", *(text for name, value in options.items() for text in (f"--{name}", str(value))))
    state = json.loads((Path(str(options["output_dir"])) / "trainer_state.json").read_text())
    return 1 / next(entry["train_steps_per_second"] for entry in state["log_history"] if "train_runtime" in entry)


def evaluate(model: Path, dataset: str, split: str, folder: Path) -> dict[str, float]:
    run("evaluate.py", str(model), dataset, "--split", split, "--output", str(folder))
    return json.loads((folder / "metrics.json").read_text())


def run(*command: str) -> None:
    began = time.monotonic()
    finished = subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]], capture_output=True, text=True)
    if finished.returncode:
        raise InputError(f"{command[0]}: {(finished.stderr.strip().splitlines() or ['failed'])[-1]}")
    print(f"{command[0]} took {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command(main))
