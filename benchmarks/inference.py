"""
Time and memory of forces: the presets of this repository, the published layer stack, and a MACE beside them where
another environment has it. Each case runs in a process of its own, which also measures how fast the machine multiplies
matrices in float32 at that moment; the share of that rate is by the multiplications that the network itself asks for.

    python benchmarks/inference.py --mace-python ../mace/bin/python
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from published_stack import PublishedStack
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from experiments.forces_cost import forget_peak, peak_megabytes
from modeling_adapt.cli.command_line import CommandParser, run_command, whole_number
from modeling_adapt.device import on_device
from modeling_adapt.errors import InputError
from modeling_adapt.feature_extraction_adapt import ADAPTFeatureExtractor
from modeling_adapt.loading import HEADS
from modeling_adapt.modeling_adapt import forces_of
from modeling_adapt.tables import format_table
from modeling_adapt.training.arguments import preset_config

PUBLISHED_STACK = "published stack"
MODELS = (PUBLISHED_STACK, "published-small", "fourier-small", "pairwise-small", "pairwise-energy")
BESIDE = "side by side"
MODES = ("float32", "bfloat16", "compiled", "float64")
ATOMS, BATCHES = 217, (1, 16, 64)
SIZES = (1000, 2000, 4000, 10_000)
MATRIX = 2048  # of the multiplications that measure the machine


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, "example:\n  python benchmarks/inference.py --threads 2")
    parser.add_argument("--threads", type=whole_number(1), default=2, help="of the processor (default %(default)s)")
    parser.add_argument("--repeats", type=whole_number(1), default=7, help="the median counts (default %(default)s)")
    parser.add_argument("--mace-python", metavar="PYTHON", help="interpreter of an environment with mace-torch")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one model and size in a process of its own
    arguments = parser.parse_args(argv)
    if arguments.measure:
        model, mode, atoms, batch = arguments.measure.split(",")
        if model == BESIDE:
            print(json.dumps(side_by_side(int(atoms), int(batch), arguments.repeats, arguments.threads)))
            return
        print(json.dumps(measure(model, mode, int(atoms), int(batch), arguments.repeats, arguments.threads)))
        return

    cases = [(model, "float32", ATOMS, batch) for model in MODELS for batch in BATCHES]
    cases += [(model, mode, ATOMS, 16) for model in ("published-small", "pairwise-small") for mode in MODES[1:]]
    cases += [(model, "float32", atoms, 1) for atoms in SIZES for model in MODELS]
    rows = []
    for model, mode, atoms, batch in tqdm(cases, disable=None):
        result = in_own_process(model, mode, atoms, batch, arguments.repeats, arguments.threads)
        share = "-" if result["share"] is None else f"{result['share']:.0%}"
        numbers = (f"{result['ms']:.1f}", f"{1000 / result['ms']:.1f}", f"{result['mb']:.0f}", share)
        rows.append((model, mode, str(atoms), str(batch), *numbers))
        tqdm.write("  ".join(rows[-1]), file=sys.stderr)  # an interruption leaves what was measured
    if arguments.mace_python:
        for batch, milliseconds in mace(arguments).items():
            numbers = (f"{milliseconds:.1f}", f"{1000 / milliseconds:.1f}", "-", "-")
            rows.append(("MACE 64x0e", "float32", str(ATOMS), str(batch), *numbers))
    header = ("model", "mode", "atoms", "batch", "ms/structure", "structures/s", "memory (MB)", "of sgemm")
    print(format_table(header, rows))
    turns = []
    for batch in BATCHES:
        result = in_own_process(BESIDE, "float32", ATOMS, batch, 3 * arguments.repeats, arguments.threads)
        turns.append((str(batch), f"{result['stack']:.1f}", f"{result['ours']:.1f}", f"{result['ratio']:.2f}"))
    print(format_table(("batch", "published stack (ms)", "published-small (ms)", "times as fast"), turns))
    print("the two by turns in one process, where the machine is as fast for both; median of the ratios")
    print(f"forces, {arguments.threads} threads, medians of {arguments.repeats}; memory over the loaded model")


def measure(name: str, mode: str, num_atoms: int, batch: int, repeats: int, threads: int) -> dict[str, Any]:
    """Milliseconds per structure, tokens included, the MB by which the process grew, and the share of sgemm."""
    torch.set_num_threads(threads)
    forces = forces_by(name, mode)
    structures = [rattled_silicon(num_atoms)] * batch
    times, rates = [], []
    with torch.no_grad():
        forces([structures[0][:8]])
        matrix_rate()
        forget_peak()
        before = peak_megabytes()
        for _ in range(repeats + 1):
            began = time.perf_counter()
            forces(structures)
            times.append((time.perf_counter() - began) / batch)
            rates.append(matrix_rate())
        grown = peak_megabytes() - before
        seconds = float(np.median(times[1:]))
        share = None
        # Compiled graphs, gradients and the fast path of nn.MultiheadAttention hide their products from the counter.
        if mode != "compiled" and name not in ("pairwise-energy", PUBLISHED_STACK):
            with FlopCounterMode(display=False) as counter:
                forces(structures[:1])
            share = counter.get_total_flops() / seconds / float(np.median(rates))
    return {"ms": 1000 * seconds, "mb": grown, "share": share}


def side_by_side(num_atoms: int, batch: int, repeats: int, threads: int) -> dict[str, float]:
    """Milliseconds per structure of the published stack and of `published-small`, and the median of their ratios."""
    torch.set_num_threads(threads)
    structures = [rattled_silicon(num_atoms)] * batch
    both = [forces_by(name, "float32") for name in (PUBLISHED_STACK, "published-small")]
    pairs = []
    with torch.no_grad():
        for _ in range(repeats + 1):
            pair = []
            for forces in both:
                began = time.perf_counter()
                forces(structures)
                pair.append(1000 * (time.perf_counter() - began) / batch)
            pairs.append(pair)
    times = np.array(pairs[1:])
    stack, ours = np.median(times, axis=0).tolist()
    return {"stack": stack, "ours": ours, "ratio": float(np.median(times[:, 0] / times[:, 1]))}


def forces_by(name: str, mode: str) -> Callable[[list[Atoms]], object]:
    """From structures to forces, tokens included."""
    extract = ADAPTFeatureExtractor()
    if name == PUBLISHED_STACK:
        stack = PublishedStack().eval()

        def published(structures: list[Atoms]) -> object:
            inputs = extract(structures)
            return stack(inputs["input_features"], inputs["attention_mask"] == 0)

        return published
    config = preset_config(name)
    model = HEADS[config.model_type](config).eval()
    compiled = mode == "compiled"
    dtype = "float32" if compiled else mode
    model = on_device(model, torch.device("cpu"), dtype, compiled)
    extract = ADAPTFeatureExtractor.for_model(config)
    exact = "float64" if dtype == "float64" else "float32"
    return lambda structures: forces_of(model, **extract(structures, dtype=exact))


def matrix_rate() -> float:
    """Operations per second of a float32 matrix multiplication, now."""
    left = torch.rand(MATRIX, MATRIX)
    began = time.perf_counter()
    left @ left
    return 2 * MATRIX**3 / (time.perf_counter() - began)


def rattled_silicon(num_atoms: int) -> Atoms:
    """Silicon with 0.05 Å of noise: a box of cubic cells, and interstitials up to `num_atoms`."""
    count = num_atoms // 8
    boxes = [
        (a, b, count // (a * b)) for a in range(1, count + 1) for b in range(a, count + 1) if count % (a * b) == 0
    ]
    cells = min(boxes, key=sum)  # the most cubic one
    atoms = bulk("Si", a=5.43, cubic=True) * cells
    free = bulk("Si", a=5.43, cubic=True).positions[:1] + 2.715  # tetrahedral sites
    for number in range(num_atoms - len(atoms)):
        offset = np.unravel_index(number, cells)
        atoms += Atoms("Si", positions=free + 5.43 * np.array(offset))
    atoms.rattle(0.05, seed=0)
    return atoms


def in_own_process(model: str, mode: str, atoms: int, batch: int, repeats: int, threads: int) -> dict[str, Any]:
    """[`measure`] where no earlier measurement has left its memory behind."""
    case = f"{model},{mode},{atoms},{batch}"
    command = [sys.executable, __file__, "--measure", case, "--repeats", str(repeats), "--threads", str(threads)]
    return json.loads(run(command).splitlines()[-1])


def mace(arguments: argparse.Namespace) -> dict[int, float]:
    """Milliseconds per structure of MACE, by batch size."""
    script = Path(__file__).with_name("mace_forces.py")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "silicon.extxyz"
        ase.io.write(file, rattled_silicon(ATOMS))
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
