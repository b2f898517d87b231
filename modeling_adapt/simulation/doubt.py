"""
How far the energy of a model is to be trusted, by that model alone: the rigidity of its last layer (Bigi, Chong,
Ceriotti and Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024), arXiv:2403.02251).

An energy is linear in F, the sum over atoms of what the last layer reads. So the data say as much of the weights of
that layer as of those of a linear regression, which have a covariance S, and the variance of the energy is Fᵀ S F. A
difference of energies has that of the difference of their F, in which cancels what they have in common.

How S is found is in `evaluation/rigidity.py`; here it is read from a file beside the weights, and used.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.utils import cached_file

from ..errors import InputError
from ..files import whole_file
from ..hub_access import is_local
from ..loading import weights_folder, weights_hash
from ..pretrained_adapt import in_the_box

FILE = "doubt.safetensors"
UNUSUAL = 1.0  # an atom with more doubt than this is said to be unlike those of the training


@dataclass(frozen=True)
class Doubt:
    """
    Args:
        covariance (`np.ndarray` of shape `(D, D)`):
            S in eV², of the weights and the bias of the last layer, which reads D - 1 features and a one.
        usual (`float`): In eV: what 99 of 100 atoms of the training stay below.
        of_differences (`float`):
            By how much the standard deviation of a difference is larger than the covariance says.
        figures (`Mapping[str, float]`): What the calibration found, for records.
        of_forces (`float`, *optional*):
            In eV/Å: how far the force on an atom of usual doubt is from the truth (root mean square); that of others
            is proportional to their doubt. None where it is not known.
        widened (`float`, defaults to `1.0`):
            By how much differences of energies are more uncertain than the validation says, whose structures are of
            the kinds of the training: what was found for kinds that had been left out of it.
    """

    covariance: np.ndarray
    usual: float
    of_differences: float
    figures: Mapping[str, float]
    of_forces: float | None = None
    widened: float = 1.0

    def deviation(self, features: np.ndarray) -> np.ndarray:
        """
        Standard deviations (...) in eV of the energies of structures, from `features` (..., D), each the sum of those
        of its atoms.
        """
        variance = ((features @ self.covariance) * features).sum(axis=-1)
        return np.sqrt(np.maximum(variance, 0.0))

    def difference_deviation(self, features: np.ndarray) -> np.ndarray:
        """Likewise of differences of energies, such as formation energies, from the same differences of features."""
        return self.widened * self.of_differences * self.deviation(features)

    def of_atoms(self, features: np.ndarray) -> np.ndarray:
        """The doubt of atoms, from their features (..., D), in units of the usual one."""
        return self.deviation(features) / self.usual

    def save(self, folder: Path) -> None:
        """
        Writes it beside the weights in `folder`, and for these alone.

        Raises:
            [`InputError`]: There are no weights.
        """
        weights = weights_hash(folder)
        if weights is None:
            raise InputError(f"{folder} has no weights, and a doubt is of weights")
        numbers: dict[str, Any] = {"usual": self.usual, "of_differences": self.of_differences}
        numbers |= {"of_forces": self.of_forces, "widened": self.widened, "figures": dict(self.figures)}
        with whole_file(folder / FILE) as unfinished:
            metadata = {"weights_sha256": weights, "numbers": json.dumps(numbers)}
            save_file({"covariance": torch.from_numpy(self.covariance)}, unfinished, metadata)
            if (config := folder / "config.json").is_file():
                unfinished.chmod(config.stat().st_mode)  # safetensors makes files that their owner alone can read

    @classmethod
    def load(cls, path: Path, weights: str | None) -> "Doubt | None":
        """That of a file; None, and a line on standard error, where it is damaged or of others than the `weights`."""
        try:
            with safe_open(path, "pt") as file:
                metadata, covariance = file.metadata(), file.get_tensor("covariance")
            if metadata["weights_sha256"] != weights:
                print(f"{path} is of other weights, so energies have no uncertainty; make it anew", file=sys.stderr)
                return None
            return cls(covariance=covariance.double().numpy(), **json.loads(metadata["numbers"]))
        except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
            print(f"{path} cannot be read, so energies have no uncertainty: {error}", file=sys.stderr)
            return None


def load_doubt(model: str | Path, subfolder: str = "", revision: str | None = None) -> Doubt | None:
    """That of a model which has been loaded, by the same names; None where it has none."""
    model = in_the_box(model)
    folder = weights_folder(model, subfolder, revision)
    path = folder / FILE
    if not is_local(model):
        quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        found = cached_file(str(model), FILE, subfolder=subfolder, revision=revision, **quiet)
        if found is None:
            return None
        path = Path(found)
    return Doubt.load(path, weights_hash(folder)) if path.is_file() else None


@dataclass(frozen=True)
class DifferenceDoubt:
    """
    How far differences of the energies by one calculator are to be trusted. Errors of two structures are no strangers
    to each other, so their uncertainties do not add: what is wrong with both alike cancels.

    Args:
        read (`Callable[[Atoms], np.ndarray]`):
            From a structure to a vector in which its energy is linear: what the last layer reads, summed over atoms,
            where there is a [`Doubt`]; of several models, the energy by each in eV.
        deviation (`Callable[[np.ndarray], float]`):
            From the same difference of such vectors as of the energies to its standard deviation in eV.
    """

    read: Callable[[Atoms], np.ndarray]
    deviation: Callable[[np.ndarray], float]

    @classmethod
    def by(cls, calculator: Any) -> "DifferenceDoubt | None":
        """That of an [`ADAPTCalculator`] with a doubt, or with several models that have energies; None of others."""
        doubt = getattr(calculator, "doubt", None)
        if doubt is not None:
            return cls(lambda atoms: calculator.features(atoms).sum(axis=0), doubt.difference_deviation)
        if getattr(calculator, "conservative", False) and len(getattr(calculator, "models", ())) > 1:
            return cls(calculator.member_energies, lambda energies: float(np.std(energies, ddof=1)))
        return None


__all__ = ["DifferenceDoubt", "Doubt", "load_doubt"]
