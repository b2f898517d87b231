"""Checkpoints written by earlier versions load, and give the forces that they gave."""

import json
from pathlib import Path

import pytest
import torch
from ase.build import bulk

from modeling_adapt import ADAPTFeatureExtractor
from modeling_adapt.loading import load_model

CHECKPOINTS = Path(__file__).parent / "data" / "checkpoints"


@pytest.mark.parametrize("name", ["cartesian", "fourier", "pairwise", "pooled"])
def test_forces_are_what_they_were(name):
    atoms = bulk("Si", "diamond", a=5.43, cubic=True)
    atoms.symbols[3] = "C"
    atoms.rattle(0.3, seed=3)
    model, _ = load_model(CHECKPOINTS / name)
    options = {"compute_forces": True} if name == "pooled" else {}
    forces = model.eval()(**ADAPTFeatureExtractor()(atoms), **options).forces[0]
    expected = torch.tensor(json.loads((CHECKPOINTS / name / "expected_forces.json").read_text()))
    assert expected.abs().max() > 1e-4
    assert (forces - expected).abs().max() < 1e-4 * expected.abs().max()
