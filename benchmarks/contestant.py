"""
One contestant of `compare.py`, which starts it in the environment that has it: reads cases from the standard input,
one line of JSON each, and answers each with what one call cost. What one calls is prepared once and kept, so that
contestants can take turns.
"""

import functools
import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], Any]  # what is measured; returns forces (B, N, 3), or nothing
MATRIX = 1024  # of the multiplications that measure the machine


def main(name: str, mode: str, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    works_of = CONTESTANTS.get(name, adapt)(name, mode)
    kept = functools.cache(lambda work, atoms, batch: works_of[work](structures(atoms, batch)))
    loaded, seen = megabytes("VmRSS"), set()
    print("ready", flush=True)
    for line in sys.stdin:
        case, answer = tuple(json.loads(line).values()), {}
        if case[0] in works_of:
            answer = measured(kept(*case))
            if case not in seen:
                answer |= {"mb": answer["peak"] - loaded, "operations": operations(kept(*case), name, mode)}
            seen.add(case)
        print(json.dumps(answer), flush=True)


def measured(work: Work) -> dict[str, Any]:
    """Seconds of the wall and of the processor, memory at its largest in MB, and forces of the first structure."""
    forget_peak()
    wall, processor = time.perf_counter(), time.process_time()
    forces = work()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    peak, first = megabytes("VmHWM"), None if forces is None else np.asarray(forces[0], dtype=float).tolist()
    return {"wall": wall, "processor": processor, "peak": peak, "forces": first, "rate": rate()}


def operations(work: Work, name: str, mode: str) -> int | None:
    """Of the multiplications of matrices; compiled graphs and the fast path of nn.MultiheadAttention hide theirs."""
    if mode == "compiled" or name in CONTESTANTS:
        return None
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def rate() -> float:
    """Operations a second of a multiplication of float32 matrices, now, by the processor's time."""
    left = torch.ones(MATRIX, MATRIX)
    began = time.process_time()
    left @ left
    return 2 * MATRIX**3 / (time.process_time() - began)


def forget_peak() -> None:
    """From now on the peak of the memory is counted anew, on Linux; elsewhere it is of the whole process."""
    if (switch := Path("/proc/self/clear_refs")).exists():
        switch.write_text("5")


def megabytes(field: str) -> float:
    """Resident memory of this process, now ("VmRSS") or at its largest ("VmHWM")."""
    if not (status := Path("/proc/self/status")).exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def structures(atoms: int, batch: int) -> list[Atoms]:
    """As many, each with noise of its own, so that ragged numbers of pairs are in it."""
    return [rattled_silicon(atoms, seed) for seed in range(batch)]


def rattled_silicon(num_atoms: int, seed: int = 0) -> Atoms:
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
    atoms.rattle(0.05, seed=seed)
    return atoms


def adapt(name: str, mode: str) -> dict[str, Callable[[list[Atoms]], Work]]:
    """A preset with random weights, or a checkpoint: forces, the making of pairs included, and training steps."""
    from modeling_adapt.device import keep_freed_memory, on_device
    from modeling_adapt.feature_extraction_adapt import ADAPTFeatureExtractor
    from modeling_adapt.loading import HEADS, load_model
    from modeling_adapt.modeling_adapt import forces_of
    from modeling_adapt.training.arguments import PRESETS, preset_config

    keep_freed_memory()  # as commands do
    if (PRESETS / f"{name}.json").is_file():
        config = preset_config(name)
        model = HEADS[config.model_type](config)
    else:
        model = load_model(name)[0]
        config = model.config
    extract = ADAPTFeatureExtractor.for_model(config)
    model = on_device(model, torch.device("cpu"), "float64" if mode == "float64" else None, mode == "compiled")
    exact = "float64" if mode == "float64" else "float32"

    def forces(given: list[Atoms]) -> Work:
        def call() -> Any:
            model.eval()
            with precision(mode):
                return forces_of(model, **extract(given, dtype=exact)).forces.numpy()

        return call

    def step(given: list[Atoms]) -> Work:
        inputs = dict(extract(given))
        forces, energies = torch.zeros(len(given), len(given[0]), 3), torch.zeros(len(given))
        inputs |= (
            {"labels": forces} if config.predicts == "forces" else {"labels": energies, "reference_forces": forces}
        )
        return training_step(model, lambda: model(**inputs).loss, mode)

    return {"forces": forces, "training": step}


def precision(mode: str) -> Any:
    """Within it products are made in this mode."""
    return torch.autocast("cpu", torch.bfloat16) if mode == "bfloat16" else nullcontext()


def training_step(model: torch.nn.Module, loss: Callable[[], torch.Tensor], mode: str) -> Work:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)

    def step() -> None:
        model.train()
        with precision(mode):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def published_stack(name: str, mode: str) -> dict[str, Callable[[list[Atoms]], Work]]:
    """The layers of the published force network as its code builds them, with random weights."""
    from published_stack import PublishedStack

    from modeling_adapt.feature_extraction_adapt import ADAPTFeatureExtractor

    stack, extract = PublishedStack().eval(), ADAPTFeatureExtractor()

    def forces(given: list[Atoms]) -> Work:
        def call() -> Any:
            stack.eval()
            inputs = extract(given)
            with torch.no_grad(), precision(mode):
                return stack(inputs["input_features"], inputs["attention_mask"] == 0)[0].float().numpy()

        return call

    def step(given: list[Atoms]) -> Work:
        inputs = extract(given)
        tokens, padding = inputs["input_features"], inputs["attention_mask"] == 0
        return training_step(stack, lambda: torch.linalg.vector_norm(stack(tokens, padding)[0], dim=-1).mean(), mode)

    return {"forces": forces, "training": step}


def mace(name: str, mode: str) -> dict[str, Callable[[list[Atoms]], Work]]:
    """A MACE of 64 scalar channels with random weights; its lists of neighbours are part of the work."""
    from mace.tools import AtomicNumberTable
    from mace_training import graphs, scalar_mace

    torch.set_default_dtype(torch.float32)
    model, table = scalar_mace([14], 64, np.zeros(1)), AtomicNumberTable([14])

    def forces(given: list[Atoms]) -> Work:
        def call() -> Any:
            found = model(graphs(given, table), compute_force=True)["forces"].detach().numpy()
            return found.reshape(len(given), -1, 3)

        return call

    def step(given: list[Atoms]) -> Work:
        inputs = graphs(given, table)
        return training_step(
            model, lambda: model(inputs, training=True, compute_force=True)["forces"].square().mean(), mode
        )

    return {"forces": forces, "training": step}


def sevennet(name: str, mode: str) -> dict[str, Callable[[list[Atoms]], Work]]:
    """SevenNet-0, whose weights come in its package."""
    from sevenn.calculator import SevenNetCalculator

    return {"forces": functools.partial(one_by_one, SevenNetCalculator("7net-0", device="cpu"))}


def chgnet(name: str, mode: str) -> dict[str, Callable[[list[Atoms]], Work]]:
    """CHGNet, whose weights come in its package; its magnetic moments and stress are left out."""
    from chgnet.model.dynamics import CHGNetCalculator

    calculator = CHGNetCalculator(use_device="cpu", on_isolated_atoms="ignore")
    return {"forces": functools.partial(one_by_one, calculator, task="ef")}


def adapt_calculator(name: str, mode: str) -> dict[str, Callable[[list[Atoms]], Work]]:
    """The model in the box as others are used: with its doubt, its domain check and ASE's own work."""
    from modeling_adapt.simulation.calculator import ADAPTCalculator

    return {"forces": functools.partial(one_by_one, ADAPTCalculator(outside_domain="ignore"))}


def one_by_one(calculator: Any, given: list[Atoms], **options: Any) -> Work:
    """Forces by a calculator of ASE, of structures that move a little each time."""

    def call() -> Any:
        found = []
        for atoms in given:
            calculator.calculate(atoms, ["energy", "forces"], ["positions"], **options)
            found.append(calculator.results["forces"])
        return np.array(found)

    return call


CONTESTANTS = {
    "published stack": published_stack,
    "MACE 64x0e": mace,
    "SevenNet-0": sevennet,
    "CHGNet": chgnet,
    "adapt-si, calculator": adapt_calculator,
}

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
