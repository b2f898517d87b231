"""
Time of a training step and of forces, beside the published layer stack in the same run, and memory of forces.

    python benchmarks/training.py

A step is forward, backward and Adam on 217 atoms, as `train.py` does it; the two networks take turns, and medians
count. The last table holds what the batch loader takes of the time of a step.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk
from published_stack import PublishedStack
from torch.utils.data import DataLoader
from tqdm import tqdm

from experiments.forces_cost import forget_peak, peak_megabytes
from modeling_adapt import ADAPTFeatureExtractor, ADAPTForForces
from modeling_adapt.cli.command_line import CommandParser, run_command, whole_number
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.batching import StructureCollator, StructureDataset
from modeling_adapt.data.load.importance import ImportanceWeighting
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.structures import structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.tables import format_table
from modeling_adapt.training.arguments import preset_config

ATOMS, BATCHES, SIZES = 217, (16, 64), (217, 1000, 4000)
FIT_SIZES = (1000, 2000, 4000, 10_000)


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, "example:\n  python benchmarks/training.py --repeats 5")
    parser.add_argument("--repeats", type=whole_number(1), default=7, help="the median counts (default %(default)s)")
    parser.add_argument("--threads", type=whole_number(1), default=2, help="of the processor (default %(default)s)")
    parser.add_argument("--device", default="cpu", help="of the training steps (default %(default)s)")
    parser.add_argument("--bfloat16", action="store_true", help="steps under autocast, too; slow where a CPU lacks it")
    parser.add_argument("--table", choices=("steps", "forces", "loader"), help="only this one")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # forces of one network and size in their own process
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        network, atoms = arguments.measure.split(",")
        print(json.dumps(measure_forces(network, int(atoms), arguments.repeats)))
        return
    tables: dict[str, Callable[[], str]] = {
        "steps": lambda: training_steps(arguments.repeats, torch.device(arguments.device), arguments.bfloat16),
        "forces": lambda: forces(arguments.repeats, arguments.threads),
        "loader": lambda: loader_share(arguments.repeats),
    }
    for name in [arguments.table] if arguments.table else tables:
        print(tables[name](), flush=True)
    print(f"{arguments.threads} threads, medians of {arguments.repeats}")


def tokens(atoms: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens (B, N, 12) of the size of real ones, and labels (B, N, 3); the last two atoms are padding."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand((batch, atoms, 12), generator=generator) * 16
    labels = torch.rand((batch, atoms, 3), generator=generator) - 0.5
    labels[:, -2:] = -100
    return features, labels


def training_steps(repeats: int, device: torch.device, bfloat16: bool) -> str:
    rows = []
    for batch in BATCHES:
        seconds = take_turns(steps_of(batch, device, bfloat16), repeats)
        for name, duration in seconds.items():
            ratio = seconds["published stack"] / duration
            rows.append((name, str(batch), f"{1000 * duration / batch:.1f}", f"{ratio:.2f}"))
    return format_table(("training step, 217 atoms", "batch", "ms/structure", "times as fast"), rows)


def steps_of(batch: int, device: torch.device, bfloat16: bool = False) -> dict[str, Callable[[], None]]:
    features, labels = (values.to(device) for values in tokens(ATOMS, batch))
    is_atom = labels[..., 0] != -100
    published = PublishedStack().to(device).train()
    with_dropout = preset_config("published-small", {"attention_probs_dropout_prob": 0.05})
    same = ADAPTForForces(with_dropout).to(device).train()
    ours = ADAPTForForces(preset_config("published-small")).to(device).train()
    inputs = {"attention_mask": is_atom.long(), "labels": labels, "importance_weights": is_atom.float()}

    def published_loss() -> torch.Tensor:
        predicted, _ = published(features, ~is_atom)
        return (torch.linalg.vector_norm(predicted - labels, dim=-1) * is_atom).sum()

    def bfloat16_loss() -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return ours(features, **inputs).loss

    steps = {
        "published stack": step_of(published, published_loss, device),
        "ADAPT, attention dropout too": step_of(same, lambda: same(features, **inputs).loss, device),
        "ADAPT": step_of(ours, lambda: ours(features, **inputs).loss, device),
    }
    if bfloat16:
        steps["ADAPT, bfloat16"] = step_of(ours, bfloat16_loss, device)
    return steps


def step_of(model: torch.nn.Module, loss: Callable[[], torch.Tensor], device: torch.device) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-5)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def take_turns(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, measured one after the other and again, so that a noisy machine disturbs all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in tqdm(range(repeats), disable=None, leave=False):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - began)
    return {name: float(np.median(values)) for name, values in times.items()}


def forces(repeats: int, threads: int) -> str:
    """Each network and size in a process of its own, where no earlier measurement has left its memory behind."""
    rows, memory = [], {}
    for atoms in sorted({*SIZES, *FIT_SIZES}):
        found = {}
        for network in ("published stack", "ADAPT") if atoms in SIZES else ("ADAPT",):
            options = ["--repeats", str(repeats), "--threads", str(threads), "--measure", f"{network},{atoms}"]
            run = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True)
            if run.returncode:
                raise InputError(f"measuring {network} failed: {(run.stderr.splitlines() or ['?'])[-1]}")
            found[network] = json.loads(run.stdout.splitlines()[-1])
        for network, (seconds, grown) in found.items():
            faster = f"{found['published stack'][0] / seconds:.2f}" if "published stack" in found else "-"
            rows.append((network, str(atoms), f"{1000 * seconds:.0f}", faster, f"{grown:.0f}"))
        memory[atoms] = found["ADAPT"][1]
    sizes = np.array(FIT_SIZES, dtype=float)
    exponent = np.polyfit(np.log(sizes), np.log([max(memory[atoms], 0.1) for atoms in FIT_SIZES]), 1)[0]
    table = format_table(("forces of one structure", "atoms", "ms", "times as fast", "memory (MB)"), rows)
    return f"{table}\nmemory of ADAPT grows with the number of atoms to the power {exponent:.2f} (from 1,000 on)"


def measure_forces(network: str, atoms: int, repeats: int) -> tuple[float, float]:
    """Median seconds, and the MB by which the process grew over the loaded model."""
    features, _ = tokens(atoms, 1)
    mask = torch.ones((1, atoms), dtype=torch.long)
    model: torch.nn.Module
    if network == "ADAPT":
        model = ADAPTForForces(preset_config("published-small")).eval()
        work = lambda n: model(features[:, :n], mask[:, :n])  # noqa: E731
    else:
        model = PublishedStack().eval()
        work = lambda n: model(features[:, :n], mask[:, :n] == 0)  # noqa: E731
    times = []
    with torch.no_grad():
        work(50)
        forget_peak()
        before = peak_megabytes()
        for _ in range(repeats + 1 if atoms < 4000 else 3):
            began = time.perf_counter()
            work(atoms)
            times.append(time.perf_counter() - began)
    grown = peak_megabytes() - before
    return float(np.median(times[1:])), grown


def loader_share(repeats: int) -> str:
    """The time that a training loop waits for its batches, without workers."""
    rng = np.random.default_rng(0)
    perfect = bulk("Si", a=5.43, cubic=True).repeat(3)
    rows = []
    for _ in range(128):
        atoms = perfect.copy()
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
        rows.append(structure_row(atoms, rng.normal(size=(216, 3)), defect_sites=[perfect.positions[0]]))
    table = []
    with tempfile.TemporaryDirectory() as folder:
        write_dataset({"train": rows}, Path(folder) / "data")
        rows = read_split(Path(folder) / "data", "train")
        for preset in ("published-small", "pairwise-small"):
            config = preset_config(preset)
            structures = StructureDataset(rows, ImportanceWeighting(), cutoff=config.cutoff)
            collator = StructureCollator(ADAPTFeatureExtractor.for_model(config))
            loader = DataLoader(structures, 16, shuffle=True, collate_fn=collator)
            model = ADAPTForForces(config).train()
            optimizer = torch.optim.Adam(model.parameters(), lr=5e-5)
            waited, began = [], time.perf_counter()
            for _ in range(max(1, repeats // 4)):
                asked = time.perf_counter()
                for batch in loader:
                    waited.append(time.perf_counter() - asked)
                    inputs = {key: value for key, value in batch.items() if key not in ("nearest_defect", "rows")}
                    model(**inputs, importance_weights=batch["importance_weights"]).loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    asked = time.perf_counter()
            total = time.perf_counter() - began
            table.append((preset, f"{1 - sum(waited) / total:.2%}", f"{1000 * float(np.median(waited)):.1f}"))
    return format_table(("training loop, batches of 16", "time spent computing", "wait for a batch (ms)"), table)


if __name__ == "__main__":
    sys.exit(run_command(main))
