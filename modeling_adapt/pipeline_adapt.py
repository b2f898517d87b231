"""The `atom-forces` pipeline: structures in, forces out, and what else the model tells."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
from transformers import Pipeline

from .feature_extraction_adapt import require_charges_read


class AtomForcesPipeline(Pipeline):
    """
    Forces, and energies where the model gives them, of structures of any sizes.

    ```python
    >>> from transformers import pipeline
    >>> forces = pipeline("atom-forces", model="organisation/adapt-si")
    >>> forces(atoms)["forces"].shape
    (216, 3)
    >>> [result["energy"] for result in forces(["a.cif", "b.cif"])]
    ```

    Call it with an `ase.Atoms`, a mapping as [`ADAPTFeatureExtractor`] takes it, a path of a file that ASE reads, or a
    list of these. It returns a dict for one structure, and a list of dicts for a list or a file of several structures;
    a generator or a data set of structures is read as the results are asked for:

        - `forces` (`np.ndarray` of shape `(N, 3)`): eV/Å, float64;
        - `energy` (`float`): eV, where the model gives one;
        - `energies` (`np.ndarray` of shape `(N,)`): of the atoms, eV, where it gives these;
        - `stress` (`np.ndarray` of shape `(3, 3)`): eV/Å³, where it gives one, of structures that are periodic in all
          three directions.

    `batch_size` structures go through the model at once. Where this package is installed, a structure unlike all that
    the model was trained on is treated as `outside_domain` says: `"raise"` a `ValueError`, `"warn"` (the default), or
    `"ignore"`, and one that a model which reads coordinates would not recognise, such as a shifted copy of a trained
    structure, is mapped to where the crystal was in training, its forces mapped back.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = True
    _load_tokenizer = False

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        unknown = set(kwargs) - {"outside_domain"}
        if unknown:
            raise TypeError(f"the atom-forces pipeline has no parameter {sorted(unknown)[0]!r}")
        if kwargs.get("outside_domain", "warn") not in ("raise", "warn", "ignore"):
            raise ValueError(f"outside_domain must be raise, warn or ignore, not {kwargs['outside_domain']!r}")
        return kwargs, {}, {}

    def __call__(
        self, inputs: Any, batch_size: int = 16, **kwargs: Any
    ) -> dict[str, Any] | list[dict[str, Any]] | Iterator[dict[str, Any]]:
        if not _is_one(inputs) and not isinstance(inputs, list | tuple):
            return self._stream(inputs, batch_size, **kwargs)
        structures, single = _structures(inputs)
        groups = [structures[start : start + batch_size] for start in range(0, len(structures), batch_size)]
        results = [result for group in super().__call__(groups, batch_size=1, **kwargs) for result in group]
        return results[0] if single else results

    def _stream(self, inputs: Iterable[Any], batch_size: int, **kwargs: Any) -> Iterator[dict[str, Any]]:
        """The results one by one; no more is read of `inputs` than a batch."""
        structures = (structure for one in inputs for structure in _structures(one)[0])
        while group := list(islice(structures, batch_size)):
            yield from super().__call__([group], batch_size=1, **kwargs)[0]

    def preprocess(self, group: list[Any], outside_domain: str = "warn") -> dict[str, Any]:
        if outside_domain != "ignore":
            for structure in group:
                self._check_domain(structure, outside_domain)
        require_charges_read(group, self.model.config.reads_charge)
        group, rotations = self._aligned(group)
        return dict(self.feature_extractor(group, return_tensors="pt")) | {"rotations": rotations}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        rotations = model_inputs.pop("rotations")
        options: dict[str, bool] = {}
        if not self.model.config.gives_forces:
            raise ValueError("this checkpoint gives energies only; forces need a force model or another energy")
        if self.model.config.predicts == "energy":
            options |= {"compute_forces": True, "compute_stress": self.model.config.gives_stress}
        output = self.model(**model_inputs, **options)
        return {"output": output, "counts": model_inputs["attention_mask"].sum(dim=1), "rotations": rotations}

    def postprocess(self, model_outputs: dict[str, Any]) -> list[dict[str, Any]]:
        output, counts = model_outputs["output"], model_outputs["counts"].tolist()
        forces = output.forces.double().numpy()
        results: list[dict[str, Any]] = [
            {"forces": all_slots[:count] @ rotation}
            for all_slots, count, rotation in zip(forces, counts, model_outputs["rotations"], strict=True)
        ]
        if getattr(output, "energy", None) is not None:
            for result, energy in zip(results, output.energy.double().tolist(), strict=True):
                result["energy"] = energy
        if getattr(output, "energies", None) is not None:
            for result, energies in zip(results, output.energies.double().numpy(), strict=True):
                result["energies"] = energies[: len(result["forces"])].copy()
        if getattr(output, "stress", None) is not None:
            stresses = zip(results, output.stress.double().numpy(), model_outputs["rotations"], strict=True)
            for result, stress, rotation in stresses:
                if np.isfinite(stress).all():
                    result["stress"] = rotation.T @ stress @ rotation
        return results

    def _aligned(self, group: list[Any]) -> tuple[list[Any], np.ndarray]:
        """As [`Aligner`]: the structures, and rotations (B, 3, 3) that their forces need."""
        domain = self.model.config.training_domain
        if domain is not None and domain.get("frame") is not None:
            try:
                from modeling_adapt.crystal.alignment import Aligner
            except ImportError:  # see `_check_domain`
                pass
            else:
                return Aligner.of(domain)([_mapping(structure) for structure in group])
        return group, np.tile(np.eye(3), (len(group), 1, 1))

    def _check_domain(self, structure: Any, outside_domain: str) -> None:
        domain = self.model.config.training_domain
        if domain is None:
            return
        try:
            from ase import Atoms

            from modeling_adapt.crystal.trained_region import TrainingDomain
        except ImportError:  # a checkpoint brings the model along, not what watches over it
            return
        if not hasattr(structure, "get_atomic_numbers"):
            cell = structure.get("cell")
            pbc = False if cell is None else structure.get("pbc", True)
            structure = Atoms(structure["atomic_numbers"], structure["positions"], cell=cell, pbc=pbc)
        for line in TrainingDomain.from_dict(domain).check(structure):
            if outside_domain == "raise":
                raise ValueError(f"outside the trained region: {line}")
            warnings.warn(f"outside the trained region: {line}", stacklevel=2)


def _mapping(structure: Any) -> Mapping[str, Any]:
    if isinstance(structure, Mapping):
        return structure
    arrays = {"atomic_numbers": structure.get_atomic_numbers(), "positions": structure.get_positions()}
    return arrays | {"cell": structure.cell.array, "pbc": structure.pbc, "charge": structure.info.get("charge")}


def _structures(inputs: Any) -> tuple[list[Any], bool]:
    """All structures of `inputs`, and whether it was a single one."""
    if isinstance(inputs, str | os.PathLike):
        frames = _read(inputs)
        return frames, len(frames) == 1
    if _is_one(inputs):
        return [inputs], True
    return [frame for one in inputs for frame in _structures(one)[0]], False


def _is_one(inputs: Any) -> bool:
    """Whether `inputs` is a structure, or a file of them."""
    return isinstance(inputs, str | os.PathLike | Mapping) or hasattr(inputs, "get_atomic_numbers")


def _read(path: Any) -> list[Any]:
    try:
        import ase.io
    except ImportError as error:
        raise ImportError("reading files needs ASE: pip install ase") from error
    return list(ase.io.read(path, index=":"))


__all__ = ["AtomForcesPipeline"]
