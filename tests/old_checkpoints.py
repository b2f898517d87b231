"""
Small checkpoints of every format that there was, in `data/checkpoints/FORMAT/KIND`, and the forces that they gave when
they were written.

    python tests/old_checkpoints.py

writes those of the format of today, once, with a new format; they are not written again.
"""

import json
import sys
from pathlib import Path

import torch
from ase import Atoms
from ase.build import bulk
from transformers import PreTrainedModel

from modeling_adapt import ADAPTConfig, ADAPTEnergyConfig, ADAPTFeatureExtractor, ADAPTForEnergy, ADAPTForForces
from modeling_adapt.configuration.architectures_adapt import ARCHITECTURES
from modeling_adapt.configuration.versions_adapt import FORMAT_VERSION

CHECKPOINTS = Path(__file__).parent / "data" / "checkpoints"
KINDS = ("cartesian", "fourier", "pairwise", "pooled")


def structure() -> Atoms:
    """Silicon with one carbon atom, far from its equilibrium."""
    atoms = bulk("Si", "diamond", a=5.43, cubic=True)
    atoms.symbols[3] = "C"
    atoms.rattle(0.3, seed=3)
    return atoms


def forces_of(model: PreTrainedModel) -> torch.Tensor:
    options = {"compute_forces": True} if isinstance(model, ADAPTForEnergy) else {}
    return model.eval()(**ADAPTFeatureExtractor()(structure()), **options).forces[0].detach()


def _model(kind: str) -> PreTrainedModel:
    fields = {
        **{"embedding_sizes": [8], "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        **{"num_radial_basis": 6, "num_vector_channels": 4, "pairwise_cutoff": 3.0},
        "feature_mean": [3.0, 3.0, 3.0, 14.0, 3.0, 1.9, 111.0, 4.0, 8.2, 133.0, 1.1, 12.0],
        "feature_std": [2.0, 2.0, 2.0, 1.0, 0.2, 0.1, 4.0, 1.0, 0.3, 9.0, 0.1, 1.0],
        **{"force_mean": [0.0, 0.0, 0.0], "force_std": [0.5, 0.5, 0.5]},
    }
    torch.manual_seed(FORMAT_VERSION)
    if kind != "pooled":
        read = ARCHITECTURES[kind].fields("forces")
        fields = {name: value for name, value in fields.items() if name in read}
        return ADAPTForForces(ADAPTConfig(architecture=kind, **fields))
    of_energies = {"energy_mean": -1.0, "energy_std": 0.2, "element_energies": {"C": -7.0, "Si": -5.0}}
    fields = {name: value for name, value in fields.items() if name in ARCHITECTURES["pairwise"].fields("energy")}
    return ADAPTForEnergy(ADAPTEnergyConfig(architecture="pairwise", **fields, **of_energies))


def main() -> None:
    target = CHECKPOINTS / str(FORMAT_VERSION)
    if target.exists():
        sys.exit(f"{target} is there; what was written then is what must load")
    for kind in KINDS:
        model, folder = _model(kind), target / kind
        model.save_pretrained(folder)
        for code in folder.glob("*.py"):
            code.unlink()
        ADAPTFeatureExtractor.for_model(model.config).save_pretrained(folder)
        for code in folder.glob("*.py"):
            code.unlink()
        forces = forces_of(model).tolist()
        (folder / "expected_forces.json").write_text(json.dumps(forces) + "\n")


if __name__ == "__main__":
    main()
