"""torch-sim accepts ADAPT as a model, and relaxes with it to where ASE's FIRE does."""

import numpy as np
import pytest
import torch
from ase.build import bulk

from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator

ts = pytest.importorskip("torch_sim", reason="torch-sim is an optional extra")

from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from modeling_adapt.simulation.torch_sim_model import ADAPTTorchSimModel  # noqa: E402


def _structures():
    structures = [bulk("Si", cubic=True), bulk("Si"), bulk("SiC", "zincblende", 4.6, cubic=True)]
    for number, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=number)
    return structures


@pytest.mark.parametrize("geometry", ["pairwise", "cartesian"])
@pytest.mark.parametrize("kind", ["forces", "energy"])
def test_it_passes_the_validation_of_torch_sim(make_force_model, make_energy_model, kind, geometry):
    fields = {"geometry": geometry, "num_vector_channels": 8}
    model = make_force_model(**fields) if kind == "forces" else make_energy_model(architecture="pooled", **fields)
    validate_model_outputs(ADAPTTorchSimModel(model), torch.device("cpu"), torch.float32)


def test_it_says_what_the_calculator_says(make_energy_model):
    model = make_energy_model(architecture="pooled", geometry="pairwise", num_vector_channels=8)
    structures = _structures()
    output = ADAPTTorchSimModel(model)(ts.io.atoms_to_state(structures, torch.device("cpu"), torch.float32))
    for number, atoms in enumerate(structures):
        atoms.calc = ADAPTCalculator(model)
        assert output["energy"][number].item() == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    forces = np.concatenate([atoms.get_forces() for atoms in structures])
    np.testing.assert_allclose(output["forces"], forces, atol=1e-5)


def test_the_published_energy_network_is_refused(make_energy_model):
    with pytest.raises(InputError, match="gives no forces"):
        ADAPTTorchSimModel(make_energy_model())
