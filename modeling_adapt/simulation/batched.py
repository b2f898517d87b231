"""
ADAPT as a model of torch-sim, and by its optimisers many relaxations at once: one forward pass moves all structures
of a batch. torch-sim comes with the extra `[batch]`.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_sim as ts
from ase import Atoms
from torch_sim.models.interface import ModelInterface
from torch_sim.optimizers import LBFGSState, fire_init, fire_step, lbfgs_init, lbfgs_step
from transformers import PreTrainedModel

from ..crystal.trained_region import TrainingDomain
from ..errors import InputError
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..loading import require_forces
from ..modeling_adapt import ADAPTForEnergy, forces_of
from ..neighbours_adapt import NeighbourList
from .prediction import input_dtype
from .relaxation import MEMORY, STIFFNESS, RelaxationResult, RelaxationWatch, stiffness_of

ATOMS_ON_CPU = 500  # a larger batch is no faster, and leaves the cache
WASTE = 1.25  # of the places in a batch for each that holds an atom


class ADAPTTorchSimModel(ModelInterface):
    """
    Forces in eV/Å, energies in eV and the stress in eV/Å³ of all structures of a torch-sim state in one forward pass.

    Structures are read as they are: a model with a trained alignment wants them aligned (see [`Aligner`]).

    A force model has no energy: zeros take its place, so let convergence depend on forces alone, as
    `torch_sim.generate_force_convergence_fn` does, and use no thermostat or Monte Carlo on them. It has no stress
    either, so its cells stay. The stress of a structure that is not periodic in all three directions is NaN.

    ```python
    >>> model = ADAPTTorchSimModel(load_model("runs/silicon")[0])
    >>> converged = ts.generate_force_convergence_fn(0.05, include_cell_forces=False)
    >>> final = ts.optimize(list_of_atoms, model, optimizer=ts.Optimizer.fire, convergence_fn=converged)
    ```

    For cells too: `ADAPTTorchSimModel(model, compute_stress=True)` and
    `ts.optimize(..., init_kwargs={"cell_filter": ts.CellFilter.frechet})`.

    Args:
        model ([`ADAPTForForces`] or [`ADAPTForEnergy`]):
            In evaluation mode, on the device where it is to run; one of the energy is pooled.
        compute_stress (`bool`, *optional*): Whether to tell the stress. `None`: where the model has one.
        dtype (`torch.dtype`, *optional*): Of the states, and of forces and stresses. `None`: what the model reads.

    Raises:
        [`InputError`]: The model has no forces, or a stress is asked of one that has none.
    """

    def __init__(
        self, model: PreTrainedModel, compute_stress: bool | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        require_forces(model)
        if compute_stress and not model.config.gives_stress:
            raise InputError("the model has no stress; a pooled energy of architecture 'pairwise' has one")
        self.model = model
        self._device, self._dtype = model.device, dtype or getattr(torch, input_dtype(model))
        self._compute_forces = True
        self._compute_stress = model.config.gives_stress if compute_stress is None else compute_stress
        self._memory_scales_with = "n_atoms" if model.config.cutoff is None else "n_atoms_x_density"
        self.extract = ADAPTFeatureExtractor.for_model(model.config)
        self._lists: list[NeighbourList] = []

    def forward(self, state: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """
        Args:
            state (`torch_sim.SimState`):
                Positions (atoms, 3) in Å, cells (systems, 3, 3) with the vectors as columns, pbc (3,) of all systems.

        Returns:
            `dict[str, torch.Tensor]`: `energy` (systems,) in eV, `forces` (atoms, 3) in eV/Å and, with
            `compute_stress`, `stress` (systems, 3, 3) in eV/Å³.
        """
        counts = torch.bincount(state.system_idx).tolist()
        numbers, positions = (
            np.split(values.detach().cpu().numpy(), np.cumsum(counts[:-1]))
            for values in (state.atomic_numbers, state.positions.double())
        )
        cells, pbc = state.cell.detach().cpu().double().transpose(1, 2).numpy(), state.pbc.cpu().numpy()
        structures = [
            {"atomic_numbers": of, "positions": at, "cell": cell, "pbc": pbc}
            for of, at, cell in zip(numbers, positions, cells, strict=True)
        ]
        if self.extract.cutoff is not None:
            self._lists = self._follow(structures, self.extract.cutoff)
            for structure, known in zip(structures, self._lists, strict=True):
                structure["neighbours"] = known
        inputs = self.extract(structures, dtype=input_dtype(self.model)).to(self._device)
        output = forces_of(self.model, compute_stress=self.compute_stress, **inputs)
        energy = getattr(output, "energy", state.positions.new_zeros(len(counts)))
        forces = output.forces[inputs["attention_mask"].bool()]
        # Energies stay in double: what a relaxation gains is a small difference of them.
        results = {"energy": energy.detach(), "forces": forces.detach().to(self._dtype)}
        return results | ({"stress": output.stress.detach().to(self._dtype)} if self.compute_stress else {})

    def _follow(self, structures: list[dict[str, Any]], cutoff: float) -> list[NeighbourList]:
        """A list of neighbours for each; systems come and go, and those that stay keep their order."""
        lists, at = [], 0
        for structure in structures:
            lattice = np.where(np.reshape(structure["pbc"], (3, 1)), structure["cell"], 0.0)
            old = range(at, len(self._lists))
            found = next((index for index in old if self._lists[index].covers(structure["positions"], lattice)), None)
            lists.append(NeighbourList(cutoff) if found is None else self._lists[found])
            at = at if found is None else found + 1
        return lists


def relax_batched(
    structures: Mapping[str, Atoms],
    model: PreTrainedModel,
    fmax: float = 0.05,
    steps: int = 500,
    domain: TrainingDomain | None = None,
    trajectory: Callable[[str], Path | None] = lambda name: None,
    finish: float | None = None,
) -> Iterator[tuple[str, RelaxationResult]]:
    """
    As [`relax`] for each of `structures`, with a result as soon as its relaxation ends, in the order of their ends;
    the place of one that has ended is taken by the next. The atoms of all structures are free to move.

    Args:
        trajectory (`Callable[[str], Path | None]`, *optional*):
            From a name to the file that receives each frame, or None.
        finish (`float`, *optional*): As in [`relax`].
    """
    # Cells stay. A small change of forces tells the stiffness: no digit of the positions is to be lost.
    precise = torch.float32 if model.device.type == "mps" else torch.float64  # Metal has no float64
    wrapper = ADAPTTorchSimModel(model, compute_stress=False, dtype=precise)
    conservative = isinstance(model, ADAPTForEnergy)
    init, step = (descent_init, descent_step) if conservative else (fire_init, fire_step)
    waiting = sorted(structures, key=lambda name: len(structures[name]), reverse=True)
    room = atoms_at_once(wrapper, structures[waiting[0]]) if waiting else 0
    watches = {
        name: RelaxationWatch(atoms, fmax, domain, trajectory(name), None, steps, finish)
        for name, atoms in structures.items()
    }
    running: list[str] = []
    state: Any = None
    entered: Any
    while running or waiting:
        newcomers = _next(waiting, running, structures, room)
        if newcomers:
            atoms = [structures[name] for name in newcomers]
            entered = init(ts.io.atoms_to_state(atoms, wrapper.device, wrapper.dtype), wrapper)
            yield from _ended(entered, newcomers, watches, conservative)
        if newcomers:
            # Alone: beside others that move already, torch-sim's FIRE halves the first step of a structure.
            entered = step(entered, wrapper)
            yield from _ended(entered, newcomers, watches, conservative)
        if newcomers:
            state = entered if state is None else ts.concatenate_states([state, entered])
            running += newcomers
        if state is not None:
            state = step(state, wrapper)
            yield from _ended(state, running, watches, conservative)
            state = state if running else None


def descent_init(state: ts.SimState, model: ADAPTTorchSimModel) -> LBFGSState:
    return lbfgs_init(state, model, alpha=STIFFNESS)


def descent_step(state: LBFGSState, model: ADAPTTorchSimModel) -> LBFGSState:
    """As a step of [`Descent`], so that a structure relaxes among others as it does alone."""
    state = lbfgs_step(state, model, max_history=MEMORY)
    steps, changes = (history[:, -1].flatten(1) for history in (state.s_history, state.y_history))
    changes, state.alpha = stiffness_of(steps, changes)
    state.y_history[:, -1] = changes.view_as(state.y_history[:, -1])
    return state


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
    conservative: bool,
) -> Iterator[tuple[str, RelaxationResult]]:
    """Shows a step to the watches; takes the structures that have ended out of `state` and `names`."""
    counts = torch.bincount(state.system_idx).tolist()
    positions, forces = (values.detach().cpu().double().split(counts) for values in (state.positions, state.forces))
    energies = state.energy.detach().cpu().tolist()
    over = []
    for index, name in enumerate(names):
        energy = energies[index] if conservative else None
        if watches[name].see(positions[index].numpy(), forces[index].numpy(), energy):
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
