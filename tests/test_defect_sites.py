"""Defects are found where they are, of the right kind, and nowhere else."""

from collections import Counter

import numpy as np
import pytest
from ase import Atom, Atoms
from ase.build import bulk, diamond100, molecule
from ase.io import read
from published_rows import read_published
from scipy.optimize import linear_sum_assignment
from scipy.stats import spearmanr

from modeling_adapt.crystal.defect_sites import DefectSite, find_defects
from modeling_adapt.crystal.host_crystal import host_of
from modeling_adapt.crystal.minimum_image import shortest_images
from modeling_adapt.data.defects.distortion import distort
from modeling_adapt.data.defects.kinds import STRUCTURE_KINDS, silicon_supercell
from modeling_adapt.data.defects.labelling import erhart_albe, relaxation_trajectory
from modeling_adapt.data.load.importance import ImportanceWeighting, defect_distances
from modeling_adapt.data.structures import atoms_from_row
from modeling_adapt.errors import InputError

NOISE = 0.08  # Å; thermal motion of silicon at 300 K, each component
HOST = silicon_supercell()
CRYSTALS = {
    "64 atoms": silicon_supercell(repeat=2),
    "primitive": bulk("Si") * 4,
    "SiC": bulk("SiC", "zincblende", a=4.36, cubic=True) * 3,
    "MgO": bulk("MgO", "rocksalt", a=4.21, cubic=True) * (2, 3, 4),
    "GaN": bulk("GaN", "wurtzite", a=3.19, c=5.19) * (4, 4, 3),
    "CsCl": bulk("CsCl", "cesiumchloride", a=4.12, cubic=True) * 4,
    "W": bulk("W", cubic=True) * 4,
}


def kinds(defects: list[DefectSite]) -> list[str]:
    return [defect.kind for defect in defects]


def disguised(atoms: Atoms, rng: np.random.Generator, noise: float = NOISE) -> tuple[Atoms, np.ndarray]:
    """The structure with noise, shifted by a random vector, which is returned too, and wrapped."""
    shift = rng.uniform(-8, 8, size=3)
    moved = atoms.copy()
    moved.positions += shift + rng.normal(scale=noise, size=moved.positions.shape)
    moved.wrap()
    return moved, shift


def assert_found(atoms: Atoms, positions: np.ndarray, expected: list[str], within: float) -> None:
    """Exactly the expected kinds, each `within` so many Å of its own position."""
    found = find_defects(atoms)
    assert Counter(kinds(found)) == Counter(expected)
    if not expected:
        return
    vectors = np.concatenate([positions - defect.position for defect in found])
    distances = np.linalg.norm(shortest_images(vectors, atoms.cell.array, atoms.pbc), axis=1)
    distances = distances.reshape(len(found), -1)
    distances[np.array(kinds(found))[:, None] != np.array(expected)] = np.inf
    assert distances[linear_sum_assignment(np.minimum(distances, 1e3))].max() < within


@pytest.mark.parametrize("kind", [kind for kind in STRUCTURE_KINDS if kind != "surface"])
def test_generated_structures(kind):
    """Strained, shifted and wrapped, with distorted bonds, at rest and with thermal motion."""
    factors = (-0.3, -0.2, 0.2, 0.3)  # with more an atom may come nearer to a vacancy than to where it was
    for seed in range(3):
        rng = np.random.default_rng(seed)
        defect = distort(STRUCTURE_KINDS[kind](HOST, rng), rng, bond_factors=factors, strain=0.02)
        positions = defect.site_positions(defect.atoms.positions)
        for noise in (0.0, NOISE):
            atoms, shift = disguised(defect.atoms, rng, noise)
            assert_found(atoms, positions + shift, defect.site_kinds, within=0.05 + 6 * noise)


@pytest.mark.parametrize("kind", ["vacancy", "interstitial_split_110", "carbon_interstitial"])
def test_relaxed_structures(kind):
    rng = np.random.default_rng(1)
    defect = distort(STRUCTURE_KINDS[kind](HOST, rng), rng)
    relaxation = relaxation_trajectory(defect.atoms, erhart_albe(), frames=4, max_steps=15)
    for frame in relaxation.frames[1:]:
        for noise in (0.0, NOISE):
            atoms, shift = disguised(frame.atoms, rng, noise)
            positions = defect.site_positions(frame.atoms.positions) + shift
            assert_found(atoms, positions, defect.site_kinds, within=0.5)


@pytest.mark.parametrize("name", CRYSTALS)
def test_other_crystals(name):
    """A vacancy and a foreign atom in crystals of any lattice, elements and orientation."""
    rng = np.random.default_rng(0)
    crystal = CRYSTALS[name]
    vacant, replaced = 5, len(crystal) // 2
    atoms = crystal.copy()
    atoms.symbols[replaced] = "Ge"
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    deformation = (np.eye(3) + rng.uniform(-0.02, 0.02, size=(3, 3))) @ turn
    atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    sites = atoms.positions[[vacant, replaced]]
    del atoms[vacant]
    atoms, shift = disguised(atoms, rng)
    expected = [f"v_{crystal.symbols[vacant]}", f"Ge_{crystal.symbols[replaced]}"]
    assert_found(atoms, sites + shift, expected, within=0.5)
    host = host_of(atoms)
    assert Counter(host.symbols) == Counter(crystal.symbols)
    assert abs(host.cell.array - atoms.cell.array).max() == 0


def test_real_silicon(shared_data):
    """DFT molecular dynamics of 64-atom cells at up to 1,500 K: one defect in each, as their authors named it."""
    expected = {"Elastic": [], "vacancy-enhanced": ["v_Si"], "interstitial-enhanced": ["Si_i"]}
    seen: Counter = Counter()
    for atoms in read(shared_data / "si-dft-train.extxyz", "::4"):
        if (kind := atoms.info["config_type"]) in expected:
            assert kinds(find_defects(atoms)) == expected[kind]
            seen[kind] += 1
    assert seen == {"Elastic": 4, "vacancy-enhanced": 16, "interstitial-enhanced": 21}


def test_published_frames(shared_data):
    """The sites, and the weights that follow from them. Measured: Spearman 0.9999, 0.79 % off the defect atoms."""
    weighting = ImportanceWeighting(minimum_image=False)
    rows = read_published(shared_data / "adapt_ni_br_frames_0-11.pt")
    assert len(rows) == 12
    for row in rows:
        atoms = atoms_from_row(row)
        bromine, nickel = find_defects(atoms)
        assert (bromine.kind, bromine.atoms) == ("Br_Si", (216,))
        assert (nickel.kind, nickel.atoms, nickel.host_sites) == ("Ni_i", (215,), ())
        sites = np.array([bromine.position, nickel.position])
        weights = weighting.weights(
            defect_distances(atoms.positions, sites, atoms.cell.array, atoms.pbc, minimum_image=False)
        )
        published = np.asarray(row["importance_weights"])
        assert spearmanr(weights, published).statistic >= 0.999
        assert np.abs(weights / published - 1)[:215].max() < 0.01


def test_what_a_defect_says():
    atoms = HOST.copy()
    bonded = np.flatnonzero(HOST.get_distances(100, range(len(HOST)), mic=True) < 2.5)
    neighbours = bonded[bonded != 100]
    axis = HOST.positions[neighbours[0]] - HOST.positions[neighbours[1]]
    axis *= 1.2 / np.linalg.norm(axis)
    atoms.symbols[50] = "C"
    atoms.positions[100] -= axis
    atoms.append(Atom("Si", HOST.positions[100] + axis))
    del atoms[0]
    before = atoms.copy()
    vacancy, carbon, split = find_defects(atoms, HOST)
    assert atoms == before
    assert (vacancy.kind, vacancy.atoms, vacancy.host_sites) == ("v_Si", (), (0,))
    np.testing.assert_allclose(vacancy.position, HOST.positions[0], atol=1e-6)
    assert (carbon.kind, carbon.atoms, carbon.host_sites) == ("C_Si", (49,), (50,))
    assert (split.kind, set(split.atoms), split.host_sites) == ("Si_i", {99, 215}, (100,))
    np.testing.assert_allclose(split.position, HOST.positions[100], atol=1e-6)

    atoms.symbols[215] = "C"  # now the atom of the other element is the interstitial, though nearer to the site
    atoms.positions[[99, 215]] -= 0.1 * axis
    (split,) = [defect for defect in find_defects(atoms, HOST) if defect.kind.endswith("_i")]
    assert (split.kind, split.atoms) == ("C_i", (215, 99))
    np.testing.assert_array_equal(split.position, atoms.positions[215])
    carbon.position[:] = 0.0
    assert atoms.positions[49].any()  # the structure is not changed through its defects


@pytest.mark.parametrize("share, moved", [(0.4, False), (0.6, True)])
def test_neighbour_on_its_way_into_a_vacancy(share, moved):
    """It is no interstitial between two vacancies; half-way it leaves its own site vacant."""
    neighbour = int(np.argsort(HOST.get_distances(0, range(len(HOST)), mic=True))[1])
    atoms = HOST.copy()
    atoms.positions[neighbour] += share * HOST.get_distance(neighbour, 0, mic=True, vector=True)
    del atoms[0]
    (vacancy,) = find_defects(atoms)
    expected = HOST.positions[neighbour if moved else 0]
    assert np.linalg.norm(shortest_images((vacancy.position - expected)[None], HOST.cell.array, HOST.pbc)) < 0.1


def test_collapsed_vacancy():
    """All four neighbours half-way in: the vacancy is between them, not where one of them was."""
    bonds = HOST.get_distances(0, range(len(HOST)), mic=True, vector=True)
    neighbours = np.argsort(np.linalg.norm(bonds, axis=1))[1:5]
    atoms = HOST.copy()
    atoms.positions[neighbours] -= 0.52 * bonds[neighbours]
    del atoms[0]
    (vacancy,) = find_defects(atoms)
    assert np.linalg.norm(shortest_images((vacancy.position - HOST.positions[0])[None], HOST.cell, HOST.pbc)) < 0.1


def test_order_of_atoms_does_not_matter():
    rng = np.random.default_rng(5)
    defect = STRUCTURE_KINDS["carbon_pair_interstitial"](HOST, rng)
    order = rng.permutation(len(defect.atoms))
    found, shuffled = find_defects(defect.atoms, HOST), find_defects(defect.atoms[order], HOST)
    assert {defect.kind: [order[atom] for atom in defect.atoms] for defect in shuffled} == {
        defect.kind: list(defect.atoms) for defect in found
    }
    assert len(found) == 2


def test_frames_share_a_host():
    """Its numbering of sites holds for all of them, and vacancies go along if all atoms drift."""
    rng = np.random.default_rng(0)
    atoms = HOST.copy()
    del atoms[7]
    host = host_of(atoms)
    before = host.positions.copy()
    (first,) = find_defects(atoms, host)
    for step in range(1, 4):
        frame = atoms.copy()
        frame.positions += 0.2 * step + rng.normal(scale=NOISE, size=frame.positions.shape)
        (vacancy,) = find_defects(frame, host)
        assert vacancy.host_sites == first.host_sites
        np.testing.assert_allclose(vacancy.position, first.position + 0.2 * step, atol=0.05)
    np.testing.assert_array_equal(host.positions, before)


def test_surface_needs_its_host():
    slab = diamond100("Si", (4, 4, 6), vacuum=6.0, a=5.43)
    slab.pbc = True
    atoms = slab.copy()
    atoms.symbols[40] = "C"
    with pytest.raises(InputError, match="12.0 Å of vacuum along cell vector c; give the perfect crystal"):
        find_defects(atoms)
    for pbc in (True, (True, True, False)):
        atoms.pbc = pbc
        (carbon,) = find_defects(atoms, slab)
        assert (carbon.kind, carbon.atoms, carbon.host_sites) == ("C_Si", (40,), (40,))


def test_structures_without_host():
    rng = np.random.default_rng(0)
    random = Atoms("Si216", positions=rng.uniform(0, 16, size=(216, 3)), cell=[16] * 3, pbc=True)
    molten = HOST.copy()
    molten.positions += rng.normal(scale=0.9, size=(216, 3))
    alloy = HOST.copy()
    alloy.symbols[rng.permutation(216)[:108]] = "Ge"
    for atoms in (random, molten, alloy, molecule("C60"), HOST[:0], bulk("Si")):
        with pytest.raises(InputError):
            find_defects(atoms)


def test_wrong_host():
    with pytest.raises(InputError, match="cell of the host must be deformed by 50%"):
        find_defects(HOST * (1, 1, 2), HOST * (1, 1, 4))
    shifted = HOST.copy()
    shifted.positions += [2.7, 0.0, 0.0]
    with pytest.raises(InputError, match="the host does not fit: 4.. defects on 216 sites"):
        find_defects(shifted, HOST)
    with pytest.raises(InputError, match="fewer than two atoms"):
        find_defects(HOST, HOST[:1])
    flat = HOST.copy()
    flat.cell[2] = flat.cell[1]
    with pytest.raises(InputError, match="in one plane"):
        find_defects(flat)
