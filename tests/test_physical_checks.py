"""Each physical check finds a violation of its kind whose size is known, and none in an exact potential."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from modeling_adapt import ADAPTFeatureExtractor
from modeling_adapt.crystal.trained_region import fit_domain
from modeling_adapt.data.defects.labelling import erhart_albe
from modeling_adapt.data.structures import structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.evaluation.physical_checks import (
    CHECKS,
    NEAREST_DEFECT,
    REFERENCE,
    calculator_forces,
    checks_table,
    host_in,
    jacobian_asymmetry,
    model_forces,
    physical_checks,
    scan_jump,
)
from modeling_adapt.evaluation.symmetry import (
    octahedral,
    perfect_crystal,
    reordered,
    repeated,
    rotated,
    shifted,
    symmetry_error,
)

SILICON = 5.429  # Å
IMAGES = {"octahedral": octahedral, "rotated": rotated, "shifted": shifted, "reordered": reordered}
IMAGES["repeated"] = repeated


@pytest.fixture(scope="module")
def exact():
    return calculator_forces(erhart_albe())


@pytest.fixture
def cell() -> Atoms:
    atoms = bulk("Si", a=SILICON, cubic=True)
    atoms.rattle(0.05, seed=0)
    return atoms


def vacancy(seed: int = 1) -> Atoms:
    """63 atoms."""
    perfect = bulk("Si", a=SILICON, cubic=True) * 2
    atoms = perfect[1:]
    atoms.set_array(NEAREST_DEFECT, perfect.get_distances(0, range(1, 64), mic=True))
    atoms.rattle(0.05, seed=seed)
    return atoms


def springs(stiffness: np.ndarray, atoms: Atoms):
    """Forces -(R - R0) K, whose Jacobian is -K^T."""
    start = atoms.positions.copy()
    return lambda moved: (-(moved.positions - start).ravel() @ stiffness).reshape(-1, 3)


def test_an_exact_potential_passes_all(exact):
    atoms = vacancy()
    atoms.set_array(REFERENCE, exact(atoms))
    host = perfect_crystal(atoms)
    found = physical_checks(exact, [atoms], host, exact, progress=False)
    assert list(found) == list(CHECKS)
    bulk_force = exact(atoms)[atoms.arrays[NEAREST_DEFECT] > 6].mean(axis=0)  # of the vibration
    for name in ("bulk_atom_force_mev_per_ang", "bulk_atom_reference_mev_per_ang"):
        assert found.pop(name) == pytest.approx(1000 * np.linalg.norm(bulk_force))
    assert found.pop("jacobian_asymmetry") < 1e-4
    assert all(value < 1e-6 for value in found.values())
    assert "Newton" in checks_table(found)


class TestPlanted:
    """Each at the size that it has, and only in the checks that it violates."""

    def errors(self, forces, atoms) -> dict[str, float]:
        return {name: symmetry_error(forces, [atoms], images) for name, images in IMAGES.items()}

    def test_net_force(self, exact, cell):
        cell.set_array(NEAREST_DEFECT, np.array([1, 2, 3, 4, 5, 6, 7, 8.0]))
        found = physical_checks(lambda atoms: exact(atoms) + [0.0, 0.01, 0.0], [cell], cell, progress=False)
        assert found["net_force_per_atom_mev_per_ang"] == pytest.approx(10)
        far = exact(cell)[6:].mean(axis=0) + [0.0, 0.01, 0.0]
        assert found["bulk_atom_force_mev_per_ang"] == pytest.approx(1000 * np.linalg.norm(far))
        assert "bulk_atom_reference_mev_per_ang" not in found
        cell.set_array(REFERENCE, exact(cell))
        found = physical_checks(lambda atoms: exact(atoms) + [0.0, 0.01, 0.0], [cell], cell, progress=False)
        assert found["bulk_atom_error_mev_per_ang"] == pytest.approx(10)
        assert found["jacobian_asymmetry"] < 1e-4 and found["scan_jump_mev_per_ang"] < 1e-6

    def test_forces_in_the_perfect_crystal_and_of_another_energy(self, exact, cell):
        host = bulk("Si", a=SILICON, cubic=True)
        found = physical_checks(lambda atoms: exact(atoms) + 0.003, [cell], host, exact, progress=False)
        assert found["perfect_crystal_force_mev_per_ang"] == pytest.approx(3)
        assert found["energy_gradient_mae_mev_per_ang"] == pytest.approx(3)

    def test_axes(self, cell):
        """A force along x alone: 32 of the 47 operations take x elsewhere or, half of the others, turn it round."""
        found = self.errors(lambda atoms: np.tile([1.0, 0, 0], (len(atoms), 1)), cell)
        # Squares over three components: 2 where x becomes y or z, 4 where it becomes -x, 0 where it stays.
        assert found["octahedral"] ** 2 == pytest.approx((32 * 2 + 8 * 4) / 47 / 3)
        assert found["rotated"] > 0.1
        assert found["shifted"] == found["reordered"] == found["repeated"] == 0

    def test_origin(self, exact, cell):
        wave = lambda atoms: exact(atoms) + np.sin(2 * np.pi * atoms.positions / SILICON)  # noqa: E731
        found = self.errors(wave, cell)
        assert found["shifted"] > 0.1
        assert found["reordered"] < 1e-9 and found["repeated"] < 1e-9

    def test_wrapping(self, exact, cell):
        """Forces that know how the atoms are written: those before and those behind the middle of the cell."""
        cell.positions[0] -= 0.5  # outside the cell
        found = symmetry_error(lambda atoms: exact(atoms) + (atoms.positions < 0), [cell], shifted)
        assert found > 0.01

    def test_order(self, exact, cell):
        found = self.errors(lambda atoms: exact(atoms) + np.arange(len(atoms))[:, None] % 2, cell)
        assert found["reordered"] > 0.1
        assert max(found[name] for name in ("octahedral", "rotated")) > 1e-3  # 1 along x, y and z does not turn either
        assert found["shifted"] < 1e-9

    def test_size_of_the_cell(self, exact, cell):
        found = self.errors(lambda atoms: exact(atoms) * (1 + len(atoms) / 8), cell)
        rms = np.sqrt(np.mean(exact(cell) ** 2))
        assert found.pop("repeated") == pytest.approx(rms)
        assert max(found.values()) < 1e-9

    @pytest.mark.parametrize("repeat,tolerance", [((1, 1, 1), 1e-9), ((1, 1, 4), 0.15)])
    def test_forces_without_an_energy(self, cell, repeat, tolerance):
        """J = -K - A with symmetric K and antisymmetric A: the ratio is |A| / |K|, exact for few atoms."""
        atoms = cell * repeat
        random = np.random.default_rng(0).normal(size=(3 * len(atoms),) * 2)
        symmetric, antisymmetric = random + random.T, 0.3 * (random - random.T)
        expected = np.linalg.norm(antisymmetric) / np.linalg.norm(symmetric)
        found = jacobian_asymmetry(springs(symmetric + antisymmetric, atoms), [atoms])
        assert found == pytest.approx(expected, rel=tolerance)
        assert jacobian_asymmetry(springs(symmetric, atoms), [atoms]) < 1e-8
        assert jacobian_asymmetry(springs(antisymmetric, atoms), [atoms]) > 1e3

    def test_forces_that_never_change_have_no_jacobian(self, cell):
        assert jacobian_asymmetry(lambda atoms: np.zeros((len(atoms), 3)), [cell]) is None

    @pytest.mark.parametrize("place", [-0.2171, 0.0, 0.1234])
    @pytest.mark.parametrize("size", [0.02, 1e-3])
    def test_jump(self, exact, cell, place, size):
        """Of a force on another atom, where the first one is so far along its bond."""
        start = cell.positions[0].copy()
        vectors = cell.get_distances(0, range(1, 8), mic=True, vector=True)
        bond = vectors[np.linalg.norm(vectors, axis=1).argmin()]

        def jumping(atoms: Atoms) -> np.ndarray:
            forces = exact(atoms)
            forces[3, 1] += size * ((atoms.positions[0] - start) @ bond / np.linalg.norm(bond) > place)
            return forces

        assert scan_jump(jumping, cell, 0) == pytest.approx(size, rel=1e-3)

    def test_no_jump_in_a_kink_or_a_steep_force(self, exact, cell):
        start = cell.positions[0].copy()

        def kinked(atoms: Atoms) -> np.ndarray:
            offset = np.linalg.norm(atoms.positions[0] - start)
            return exact(atoms) + 5 * offset + np.tanh(offset / 0.02)

        assert scan_jump(kinked, cell, 0) < 1e-3  # the kinks have 110 eV/Å^2 over a step of 1e-5 Å

    def test_no_scan_without_a_neighbour(self, exact):
        assert scan_jump(lambda atoms: np.zeros((1, 3)), Atoms("Si", pbc=True, cell=[9, 9, 9]), 0) is None


def test_no_octahedral_error_where_a_cell_is_no_cube():
    flat = bulk("Si")
    found = physical_checks(lambda atoms: np.zeros((len(atoms), 3)), [flat], progress=False)
    assert "octahedral_error_mev_per_ang" not in found and found["rotation_error_mev_per_ang"] == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_forces_that_are_not_finite_are_one_line(exact, cell, value):
    with pytest.raises(InputError, match="physical checks: forces on Si8 are not"):
        physical_checks(lambda atoms: np.full((len(atoms), 3), value), [cell], progress=False)
    with pytest.raises(InputError, match="gradients of the energy on Si8 are not"):
        physical_checks(exact, [cell], energy_gradient=lambda atoms: exact(atoms) * value, progress=False)
    with pytest.raises(InputError, match="finite"):
        physical_checks(lambda atoms: np.zeros((len(atoms), 2)), [cell], progress=False)


class TestPerfectCrystal:
    @pytest.mark.parametrize("kind,constant", [("Si", SILICON), ("SiC", 4.36)])
    def test_no_forces_are_left_in_it(self, exact, kind, constant):
        structure = "diamond" if kind == "Si" else "zincblende"
        atoms = (bulk(kind, structure, a=constant, cubic=True) * 2)[1:]
        atoms.positions += [0.7, 1.9, -3.1]
        atoms.rattle(0.05, seed=1)
        atoms.wrap()
        host = perfect_crystal(atoms)
        assert len(host) == 64 and np.abs(exact(atoms)).max() > 1
        assert np.abs(exact(host)).max() < 1e-9

    def test_a_coordinate_that_symmetry_leaves_free_is_kept(self):
        """Wurtzite has one, the length of the bond along c."""
        ideal = bulk("ZnO", "wurtzite", a=3.25, c=5.21, u=0.40) * (3, 3, 2)
        atoms = ideal.copy()
        atoms.rattle(0.02, seed=0)
        host = perfect_crystal(atoms)
        lengths = np.sort(host.get_all_distances(mic=True), axis=1)[:, 1:5]
        expected = np.sort(ideal.get_all_distances(mic=True), axis=1)[:, 1:5]
        assert len(host) == 72
        np.testing.assert_allclose(lengths, expected, atol=0.01)

    def test_none_where_there_is_no_crystal(self):
        assert perfect_crystal(molecule("CH4")) is None
        rng = np.random.default_rng(0)
        assert perfect_crystal(Atoms("Si30", rng.uniform(0, 9, (30, 3)), cell=[9, 9, 9], pbc=True)) is None

    def test_only_for_a_model_that_was_trained_on_it(self):
        rows = [structure_row(vacancy(seed), np.zeros((63, 3))) for seed in range(3)]
        domain = fit_domain(rows).to_dict()
        assert len(host_in([vacancy()], domain)) == 64  # one atom more than any structure of the training
        assert host_in([vacancy()], None) is None
        carbide = bulk("SiC", "zincblende", a=4.36, cubic=True) * 2
        assert host_in([carbide], domain) is None


class TestModels:
    def test_forces_are_those_of_the_network(self, make_force_model, cell):
        model = make_force_model(architecture="cartesian")
        expected = model(**ADAPTFeatureExtractor()(cell)).forces[0].detach().numpy()
        found = model_forces([model], ADAPTFeatureExtractor())(cell)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert found.dtype == np.float64 and next(model.parameters()).is_floating_point()
        assert str(model.dtype) == "torch.float32"

    def test_what_a_pairwise_model_keeps_and_does_not(self, make_force_model, cell):
        model = make_force_model(architecture="pairwise", num_vector_channels=8)
        forces = model_forces([model], ADAPTFeatureExtractor())
        for images in (rotated, shifted, reordered, repeated):
            assert symmetry_error(forces, [cell], images) < 1e-9
        assert jacobian_asymmetry(forces, [cell[:4]]) > 1e-3  # its forces are no gradient

    def test_a_pooled_energy_is_conservative(self, make_energy_model, cell):
        model = make_energy_model(architecture="pairwise", num_vector_channels=8)
        forces = model_forces([model], ADAPTFeatureExtractor())
        assert jacobian_asymmetry(forces, [cell[:4]]) < 1e-4
        assert np.abs(forces(cell).sum(axis=0)).max() < 1e-9
