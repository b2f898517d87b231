"""Nuclei repel each other where atoms come nearer than any bond, and bonds do not know of it."""

import numpy as np
import pytest
import torch
from ase import Atoms
from huggingface_hub.errors import StrictDataclassError

from modeling_adapt import ADAPTEnergyConfig, ADAPTFeatureExtractor, ADAPTForEnergy
from modeling_adapt.repulsion_adapt import FULL, screened, switched

SHARE = 0.8
SILICON = 2 * 1.11 * SHARE  # Å, where the repulsion of two atoms of silicon ends


@pytest.fixture
def make_model(make_energy_model):
    def make(share=SHARE, **fields):
        model = make_energy_model(
            **{"architecture": "pairwise", "pairwise_cutoff": 4.0, "num_vector_channels": 8, "energy_mean": 0.0}
            | {"energy_std": 1.0, "element_energies": {"Si": -5.4, "C": -9.1}, "short_range_repulsion": share}
            | fields
        )
        return model.double()

    return make


def outputs_of(model, atoms, **options):
    with torch.no_grad():
        return model(**ADAPTFeatureExtractor.for_model(model.config)(atoms, dtype="float64"), **options)


def pair(distance, symbols="Si2", cell=None):
    return Atoms(symbols, [[0.1, 0.2, 0.3], [0.1 + distance, 0.2, 0.3]], cell=cell, pbc=cell is not None)


@pytest.fixture
def crowded(structures):
    """With contacts of 1.2 to 1.7 Å, one of them across the border of the cell, one of silicon and carbon."""
    vacancy, carbon, double = structures
    carbon.positions[1] = carbon.positions[0] + [0.5, 1.0, 0.6]
    double.positions[0] = [0.1, 0.2, 0.3]
    double.positions[5] = double.positions[0] - [1.2, 0.7, 0.4]
    return [vacancy, carbon, double]


class TestPotential:
    def test_two_atoms_of_silicon(self):
        # By hand: a = 0.46850 / (2 14^0.23) = 0.12766 Å; at 1 Å x = 7.8332 and the screening is 0.018060.
        one = torch.tensor(14.0).double()
        assert screened(torch.tensor(1.0).double(), one, one).item() == pytest.approx(50.97, abs=0.01)
        # Bare nuclei at a thousandth of an Ångström, but for what the electrons of both screen.
        bare = 14.399645 * 14 * 14 / 1e-3
        assert screened(torch.tensor(1e-3).double(), one, one).item() == pytest.approx(bare, rel=0.01)

    def test_the_switch_has_two_derivatives(self):
        x = torch.linspace(0.5, 1.2, 7001, dtype=torch.float64)
        values = switched(x)
        assert (values[x <= FULL] == 1).all() and (values[x >= 1] == 0).all()
        assert (values.diff() <= 0).all()
        second = np.diff(values.numpy(), 2) / 1e-8
        assert np.abs(np.diff(second)).max() < 2  # a jump of the second derivative would be of hundreds

    @pytest.mark.parametrize("symbols", ["Si2", "SiC"])
    def test_it_is_added_to_what_the_network_says(self, make_model, symbols):
        radii = {"Si2": 2.22, "SiC": 1.87}[symbols]
        charges = torch.tensor(Atoms(symbols).numbers).double()
        for distance in (0.6, 0.72 * radii, 0.9 * radii, 1.3):
            bare, found = (outputs_of(make_model(share), pair(distance, symbols)) for share in (0.0, SHARE))
            apart = torch.tensor(distance, dtype=torch.float64)
            expected = screened(apart, *charges) * switched(apart / radii / SHARE)
            assert (found.energy - bare.energy).item() == pytest.approx(expected.item(), abs=1e-6)
            assert torch.allclose(found.energies - bare.energies, expected / 2, atol=1e-6)


class TestModel:
    def test_bonds_are_left_alone(self, make_model, structures):
        bare, found = (outputs_of(make_model(share), structures, compute_forces=True) for share in (0.0, SHARE))
        assert torch.equal(found.energy, bare.energy) and torch.equal(found.forces, bare.forces)

    def test_close_contacts_are_never_attractive(self, make_model):
        """Whatever weights say: here those of chance, whose energies change by less than a tenth of an eV."""
        model = make_model()
        energies = [
            outputs_of(model, pair(distance)).energy.item() for distance in np.arange(0.5, SILICON - 0.15, 0.02)
        ]
        assert (np.diff(energies) < 0).all()
        assert energies[0] - outputs_of(model, pair(2.4)).energy.item() > 450  # the nuclei alone have 470 eV

    def test_forces_and_stress_are_derivatives(self, make_model, crowded):
        model, step = make_model(), 1e-5
        for atoms in crowded[1:]:
            output = outputs_of(model, atoms, compute_forces=True, compute_stress=True)
            assert output.forces.abs().max() > 5
            for atom, axis in ((0, 0), (1, 1), (5, 2)):
                ends = []
                for sign in (1, -1):
                    moved = atoms.copy()
                    moved.positions[atom, axis] += sign * step
                    ends.append(outputs_of(model, moved).energy.item())
                assert abs(output.forces[0, atom, axis].item() + (ends[0] - ends[1]) / (2 * step)) < 1e-4
            ends = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.set_cell(atoms.cell.array * [1 + sign * step, 1, 1], scale_atoms=True)
                ends.append(outputs_of(model, moved).energy.item())
            numerical = (ends[0] - ends[1]) / (2 * step) / atoms.get_volume()
            assert abs(output.stress[0, 0, 0].item() - numerical) < 1e-6

    def test_batches_images_and_missing_neighbours_change_nothing(self, make_model, crowded):
        model = make_model()
        together = outputs_of(model, crowded)
        for index, atoms in enumerate(crowded):
            atoms.positions += [3.0, -1.0, 7.0]
            atoms.wrap()
            assert torch.allclose(outputs_of(model, atoms).energy[0], together.energy[index], atol=1e-8)
        inputs = ADAPTFeatureExtractor.for_model(model.config)(crowded, dtype="float64")
        del inputs["neighbours"], inputs["neighbour_shifts"]
        with torch.no_grad():
            assert torch.allclose(model(**inputs).energy, together.energy, atol=1e-8)

    def test_one_graph(self, make_model, crowded):
        model = make_model()
        inputs = ADAPTFeatureExtractor.for_model(model.config)(crowded, dtype="float64")
        names = ("cell", "atomic_numbers", "neighbours", "neighbour_shifts")
        given = (inputs["input_features"][..., :3], *(inputs[name] for name in names))
        graph = torch.compile(model.repulsion, fullgraph=True, backend="aot_eager")
        assert torch.allclose(graph(*given), model.repulsion(*given), atol=1e-9)

    @pytest.mark.slow
    def test_compiled_with_all_else(self, make_model, crowded):
        model = make_model(num_hidden_layers=1)
        inputs = dict(ADAPTFeatureExtractor.for_model(model.config)(crowded, dtype="float64"))
        with torch.no_grad():
            expected = model(**inputs, compute_forces=True)
            found = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs, compute_forces=True)
        assert torch.allclose(found.energy, expected.energy, atol=1e-6)
        assert torch.allclose(found.forces, expected.forces, atol=1e-5)

    def test_without_elements_it_says_what_it_needs(self, make_model):
        model = make_model(element_energies=None)
        inputs = ADAPTFeatureExtractor.for_model(model.config)(pair(2.0), dtype="float64")
        del inputs["atomic_numbers"]
        with pytest.raises(ValueError, match="short_range_repulsion of nuclei: it needs atomic_numbers"):
            model(**inputs)


def test_it_may_be_put_into_a_model_that_learned_without(make_model, crowded, tmp_path):
    make_model(0.0).save_pretrained(tmp_path)
    loaded = ADAPTForEnergy.from_pretrained(tmp_path, short_range_repulsion=SHARE, dtype=torch.float64)
    assert torch.allclose(outputs_of(loaded, crowded).energy, outputs_of(make_model(), crowded).energy, atol=1e-8)
    loaded.save_pretrained(tmp_path / "with")
    assert ADAPTForEnergy.from_pretrained(tmp_path / "with").config.short_range_repulsion == SHARE


def test_bad_shares():
    for share in (-0.1, 1.1):
        with pytest.raises(StrictDataclassError, match="short_range_repulsion must be 0 to 1"):
            ADAPTEnergyConfig(architecture="pairwise", short_range_repulsion=share)
    with pytest.raises(StrictDataclassError, match="architecture 'fourier' does not read short_range_repulsion"):
        ADAPTEnergyConfig(architecture="fourier", short_range_repulsion=0.8)
