"""Many relaxations at once: one forward pass moves all structures of a batch, through the FIRE of torch-sim."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch_sim as ts
from ase import Atoms
from torch_sim.optimizers import CellFireState, FireState, fire_init, fire_step
from transformers import PreTrainedModel

from ..crystal.trained_region import TrainingDomain
from ..modeling_adapt import ADAPTForEnergy
from .relaxation import RelaxationResult, RelaxationWatch
from .torch_sim_model import ADAPTTorchSimModel

ATOMS_ON_CPU = 4_000  # beyond this a larger batch is no faster
WASTE = 1.25  # of the places in a batch for each that holds an atom


def relax_batched(
    structures: Mapping[str, Atoms],
    model: PreTrainedModel,
    fmax: float = 0.05,
    steps: int = 500,
    domain: TrainingDomain | None = None,
    trajectory: Callable[[str], Path | None] = lambda name: None,
) -> Iterator[tuple[str, RelaxationResult]]:
    """
    As [`relax`] for each of `structures`, with a result as soon as its relaxation ends, in the order of their ends;
    the place of one that has ended is taken by the next. The atoms of all structures are free to move.

    Args:
        trajectory (`Callable[[str], Path | None]`, *optional*):
            From a name to the file that receives each frame, or None.
    """
    wrapper = ADAPTTorchSimModel(model)
    conservative = isinstance(model, ADAPTForEnergy)
    waiting = sorted(structures, key=lambda name: len(structures[name]), reverse=True)
    room = atoms_at_once(wrapper, structures[waiting[0]]) if waiting else 0
    watches = {name: RelaxationWatch(structures[name], fmax, domain, trajectory(name)) for name in structures}
    running: list[str] = []
    state: FireState | CellFireState | None = None
    while running or waiting:
        newcomers = _next(waiting, running, structures, room)
        if newcomers:
            atoms = [structures[name] for name in newcomers]
            entered = fire_init(ts.io.atoms_to_state(atoms, wrapper.device, wrapper.dtype), wrapper)
            yield from _ended(entered, newcomers, watches, steps, conservative)
        if newcomers:
            # Alone: beside others that move already, torch-sim halves the first step of a structure.
            entered = fire_step(entered, wrapper)
            yield from _ended(entered, newcomers, watches, steps, conservative)
        if newcomers:
            state = entered if state is None else ts.concatenate_states([state, entered])
            running += newcomers
        if state is not None:
            state = fire_step(state, wrapper)
            yield from _ended(state, running, watches, steps, conservative)
            state = state if running else None


def _next(waiting: list[str], running: list[str], structures: Mapping[str, Atoms], room: int) -> list[str]:
    """
    Takes from `waiting`, largest first, what has room beside `running`, and one structure at least where nothing runs.
    Each takes the room of the largest, to which the model pads it; so those of other sizes wait for a batch of theirs.
    """
    taken: list[str] = []
    largest = max((len(structures[name]) for name in running), default=0)
    for name in list(waiting):
        size = len(structures[name])
        padded = max(largest, size) * (len(running) + len(taken) + 1)
        atoms = sum(len(structures[other]) for other in (*running, *taken, name))
        if (padded <= room and padded <= WASTE * atoms) or not (running or taken):
            taken.append(name)
            waiting.remove(name)
            largest = max(largest, size)
    return taken


def _ended(
    state: ts.SimState,
    names: list[str],
    watches: Mapping[str, RelaxationWatch],
    steps: int,
    conservative: bool,
) -> Iterator[tuple[str, RelaxationResult]]:
    """Shows a step to the watches; takes the structures that have ended out of `state` and `names`."""
    counts = torch.bincount(state.system_idx).tolist()
    positions, forces = (values.detach().cpu().double().split(counts) for values in (state.positions, state.forces))
    energies = state.energy.detach().cpu().tolist()
    over = []
    for index, name in enumerate(names):
        energy = energies[index] if conservative else None
        if watches[name].see(positions[index].numpy(), forces[index].numpy(), energy) or watches[name].steps >= steps:
            over.append(index)
    results = [(names[index], watches[names[index]].result()) for index in over]
    if over:
        state.pop(over)
        for index in reversed(over):
            del names[index]
    yield from results


def atoms_at_once(model: ADAPTTorchSimModel, largest: Atoms) -> int:
    """How many atoms go into a batch: on a GPU what its free memory holds, by the need of the largest structure."""
    if model.device.type != "cuda":
        return max(ATOMS_ON_CPU, len(largest))
    state = ts.io.atoms_to_state([largest], model.device, model.dtype)
    torch.cuda.reset_peak_memory_stats(model.device)
    before = torch.cuda.memory_allocated(model.device)
    model(state)
    each = max(1, torch.cuda.max_memory_allocated(model.device) - before) / len(largest)
    free, _ = torch.cuda.mem_get_info(model.device)
    return max(len(largest), int(0.6 * free / each))
