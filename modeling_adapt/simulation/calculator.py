"""ADAPT as an ASE calculator."""

import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from transformers import PreTrainedModel

from ..crystal.alignment import Aligner
from ..crystal.trained_region import TrainingDomain
from ..device import available_device, on_device
from ..errors import InputError
from ..feature_extraction_adapt import ADAPTFeatureExtractor, require_charges_read, require_readable
from ..hub_access import is_local, revision_for
from ..loading import load_model, require_forces
from ..modeling_adapt import ADAPTForEnergy
from ..neighbours_adapt import NeighbourList
from ..pretrained_adapt import DEFAULT_MODEL
from .doubt import Doubt, load_doubt
from .prediction import input_dtype, octahedral_operations, predict, structure_of

OutsideDomain = Literal["raise", "warn", "ignore"]


class OutsideDomainWarning(UserWarning):
    """A structure is unlike all that the model was trained on."""


class ADAPTCalculator(Calculator):
    r"""
    Forces in eV/Å, and the total energy in eV where an energy model is given, both in float64.

    The forces of [`ADAPTForForces`] are predicted, not derived from an energy: good for relaxing a structure, not for
    molecular dynamics, and of no use to an optimiser with a line search. Without an energy model, asking for the
    energy raises ASE's `PropertyNotImplementedError`. A pooled [`ADAPTForEnergy`] alone gives both, the forces as the
    gradient of its energy, and serves for dynamics too. It has `free_energy`, which is the energy, and `energies`,
    those of the atoms; the pairwise one also `stress` in eV/Å³, by which ASE's cell filters relax the cell. A
    structure that is not periodic in all three directions has none: asking for it raises that error too.

    ```python
    >>> atoms.calc = ADAPTCalculator.from_pretrained("runs/silicon")
    >>> atoms.get_forces()
    ```

    A model that reads coordinates, and was trained on one crystal in one cell, gets every structure aligned with
    that training: turned, shifted and wrapped copies of a structure have the same forces, turned back (see
    [`Aligner`]). Of several models the alignment of the first counts.

    With several models, or several symmetry images, forces are means, and `results["forces_std"]` (N,) holds the
    spread of each atom in eV/Å; see [`predict`].

    Where the model of the energy has a [`Doubt`], `results["energy_uncertainty"]` is the standard deviation of the
    energy in eV, and `results["atom_doubt"]` (N,) says how unlike those of the training each atom is: 99 of 100 of
    these are below 1. If the forces are of this model, `results["forces_uncertainty"]` (N,) is the expected root mean
    square error of the force on each atom, a vector, in eV/Å.

    Args:
        model ([`ADAPTForForces`], [`ADAPTForEnergy`] or `Sequence[PreTrainedModel]`, *optional*):
            Model of the forces, or a pooled one of the energy, or several of one kind; it is moved to `device` and put
            into evaluation mode. `None`: the silicon model that comes with the package.
        energy_model ([`ADAPTForEnergy`], *optional*): Energy model, treated likewise.
        energy_feature_extractor ([`ADAPTFeatureExtractor`], *optional*):
            The one that `energy_model` was saved with; it may have an order of atoms of its own.
        outside_domain (`str`, defaults to `"warn"`):
            What happens to a structure outside the region that the (first) model was trained on: `"raise"` an
            [`InputError`], `"warn"` once for each structure and kind of finding ([`OutsideDomainWarning`]), or
            `"ignore"`. Warnings name the structure by its formula and its `info["name"]`; those without one are
            numbered, as Python shows no warning twice.
        num_images (`int`, defaults to `1`): Symmetry images to average over, at most 48.
        device (`str` or `torch.device`, *optional*): Where the models run; `None`: on a GPU where there is one.
        dtype (`str`, *optional*):
            `"float32"`, `"bfloat16"` or `"float64"` for the weights; as they are by default. `"float64"`, where
            positions are not rounded either, is for finite differences. `"mixed"`: products in bfloat16 of weights in
            float32; `"auto"`: that where it is measured to pay, see [`MixedPrecision`].
        compiled (`bool`, defaults to `False`):
            Whether `torch.compile` makes kernels for the models at the first call, which takes a minute or so.
        doubt ([`Doubt`], *optional*): Of the model of the energy; of no use where that is an ensemble.
        charge (`float`, *optional*):
            Total charge of every structure in elementary charges, for models that read charges. `None`: what
            `atoms.info["charge"]` says, and 0 where it says nothing. With 0, a model that knows no charges takes a
            charged structure for a neutral one; otherwise that is an error.
    """

    # The network sees elements, positions and the cell, nothing else.
    ignored_changes = {"initial_charges", "initial_magmoms"}

    def __init__(
        self,
        model: PreTrainedModel | Sequence[PreTrainedModel] | None = None,
        energy_model: PreTrainedModel | None = None,
        device: str | torch.device | None = None,
        energy_feature_extractor: ADAPTFeatureExtractor | None = None,
        outside_domain: OutsideDomain = "warn",
        num_images: int = 1,
        dtype: str | None = None,
        compiled: bool = False,
        doubt: Doubt | None = None,
        charge: float | None = None,
    ) -> None:
        super().__init__()
        self.charge = charge
        if outside_domain not in get_args(OutsideDomain):
            raise InputError(f"outside_domain must be raise, warn or ignore, not {outside_domain!r}")
        try:
            octahedral_operations(num_images)
        except ValueError as error:
            raise InputError(str(error)) from error
        self.device = available_device(None if device is None else str(device))
        if model is None:
            model, doubt = load_model(DEFAULT_MODEL)[0], load_doubt(DEFAULT_MODEL)
        models = [model] if isinstance(model, PreTrainedModel) else list(model)
        if not models:
            raise InputError("there is no model; give at least one")
        if energy_model is not None and not isinstance(energy_model, ADAPTForEnergy):
            raise InputError(f"a {type(energy_model).__name__} gives no energies; energy_model is an ADAPTForEnergy")
        self.models = [on_device(one, self.device, dtype, compiled) for one in models]
        self.outside_domain, self.num_images, self.compiled = outside_domain, num_images, compiled
        # Of which structure, what it is called, and what was said of it.
        self._warned: dict[int, tuple[weakref.ref[Atoms], str, set[str]]] = {}
        self._unnamed = 0  # that were warned of
        self._warned_of_dynamics = False
        self._aligner = Aligner.of(models[0].config.training_domain)
        self._moving: weakref.ref[Atoms] | None = None  # whose motion the aligners follow
        self._energy_aligner = Aligner.of(None if energy_model is None else energy_model.config.training_domain)
        self.energy_model = None if energy_model is None else on_device(energy_model, self.device, dtype, compiled)
        self.feature_extractor = _extractor(models)
        cutoff = self.feature_extractor.cutoff
        self._near = None if cutoff is None else NeighbourList(cutoff)
        self.energy_feature_extractor = energy_feature_extractor or _extractor([energy_model or models[0]])
        self.conservative = isinstance(models[0], ADAPTForEnergy)
        self.low_precision = dtype in ("mixed", "auto") or any(one.dtype.itemsize < 4 for one in self.models)
        for one in models:
            require_forces(one)
        if len({isinstance(one, ADAPTForEnergy) for one in models}) > 1:
            raise InputError("an ensemble is of force models or of pooled energies, not of both")
        if self.conservative and energy_model is not None:
            raise InputError("a pooled energy model gives forces and energies; a second energy model is too much")
        has_energy = self.conservative or energy_model is not None
        self.implemented_properties = ["energy", "forces"] if has_energy else ["forces"]
        if self.conservative:
            self.implemented_properties += ["free_energy", "energies"]
            self.implemented_properties += ["stress"] if all(one.config.gives_stress for one in models) else []
        self._wants_stress = False  # who asked for it once will ask again, and not want another pass for it
        self.doubt = doubt if has_energy and (energy_model is not None or len(models) == 1) else None

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | Sequence[str | Path] = DEFAULT_MODEL,
        energy_model: str | Path | None = None,
        device: str | torch.device | None = None,
        outside_domain: OutsideDomain = "warn",
        num_images: int = 1,
        dtype: str | None = None,
        compiled: bool = False,
        revision: str | None = None,
        subfolder: str = "",
        energy_subfolder: str = "",
        energy_revision: str | None = None,
        charge: float | None = None,
    ) -> "ADAPTCalculator":
        """
        ```python
        >>> ADAPTCalculator.from_pretrained(
        ...     "org/adapt-si", energy_model="org/adapt-si", energy_subfolder="energy", revision="v1"
        ... )
        ```

        Args:
            model (`str`, `Path` or `Sequence[str | Path]`, defaults to `DEFAULT_MODEL`):
                Folder or Hub id of a force checkpoint, or of a pooled energy; or several.
            energy_model (`str` or `Path`, *optional*): Folder or Hub id of an energy checkpoint.
            device (`str` or `torch.device`, *optional*): Where the models run; `None`: on a GPU where there is one.
            outside_domain, num_images, dtype, compiled, charge: As for the class.
            revision (`str`, *optional*):
                Branch, tag or commit of every Hub repository that is named; folders are taken as they are.
            energy_revision (`str`, *optional*): That of `energy_model`, where it is another one.
            subfolder, energy_subfolder (`str`, defaults to `""`):
                Where in `model` and in `energy_model` the checkpoint is.

        Raises:
            [`InputError`]: A checkpoint does not exist, does not load, or has the other head; a `revision` where there
                are only folders; no such device.
        """
        names = [model] if isinstance(model, str | Path) else list(model)
        pinned = names if energy_model is None or energy_revision is not None else [*names, energy_model]
        if revision is not None and all(map(is_local, pinned)):
            raise InputError(f"{names[0]} is a folder, which has no revision {revision}")
        if energy_revision is not None and energy_model is None:
            raise InputError(f"the energy revision {energy_revision} is of an energy model, and none is named")

        energy, extractor, doubt = None, None, None
        if energy_model is not None:
            where = (energy_subfolder, energy_revision or revision_for(energy_model, revision))
            energy, extractor = load_model(energy_model, ADAPTForEnergy, *where)
            doubt = load_doubt(energy_model, energy_subfolder, _commit(energy) or where[1])
        models = [load_model(name, None, subfolder, revision_for(name, revision))[0] for name in names]
        if len(names) == 1 and isinstance(models[0], ADAPTForEnergy):
            doubt = load_doubt(names[0], subfolder, _commit(models[0]) or revision_for(names[0], revision))
        return cls(models, energy, device, extractor, outside_domain, num_images, dtype, compiled, doubt, charge)

    @property
    def model(self) -> PreTrainedModel:
        """The force model; of an ensemble the first."""
        return self.models[0]

    @property
    def reads_charge(self) -> bool:
        """Whether all models read the charge of a structure."""
        models = (*self.models, *filter(None, [self.energy_model]))
        return all(one.config.reads_charge for one in models)

    @property
    def domain(self) -> TrainingDomain | None:
        """The trained region of the force model, where its checkpoint records one."""
        values = self.model.config.training_domain
        return None if values is None else TrainingDomain.from_dict(values)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """ASE's; where there is no energy or no stress, the error says why."""
        if name in ("energy", "free_energy") and "energy" not in self.implemented_properties:
            raise PropertyNotImplementedError(
                "this model has forces and no energy, for which ASE's optimisers ask: relax with "
                "modeling_adapt.simulation.relaxation.relax(atoms, calculator), or give an energy_model"
            )
        if name == "stress" and "stress" not in self.implemented_properties:
            raise PropertyNotImplementedError(
                "this model has no stress, and relaxes no cell; a pooled energy of architecture 'pairwise' does"
            )
        structure = self.atoms if atoms is None else atoms
        if name == "stress" and structure is not None and not structure.pbc.all():
            raise PropertyNotImplementedError("only a structure that is periodic in all three directions has a stress")
        return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("forces",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """ASE's entry point: fills `self.results` with the properties asked for.

        Raises:
            [`InputError`]: A structure that the model cannot read; the message names the atom. Or one outside the
                trained region, with `outside_domain="raise"`.
        """
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None  # ASE has just copied it there
        structure = self.as_read(self.atoms)
        moves = atoms is not None and self._moving is not None and self._moving() is atoms
        if atoms is not None and not moves:
            self._moving = weakref.ref(atoms)
            self._aligner.forget()
            self._energy_aligner.forget()
        try:
            require_readable(structure)  # before anything looks at it
            self._check_domain(structure, structure if atoms is None else atoms)
            self._check_dynamics(structure)
            features = None
            if self.conservative or "forces" in properties:
                self._wants_stress |= "stress" in properties and "stress" in self.implemented_properties
                prediction = predict(
                    *(self.models, self.feature_extractor, structure, self.num_images, self._aligner),
                    stress=self._wants_stress,
                    features=self.conservative and self.doubt is not None,
                    neighbours=self._near if moves else None,
                )
                found = dict(vars(prediction))
                features = found.pop("features")
                self.results.update({name: value for name, value in found.items() if value is not None})
                if self.conservative:
                    self.results["free_energy"] = prediction.energy
                if prediction.stress is not None:
                    self.results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress)
            if "energy" in properties and self.energy_model is not None:
                wants = self.doubt is not None
                output = self._of_energy_model(self.energy_model, structure, self._energy_aligner, wants)
                self.results["energy"] = output.energy.item()
                features = output.features[0].cpu().double().numpy() if wants else None
            if features is not None and self.doubt is not None:
                self.results["energy_uncertainty"] = float(self.doubt.deviation(features.sum(axis=0)))
                self.results["atom_doubt"] = self.doubt.of_atoms(features)
                if self.conservative and self.doubt.of_forces is not None:
                    self.results["forces_uncertainty"] = self.doubt.of_forces * self.results["atom_doubt"]
        except ValueError as error:
            raise InputError(str(error)) from error

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """ASE's, which does not look at the charge."""
        changes = super().check_state(atoms, tol)
        same = self.atoms is None or atoms.info.get("charge") == self.atoms.info.get("charge")
        return changes if same or self.charge is not None else [*changes, "charge"]

    def as_read(self, atoms: Atoms) -> Atoms:
        """
        `atoms` with the charge of this calculator, if it has one. Raises [`InputError`] for a charge that one of its
        models does not read.
        """
        if self.charge is not None:
            atoms = atoms.copy()
            atoms.info["charge"] = self.charge
        try:
            for one in (*self.models, *filter(None, [self.energy_model])):
                require_charges_read([atoms], one.config.reads_charge)
        except ValueError as error:
            raise InputError(str(error)) from error
        return atoms

    def features(self, atoms: Atoms) -> np.ndarray:
        """What the last layer of the energy reads of each atom, (N, D), for [`Doubt`]."""
        structure = self.as_read(atoms)
        model = self.model if self.energy_model is None else self.energy_model
        aligner = Aligner.of(model.config.training_domain)
        if self.energy_model is None:
            features = predict([model], self.feature_extractor, structure, 1, aligner, features=True).features
            assert features is not None
            return features
        return self._of_energy_model(model, structure, aligner, True).features[0].cpu().double().numpy()

    def _of_energy_model(self, model: PreTrainedModel, structure: Atoms, aligner: Aligner, features: bool) -> Any:
        """What the model for the energy alone says of a structure, with its features for a doubt."""
        mapped, _ = aligner([structure_of(structure)])
        inputs = self.energy_feature_extractor(mapped, dtype=input_dtype(model)).to(self.device)
        with torch.no_grad():
            return model(**inputs, compute_features=features)

    def member_energies(self, atoms: Atoms) -> np.ndarray:
        """The energy of a structure by each of the models in eV, (M,); they are pooled energies."""
        aligner = Aligner.of(self.model.config.training_domain)
        read = self.as_read(atoms)
        each = [predict([one], self.feature_extractor, read, self.num_images, aligner) for one in self.models]
        return np.array([prediction.energy for prediction in each])

    def _check_dynamics(self, atoms: Atoms) -> None:
        """Who integrates motion gives atoms momenta, which no optimiser does."""
        if self.conservative or self._warned_of_dynamics or not atoms.get_momenta().any():
            return
        self._warned_of_dynamics = True
        warnings.warn(
            "these atoms have momenta, as in dynamics, and the forces of this model are the gradient of no energy: "
            "what moves by them heats up or cools down by itself; use a model with a pooled energy",
            stacklevel=4,
        )

    def _check_domain(self, atoms: Atoms, asked: Atoms) -> None:
        """Of `atoms`, a copy of those that were `asked` for, by which it is known which warnings there have been."""
        if self.outside_domain == "ignore" or self.domain is None:
            return
        findings = self.domain.findings(atoms)
        if findings and self.outside_domain == "raise":
            raise InputError("; ".join(findings.values()))
        if not findings:
            return
        known, called, said = self._warned.get(id(asked), (None, "", set[str]()))
        if known is None or known() is not asked:
            called, said = self._called(atoms), set()
            self._warned[id(asked)] = weakref.ref(asked), called, said
        for kind, line in findings.items():
            if kind not in said:
                said.add(kind)
                warnings.warn(f"{called} is outside the trained region: {line}", OutsideDomainWarning, stacklevel=3)

    def _called(self, atoms: Atoms) -> str:
        name, formula = atoms.info.get("name"), atoms.get_chemical_formula()
        if name:
            return f"{name} ({formula})"
        self._unnamed += 1
        return formula if self._unnamed == 1 else f"{formula}, structure {self._unnamed},"

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles follow structures of their own."""
        return self.__dict__ | {"_moving": None, "_warned": {}}

    def _get_name(self) -> str:
        return "adapt"


def _commit(model: PreTrainedModel) -> str | None:
    """From which it was loaded, if from a repository: whatever belongs to its weights is of the same one."""
    return getattr(model.config, "_commit_hash", None)


def _extractor(models: Sequence[PreTrainedModel]) -> ADAPTFeatureExtractor:
    """
    Lists the neighbours and waves that the models read, whose own cutoffs decide; no neighbours where one reads
    coordinates.
    """
    cutoffs = [model.config.cutoff for model in models]
    of_waves = [model.config.reciprocal_cutoff or 0.0 for model in models]
    if len(reads_charge := {model.config.reads_charge for model in models}) > 1:
        raise InputError("some of the models read charges and others do not; an ensemble is of one kind")
    return ADAPTFeatureExtractor(
        cutoff=None if None in cutoffs else max(cutoffs),
        reciprocal_cutoff=max(of_waves) or None,
        reads_charge=reads_charge.pop(),
    )


__all__ = ["ADAPTCalculator"]
