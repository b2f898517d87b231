"""ADAPT as a model of torch-sim, which moves many structures at once; it comes with the extra `[batch]`."""

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch_sim.models.interface import ModelInterface
from transformers import PreTrainedModel

from ..elements_adapt import DESCRIPTORS
from ..loading import require_forces
from ..modeling_adapt import forces_of
from .prediction import input_dtype


class ADAPTTorchSimModel(ModelInterface):
    """
    Forces in eV/Å, and energies in eV, of all structures of a torch-sim state in one forward pass.

    Structures are read as they are: a model with a trained frame wants them in it (see [`FrameFinder`]).

    A force model has no energy: zeros take its place, so let convergence depend on forces alone, as
    `torch_sim.generate_force_convergence_fn` does, and use no thermostat or Monte Carlo on them. There is no stress.

    ```python
    >>> model = ADAPTTorchSimModel(load_model("runs/silicon")[0])
    >>> converged = ts.generate_force_convergence_fn(0.05, include_cell_forces=False)
    >>> final = ts.optimize(list_of_atoms, model, optimizer=ts.Optimizer.fire, convergence_fn=converged)
    ```

    Args:
        model ([`ADAPTForForces`] or pooled [`ADAPTForEnergy`]): in evaluation mode, on the device where it is to run.
    """

    descriptors: torch.Tensor

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        require_forces(model)
        self.model = model
        self._device, self._dtype = model.device, getattr(torch, input_dtype(model))
        self._compute_forces, self._compute_stress = True, False
        # A pairwise model has a cutoff; the others attend to all atoms.
        self._memory_scales_with = "n_atoms_x_density" if model.config.geometry == "pairwise" else "n_atoms"
        self.register_buffer("descriptors", torch.tensor(DESCRIPTORS, dtype=self._dtype, device=self._device))

    def forward(self, state: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """
        Args:
            state (`torch_sim.SimState`): positions (atoms, 3) in Å, cells (systems, 3, 3) with the vectors as columns,
                pbc (3,) of all systems.

        Returns:
            `energy` (systems,) in eV and `forces` (atoms, 3) in eV/Å.
        """
        counts = torch.bincount(state.system_idx).tolist()
        positions = pad_sequence(state.positions.split(counts), batch_first=True)
        numbers = pad_sequence(state.atomic_numbers.split(counts), batch_first=True)
        is_atom = numbers > 0
        cell = state.cell.transpose(1, 2) * state.pbc[:, None]  # zero rows where not periodic
        inputs = {
            "input_features": torch.cat([positions, self.descriptors[numbers]], dim=-1),
            "attention_mask": is_atom.long(),
            "cell": cell,
            "atomic_numbers": numbers,
        }
        output = forces_of(self.model, **inputs)
        energy = getattr(output, "energy", positions.new_zeros(len(counts)))
        # Energies stay in double: what a relaxation gains is a small difference of them.
        return {"energy": energy.detach(), "forces": output.forces[is_atom].detach().to(self._dtype)}
