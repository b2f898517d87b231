"""Distances to defects and the weights that follow from them."""

import numpy as np
import pytest
from ase.build import bulk
from published_rows import read_published

from modeling_adapt.data.load.importance import ImportanceWeighting, defect_distances, stacked_defect_distances

CUBIC = np.eye(3) * 7.0
TURNED = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0] @ np.diag([5.0, 6.0, 9.0])
SLANTED = np.array([[6.0, 0.0, 0.0], [2.9, 5.0, 0.0], [2.0, 2.4, 5.5]])


@pytest.mark.parametrize("cell", [CUBIC, TURNED.T, SLANTED], ids=["cubic", "turned", "slanted"])
@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_distances_are_the_shortest_of_all_images(cell, pbc):
    rng = np.random.default_rng(0)
    positions, sites = rng.uniform(-10, 20, size=(30, 3)).astype(np.float32), rng.uniform(0, 7, size=(4, 3))
    distances = defect_distances(positions, sites, cell, np.array(pbc))
    shifts = np.stack(np.meshgrid(*[np.arange(-9, 10) if p else [0] for p in pbc]), axis=-1).reshape(-1, 3) @ cell
    vectors = positions[:, None].astype(float) - sites
    expected = [np.linalg.norm(vectors + shift, axis=2) for shift in shifts]
    np.testing.assert_allclose(distances, np.min(expected, axis=0), atol=1e-9)
    plain = defect_distances(positions, sites, cell, np.array(pbc), minimum_image=False)
    np.testing.assert_allclose(plain, np.linalg.norm(vectors, axis=2), atol=1e-12)


@pytest.mark.parametrize("minimum_image", [True, False])
def test_many_structures_at_once_are_as_one_by_one(minimum_image):
    rng = np.random.default_rng(1)
    cells = np.array([CUBIC, SLANTED, TURNED.T, CUBIC, SLANTED])
    pbc = np.array([[True, True, True], [True, True, True], [True, False, True], [False] * 3, [True, True, False]])
    positions = [rng.uniform(-10, 20, size=(atoms, 3)).astype(np.float32) for atoms in (30, 7, 31, 1, 12)]
    sites = [rng.uniform(0, 7, size=(count, 3)) for count in (1, 3, 2, 1, 4)]
    stacked = stacked_defect_distances(positions, sites, cells, pbc, minimum_image)
    assert stacked.shape == (11, 31)
    weighting, starts = ImportanceWeighting(), np.array([0, 1, 4, 6, 7])
    weights = weighting.stacked_weights(stacked, starts)
    for index, start in enumerate(starts):
        atoms, count = len(positions[index]), len(sites[index])
        alone = defect_distances(positions[index], sites[index], cells[index], pbc[index], minimum_image)
        np.testing.assert_allclose(stacked[start : start + count, :atoms].T, alone, atol=1e-12)
        np.testing.assert_allclose(weights[index, :atoms], weighting.weights(alone), rtol=1e-6)


@pytest.mark.parametrize("weighting", [ImportanceWeighting(), ImportanceWeighting(5.0, 0.5, 2.5, 2.0, 100.0)])
def test_single_precision_weights_are_good_to_a_millionth(weighting):
    distances = np.sort(np.random.default_rng(0).uniform(0.0, 14.0, size=(3, 5000)))
    weights = weighting.stacked_weights(distances, np.array([0]))[0]
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, weighting.weights(distances.T), rtol=1e-6)


def test_missing_cell_vectors_are_not_used():
    cell = np.diag([5.0, 5.0, 0.0])
    distances = defect_distances(np.array([[4.9, 0.0, 9.0]]), np.zeros((1, 3)), cell, np.array([True, True, False]))
    assert distances[0, 0] == pytest.approx(np.hypot(0.1, 9.0))


def test_weights_fall_and_are_bounded():
    weighting = ImportanceWeighting()
    distances = np.linspace(0.0, 14.0, 500)[:, None]
    weights = weighting.weights(distances)
    assert weights[0] == 1 + weighting.maximum
    assert (np.diff(weights) <= 0).all() and 1.0 < weights[-1] < 1.05
    assert (weighting.weights(np.hstack([distances, distances + 2.0])) >= weights).all()
    np.testing.assert_array_equal(weighting.weights(np.zeros((5, 0))), np.ones(5))


def test_boundary_matters():
    atoms = bulk("Si", "diamond", a=5.43, cubic=True) * 3
    geometry = (atoms.positions, atoms.positions[:1], atoms.cell, atoms.pbc)  # a defect in the corner
    assert defect_distances(*geometry).max() < 0.6 * defect_distances(*geometry, minimum_image=False).max()


def test_published_weights(shared_data):
    """Measured: 0.59 % (frame 0) to 0.79 % (frame 11) off the defect atoms, 16 % at most on them."""
    weighting = ImportanceWeighting(minimum_image=False)
    rows = read_published(shared_data / "adapt_ni_br_frames_0-11.pt")
    assert len(rows) == 12
    for row in rows:
        geometry = (row["positions"], row["defect_sites"], row["cell"], row["pbc"])
        published = row["importance_weights"]
        weights = weighting.weights(defect_distances(*geometry, minimum_image=False))
        deviation = np.abs(weights / published - 1)
        host = row["atomic_numbers"] == 14
        assert deviation[host].max() < 0.008
        assert deviation[~host].max() < 0.16
        periodic = ImportanceWeighting().weights(defect_distances(*geometry))
        assert np.abs(periodic / published - 1)[host].max() > 0.5  # the published ones ignore the boundary
