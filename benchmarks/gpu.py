"""
What a GPU makes of this package, in at most eight minutes: forces, training steps and batched relaxations, each as a
share of the rate at which the device multiplies matrices in that mode, and whether a forward pass ever waits for the
host.

    python benchmarks/gpu.py
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from contestant import rattled_silicon
from torch.utils.flop_counter import FlopCounterMode

from modeling_adapt.cli.command_line import CommandParser, positive_number, run_command
from modeling_adapt.device import available_device
from modeling_adapt.feature_extraction_adapt import ADAPTFeatureExtractor
from modeling_adapt.loading import HEADS
from modeling_adapt.modeling_adapt import forces_of
from modeling_adapt.tables import format_table
from modeling_adapt.training.arguments import preset_config

ATOMS, BATCHES = 217, (1, 16, 64, 256)
PRESETS = ("pairwise-small", "pairwise-energy", "published-small")
MODES = ("float32", "tf32", "bfloat16", "compiled")
MATRIX = 8192
LONGEST = 5.0  # seconds that a single case may take


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, "example:\n  python benchmarks/gpu.py --minutes 4")
    parser.add_argument("--minutes", type=positive_number, default=8.0, help="in all (default %(default)s)")
    parser.add_argument("--device", help="such as cuda:1 (default: the GPU, or the processor where there is none)")
    parser.add_argument("--atoms", type=int, default=ATOMS, help="of a structure (default %(default)s)")
    arguments = parser.parse_args(argv)
    device, end = available_device(arguments.device), time.monotonic() + 60 * arguments.minutes
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    rates = {mode: matrix_rate(device, mode) for mode in MODES[:3]}
    print(f"{name}, torch {torch.__version__}; matrices: " + told(rates), flush=True)
    print(table_of("waits for the host", waits(device, arguments.atoms), end), flush=True)
    for title, cases in (
        ("forces", force_cases(device, arguments.atoms, rates)),
        ("training step", training_cases(device, arguments.atoms, rates)),
        ("relaxation", relaxation_cases(device, arguments.atoms)),
    ):
        print(table_of(title, cases, end), flush=True)


def told(rates: dict[str, float]) -> str:
    return ", ".join(f"{mode} {rate / 1e12:.1f} TFLOP/s" for mode, rate in rates.items())


Case = tuple[tuple[str, ...], Callable[[], tuple[str, ...]]]


def table_of(title: str, cases: Iterator[Case], end: float) -> str:
    """Each case as a line; what there is no time for is counted, and one that does not fit into memory is said."""
    rows, left_out = [], 0
    for names, measure in cases:
        if time.monotonic() > end:
            left_out += 1
            continue
        try:
            rows.append((*names, *measure()))
        except torch.OutOfMemoryError:
            rows.append((*names, "out of memory"))
    width = max(map(len, rows), default=1)
    rows = [(*row, *("",) * (width - len(row))) for row in rows]
    table = format_table((title, *HEADERS.get(title, ())[: width - 1]), rows) if rows else f"{title}: no time"
    return f"{table}\nleft out for want of time: {left_out}\n" if left_out else f"{table}\n"


HEADERS = {
    "waits for the host": ("within a forward pass",),
    "forces": ("mode", "batch", "ms/structure", "structures/s", "of the rate"),
    "training step": ("mode", "batch", "ms/structure", "structures/s", "of the rate"),
    "relaxation": ("structures", "steps/s", "structure steps/s"),
}


def waits(device: torch.device, atoms: int) -> Iterator[Case]:
    for preset in PRESETS:
        yield (preset,), partial(waits_of, preset, device, atoms)


def waits_of(preset: str, device: torch.device, atoms: int) -> tuple[str]:
    if device.type != "cuda":
        return ("not asked: no GPU",)
    model, inputs = model_and_inputs(preset, device, atoms, 2)
    forces_of(model, **inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        forces_of(model, **inputs)
    except RuntimeError as error:
        return (f"yes: {str(error).splitlines()[0]}",)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ("no",)


def force_cases(device: torch.device, atoms: int, rates: dict[str, float]) -> Iterator[Case]:
    for mode in MODES:
        for preset in PRESETS:
            for batch in BATCHES if mode != "compiled" else BATCHES[1:2]:
                yield (preset, mode, str(batch)), partial(forces, preset, mode, batch, device, atoms, rates)


def forces(preset: str, mode: str, batch: int, device: torch.device, atoms: int, rates: dict[str, float]) -> Any:
    model, inputs = model_and_inputs(preset, device, atoms, batch)
    operations = counted(lambda: forces_of(model, **inputs)) if mode != "compiled" else None
    if mode == "compiled":
        model.compile(dynamic=True)
    with running(mode, device):
        seconds = median_seconds(lambda: forces_of(model, **inputs), device)
    return numbers(seconds, batch, operations, rates.get(mode, rates["float32"]))


def training_cases(device: torch.device, atoms: int, rates: dict[str, float]) -> Iterator[Case]:
    for mode in MODES[:3]:
        for preset in PRESETS:
            for batch in BATCHES[1:3]:
                yield (preset, mode, str(batch)), partial(training, preset, mode, batch, device, atoms, rates)


def training(preset: str, mode: str, batch: int, device: torch.device, atoms: int, rates: dict[str, float]) -> Any:
    model, inputs = model_and_inputs(preset, device, atoms, batch)
    labels = torch.zeros(batch, atoms, 3, device=device)
    energies = {"labels": torch.zeros(batch, device=device), "reference_forces": labels}
    inputs |= energies if model.config.predicts == "energy" else {"labels": labels}
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-5)

    def step() -> None:
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    operations = counted(step)
    with running(mode, device):
        seconds = median_seconds(step, device)
    return numbers(seconds, batch, operations, rates[mode])


def relaxation_cases(device: torch.device, atoms: int) -> Iterator[Case]:
    for count in (1, 16, 64):
        yield ("adapt-si", str(count)), partial(relaxation, count, device, atoms)


def relaxation(count: int, device: torch.device, atoms: int) -> tuple[str, ...]:
    try:
        import torch_sim as ts
    except ImportError:
        return ("not measured: install the extra [batch]",)
    from modeling_adapt.loading import load_model
    from modeling_adapt.simulation.batched import ADAPTTorchSimModel, descent_init, descent_step
    from modeling_adapt.simulation.relaxation import MEMORY

    network = load_model("adapt-si")[0].to(device)
    model = ADAPTTorchSimModel(network, compute_stress=False, dtype=torch.float64)  # as `relax_batched` has it
    state = ts.initialize_state([rattled_silicon(atoms - atoms % 8)] * count, device, torch.float64)
    state = descent_init(state, model)
    for _ in range(MEMORY):  # it remembers no more
        state = descent_step(state, model)
    seconds = median_seconds(lambda: descent_step(state, model), device)
    return f"{1 / seconds:.1f}", f"{count / seconds:.1f}"


def model_and_inputs(preset: str, device: torch.device, atoms: int, batch: int) -> tuple[Any, dict[str, Any]]:
    """A preset with random weights, and structures as it reads them, both on the device."""
    config = preset_config(preset)
    model = HEADS[config.model_type](config).to(device).eval()
    return model, dict(ADAPTFeatureExtractor.for_model(config)([rattled_silicon(atoms)] * batch).to(device))


@contextmanager
def running(mode: str, device: torch.device) -> Iterator[None]:
    """Within it products are made in this mode; outside it everything is as before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if mode == "tf32" else "highest")
    try:
        with torch.autocast(device.type, torch.bfloat16) if mode == "bfloat16" else nullcontext():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def counted(work: Callable[[], object]) -> int:
    """Operations of the multiplications of matrices; of those of gradients too."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def matrix_rate(device: torch.device, mode: str) -> float:
    """Operations per second of a multiplication of matrices."""
    size = MATRIX if device.type == "cuda" else MATRIX // 8
    left = torch.rand(size, size, device=device)
    with running(mode, device):
        return 2 * size**3 / median_seconds(lambda: left @ left, device)


def median_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of up to 20 calls after two; the device has finished at each end."""
    times: list[float] = []
    for _ in range(22):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
        if len(times) > 2 and sum(times) > LONGEST:
            break
    return float(np.median(times[2:]))


def numbers(seconds: float, batch: int, operations: int | None, rate: float) -> tuple[str, ...]:
    share = "-" if operations is None else f"{operations / seconds / rate:.0%}"
    return f"{1000 * seconds / batch:.2f}", f"{batch / seconds:.0f}", share


if __name__ == "__main__":
    sys.exit(run_command(main))
