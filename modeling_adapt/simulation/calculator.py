"""ADAPT as an ASE calculator."""

from collections.abc import Sequence
from pathlib import Path

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from transformers import PreTrainedModel

from ..device import available_device, on_device
from ..errors import InputError
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..loading import load_model
from ..modeling_adapt import ADAPTForEnergy, gives_forces
from .domain import TrainingDomain


class ADAPTCalculator(Calculator):
    r"""
    Forces in eV/Å, and the total energy in eV where an energy model is given, both in float64.

    The forces of [`ADAPTForForces`] are predicted, not derived from an energy: good for relaxing a structure, not for
    molecular dynamics, and of no use to an optimiser with a line search. Without an energy model, asking for the
    energy raises ASE's `PropertyNotImplementedError`. A pooled [`ADAPTForEnergy`] alone gives both, the forces as the
    gradient of its energy, and serves for dynamics too.

    ```python
    >>> atoms.calc = ADAPTCalculator.from_pretrained("runs/silicon/final")
    >>> atoms.get_forces()
    ```

    Args:
        model ([`ADAPTForForces`] or pooled [`ADAPTForEnergy`]):
            Model of the forces; it is moved to `device` and put into evaluation mode.
        energy_model ([`ADAPTForEnergy`], *optional*):
            Energy model, treated likewise.
        energy_feature_extractor ([`ADAPTFeatureExtractor`], *optional*):
            The one that `energy_model` was saved with; it may have an order of atoms of its own.
        device (`str` or `torch.device`, defaults to `"cpu"`):
            Where the models run.
    """

    # The network sees elements, positions and the cell, nothing else.
    ignored_changes = {"initial_charges", "initial_magmoms"}

    def __init__(
        self,
        model: PreTrainedModel,
        energy_model: PreTrainedModel | None = None,
        device: str | torch.device = "cpu",
        energy_feature_extractor: ADAPTFeatureExtractor | None = None,
    ) -> None:
        super().__init__()
        self.device = available_device(str(device))
        self.model = on_device(model, self.device)
        self.energy_model = None if energy_model is None else on_device(energy_model, self.device)
        self.feature_extractor = ADAPTFeatureExtractor()
        self.energy_feature_extractor = energy_feature_extractor or self.feature_extractor
        self.conservative = isinstance(model, ADAPTForEnergy)
        if not gives_forces(model):
            raise InputError("the published energy network gives no forces; name a force model or a pooled energy")
        if self.conservative and energy_model is not None:
            raise InputError("a pooled energy model gives forces and energies; a second energy model is too much")
        has_energy = self.conservative or energy_model is not None
        self.implemented_properties = ["energy", "forces"] if has_energy else ["forces"]

    @classmethod
    def from_pretrained(
        cls, model: str | Path, energy_model: str | Path | None = None, device: str | torch.device = "cpu"
    ) -> "ADAPTCalculator":
        """
        Args:
            model (`str` or `Path`): folder or Hub id of a force checkpoint, or of one of a pooled energy.
            energy_model (`str` or `Path`, *optional*): folder or Hub id of an energy checkpoint.
            device (`str` or `torch.device`): where the models run.

        Raises:
            [`InputError`]: a checkpoint does not exist, does not load, or has the other head; no such device.
        """
        energy, extractor = (None, None) if energy_model is None else load_model(energy_model, ADAPTForEnergy)
        return cls(load_model(model)[0], energy, device, extractor)

    @property
    def domain(self) -> TrainingDomain | None:
        """The trained region of the force model, where its checkpoint records one."""
        values = self.model.config.training_domain
        return None if values is None else TrainingDomain.from_dict(values)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("forces",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """ASE's entry point: fills `self.results` with the properties asked for.

        Raises:
            [`InputError`]: a structure that the model cannot read; the message names the atom.
        """
        super().calculate(atoms, properties, system_changes)
        try:
            inputs = self.feature_extractor(self.atoms).to(self.device)
            with torch.no_grad():
                if self.conservative:
                    outputs = self.model(**inputs, compute_forces=True)
                    self.results["energy"] = outputs.energy.item()
                    self.results["forces"] = outputs.forces[0].cpu().double().numpy()
                    return
                if "forces" in properties:
                    self.results["forces"] = self.model(**inputs).forces[0].cpu().double().numpy()
                if "energy" in properties and self.energy_model is not None:
                    inputs = self.energy_feature_extractor(self.atoms).to(self.device)
                    self.results["energy"] = self.energy_model(**inputs).energy.item()
        except ValueError as error:
            raise InputError(str(error)) from error

    def _get_name(self) -> str:
        return "adapt"


__all__ = ["ADAPTCalculator"]
