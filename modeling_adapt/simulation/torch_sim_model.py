"""ADAPT as a model of torch-sim, which moves many structures at once; it comes with the extra `[batch]`."""

from typing import Any

import numpy as np
import torch
from torch_sim.models.interface import ModelInterface
from transformers import PreTrainedModel

from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..loading import require_forces
from ..modeling_adapt import forces_of
from .prediction import input_dtype


class ADAPTTorchSimModel(ModelInterface):
    """
    Forces in eV/Å, and energies in eV, of all structures of a torch-sim state in one forward pass.

    Structures are read as they are: a model with a trained alignment wants them aligned (see [`Aligner`]).

    A force model has no energy: zeros take its place, so let convergence depend on forces alone, as
    `torch_sim.generate_force_convergence_fn` does, and use no thermostat or Monte Carlo on them. There is no stress.

    ```python
    >>> model = ADAPTTorchSimModel(load_model("runs/silicon")[0])
    >>> converged = ts.generate_force_convergence_fn(0.05, include_cell_forces=False)
    >>> final = ts.optimize(list_of_atoms, model, optimizer=ts.Optimizer.fire, convergence_fn=converged)
    ```

    Args:
        model ([`ADAPTForForces`] or [`ADAPTForEnergy`]):
            In evaluation mode, on the device where it is to run; one of the energy is pooled.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        require_forces(model)
        self.model = model
        self._device, self._dtype = model.device, getattr(torch, input_dtype(model))
        self._compute_forces, self._compute_stress = True, False
        self._memory_scales_with = "n_atoms" if model.config.cutoff is None else "n_atoms_x_density"
        self.extract = ADAPTFeatureExtractor.for_model(model.config)

    def forward(self, state: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """
        Args:
            state (`torch_sim.SimState`):
                Positions (atoms, 3) in Å, cells (systems, 3, 3) with the vectors as columns, pbc (3,) of all systems.

        Returns:
            `dict[str, torch.Tensor]`: `energy` (systems,) in eV and `forces` (atoms, 3) in eV/Å.
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
        inputs = self.extract(structures, dtype=input_dtype(self.model)).to(self._device)
        output = forces_of(self.model, **inputs)
        energy = getattr(output, "energy", state.positions.new_zeros(len(counts)))
        forces = output.forces[inputs["attention_mask"].bool()]
        # Energies stay in double: what a relaxation gains is a small difference of them.
        return {"energy": energy.detach(), "forces": forces.detach().to(self._dtype)}
