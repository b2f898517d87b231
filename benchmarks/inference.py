"""
Time and memory of forces: the presets of this repository, and a MACE beside them where another environment has it.

    python benchmarks/inference.py --mace-python ../mace/bin/python
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from tqdm import tqdm

from modeling_adapt.command_line import CommandParser, run_command, whole_number
from modeling_adapt.errors import InputError
from modeling_adapt.feature_extraction_adapt import ADAPTFeatureExtractor
from modeling_adapt.loading import HEADS
from modeling_adapt.modeling_adapt import forces_of
from modeling_adapt.tables import format_table
from modeling_adapt.training.arguments import preset_config

MODELS = ("published-small", "fourier-small", "pairwise-small", "pairwise-energy")
BATCHES = (1, 16)


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, "example:\n  python benchmarks/inference.py --threads 2")
    parser.add_argument("--threads", type=whole_number(1), default=2, help="of the processor (default %(default)s)")
    parser.add_argument("--repeats", type=whole_number(1), default=7, help="the median counts (default %(default)s)")
    parser.add_argument("--mace-python", metavar="PYTHON", help="interpreter of an environment with mace-torch")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one model and size in a process of its own
    arguments = parser.parse_args(argv)
    if arguments.measure:
        model, atoms, batch = arguments.measure.split(",")
        print(json.dumps(measure(model, int(atoms), int(batch), arguments.repeats, arguments.threads)))
        return

    rows: list[tuple[str, int, int, float, float | None]] = []
    cases = [(model, 216, batch) for model in MODELS for batch in BATCHES] + [(model, 2000, 1) for model in MODELS]
    for model, atoms, batch in tqdm(cases, disable=None):
        milliseconds, megabytes = in_own_process(model, atoms, batch, arguments.repeats, arguments.threads)
        rows.append((model, atoms, batch, milliseconds, megabytes))
    if arguments.mace_python:
        rows += [("MACE 64x0e", 216, batch, time, None) for batch, time in mace(arguments).items()]
    header = ("model", "atoms", "batch", "ms/structure", "memory over the loaded model (MB)")
    table = [
        (model, str(atoms), str(batch), f"{time:.1f}", "-" if memory is None else f"{memory:.0f}")
        for model, atoms, batch, time, memory in rows
    ]
    print(format_table(header, table))
    print(f"forces in float32, {arguments.threads} threads, medians of {arguments.repeats}")


def measure(preset: str, num_atoms: int, batch: int, repeats: int, threads: int) -> tuple[float, float]:
    """Milliseconds per structure, tokens included, and the memory in MB by which the process grew."""
    torch.set_num_threads(threads)
    config = preset_config(preset)
    model = HEADS[config.model_type](config).eval()
    extract = ADAPTFeatureExtractor()
    structures = [rattled_silicon(num_atoms)] * batch
    times = []
    with torch.no_grad():
        forces_of(model, **extract([structures[0][:8]]))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(repeats + 1):
            began = time.perf_counter()
            forces_of(model, **extract(structures))
            times.append(1000 * (time.perf_counter() - began) / batch)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return float(np.median(times[1:])), grown


def rattled_silicon(num_atoms: int) -> Atoms:
    """Silicon in cubic cells, 0.05 Å off its sites; 216 or 2,000 atoms exactly, else the nearest cube above."""
    cells = {216: (3, 3, 3), 2000: (5, 5, 10)}.get(num_atoms, (int(np.ceil((num_atoms / 8) ** (1 / 3))),) * 3)
    atoms = bulk("Si", a=5.43, cubic=True) * cells
    atoms.rattle(0.05, seed=0)
    return atoms


def in_own_process(model: str, atoms: int, batch: int, repeats: int, threads: int) -> tuple[float, float]:
    """[`measure`] where no earlier measurement has left its memory behind."""
    case = f"{model},{atoms},{batch}"
    command = [sys.executable, __file__, "--measure", case, "--repeats", str(repeats), "--threads", str(threads)]
    return tuple(json.loads(run(command).splitlines()[-1]))


def mace(arguments: argparse.Namespace) -> dict[int, float]:
    """Milliseconds per structure of MACE, by batch size."""
    script = Path(__file__).with_name("mace_forces.py")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "silicon.extxyz"
        ase.io.write(file, rattled_silicon(216))
        options = [str(arguments.threads), str(arguments.repeats), *map(str, BATCHES)]
        lines = run([arguments.mace_python, str(script), str(file), *options]).splitlines()
    numbers = [line.split() for line in lines if line[:1].isdigit()]
    return {int(batch): float(milliseconds) for batch, milliseconds in numbers}


def run(command: list[str]) -> str:
    try:
        finished = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise InputError(f"{command[0]} cannot be run: {error}") from error
    if finished.returncode:
        raise InputError(f"{' '.join(command[:2])} failed: {(finished.stderr.strip().splitlines() or ['?'])[-1]}")
    return finished.stdout


if __name__ == "__main__":
    sys.exit(run_command(main))
