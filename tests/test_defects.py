"""Structures of the generator: ideal defects and complexes, crystals and slabs without any, and distorted starts."""

import numpy as np
import pytest
from ase.build import bulk
from ase.neighborlist import neighbor_list

from modeling_adapt.crystal.minimum_image import shortest_images
from modeling_adapt.data.defects.distortion import BOND_FACTORS, distort, too_close
from modeling_adapt.data.defects.kinds import DEFECT_KINDS, STRUCTURE_KINDS, silicon_supercell
from modeling_adapt.data.defects.labelling import erhart_albe
from modeling_adapt.data.load.importance import defect_distances
from modeling_adapt.data.options import WITH_DEFECT, WITHOUT_DEFECT
from modeling_adapt.errors import InputError

HOST = silicon_supercell()
EXPECTED = {
    "vacancy": ["v_Si"],
    "interstitial_tetrahedral": ["Si_i"],
    "interstitial_hexagonal": ["Si_i"],
    "interstitial_split_110": ["Si_i"],
    "carbon_substitutional": ["C_Si"],
    "carbon_interstitial": ["C_i"],
    "divacancy": ["v_Si", "v_Si"],
    "carbon_pair_substitutional": ["C_Si", "C_Si"],
    "carbon_pair_interstitial": ["C_Si", "C_i"],
    "carbon_vacancy": ["C_Si", "v_Si"],
    "di_interstitial": ["Si_i"] * 2,
    "tri_interstitial": ["Si_i"] * 3,
}
# Distance to the nearest atom (Å) and neighbours within 2.6 Å of the last atom, which is the defect; geometry alone.
IDEAL = {"interstitial_tetrahedral": (2.351, 4), "interstitial_hexagonal": (2.251, 6)}


def make(kind, seed=0):
    return STRUCTURE_KINDS[kind](HOST, np.random.default_rng(seed))


def bonds(atoms, reach=2.6):
    """Number of neighbours of every atom."""
    return np.bincount(neighbor_list("i", atoms, reach), minlength=len(atoms))


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_ideal_defects(kind):
    places = set()
    for seed in range(6):
        defect = make(kind, seed)
        atoms, kinds = defect.atoms, defect.site_kinds
        assert len(HOST) == 216 and defect.kind == kind and not too_close(atoms)
        assert kinds == EXPECTED.get(kind, kinds)
        assert len(atoms) == 216 + sum(name.endswith("_i") for name in kinds) - kinds.count("v_Si")
        assert (atoms.symbols == "C").sum() == sum(name.startswith("C_") for name in kinds)
        for site, place in zip(defect.sites, defect.site_positions(atoms.positions), strict=True):
            np.testing.assert_allclose(
                shortest_images(place - site.position, atoms.cell.array, atoms.pbc), 0, atol=1e-9
            )
            if site.kind.startswith("C_"):
                assert atoms.symbols[site.atoms[0]] == "C" and len(site.atoms) == 1
        if kind in IDEAL:
            distances = np.sort(atoms.get_distances(-1, range(len(atoms) - 1), mic=True))
            assert distances[0] == pytest.approx(IDEAL[kind][0], abs=2e-3)
            assert (distances < 2.6).sum() == IDEAL[kind][1]
        places.add(tuple(np.round(defect.sites[0].position, 3)))
    assert len(places) >= 5  # everywhere in the cell


def test_vacancies_leave_dangling_bonds_where_they_are():
    defect = make("divacancy", 3)
    first, second = defect.site_positions(defect.atoms.positions)
    assert (bonds(defect.atoms) == 3).sum() == 6 and (bonds(defect.atoms) == 4).sum() == 208
    distances = defect_distances(defect.atoms.positions, np.array([first, second]), HOST.cell.array, HOST.pbc)
    np.testing.assert_allclose(np.sort(distances, axis=0)[:3], 2.351, atol=1e-3)


def test_members_of_complexes_are_close_and_of_random_pairs_anywhere():
    def separations(kind, seeds):
        pairs = [make(kind, seed) for seed in range(seeds)]
        places = np.array([pair.site_positions(pair.atoms.positions)[:2] for pair in pairs])
        return pairs, np.linalg.norm(shortest_images(places[:, 1] - places[:, 0], HOST.cell.array, HOST.pbc), axis=1)

    _, close = separations("carbon_pair_substitutional", 12)
    assert set(np.round(close, 1)) == {2.4, 3.8, 4.5}  # the first three shells
    pairs, far = separations("pair_random", 40)
    assert far.min() < 4 and far.max() > 6.5
    kinds = [set(pair.site_kinds) for pair in pairs]
    assert len({tuple(sorted(names)) for names in kinds}) >= 5
    assert not any("v_Si" in names and names & {"Si_i", "C_i"} for names in kinds)  # these would annihilate


@pytest.mark.parametrize("kind", ["bulk", "bulk_thermal", "bulk_strained"])
def test_crystals_without_defects(kind):
    crystal = make(kind)
    assert crystal.sites == () and crystal.site_positions(crystal.atoms.positions).shape == (0, 3)
    assert (bonds(crystal.atoms, 2.7) == 4).all()
    strain = crystal.atoms.cell.array / HOST.cell.lengths() - np.eye(3)
    assert (np.abs(strain).max() > 0.005) == (kind == "bulk_strained") and np.abs(strain).max() <= 0.03


def test_surfaces_are_slabs_of_both_faces():
    calculator = erhart_albe()
    lost = set()
    for seed in range(6):
        slab = make("surface", seed).atoms
        assert len(slab) == 192 and slab.pbc.all() and slab.cell.orthorhombic
        heights = np.sort(slab.positions[:, 2])
        assert slab.cell[2, 2] - np.ptp(heights) > 10  # vacuum
        dangling = 4 - bonds(slab)
        at_surface = dangling > 0
        lost.add((int(dangling.max()), int(at_surface.sum())))
        slab.calc = calculator
        forces = np.abs(slab.get_forces()).max(axis=1)
        assert forces[np.argsort(np.abs(slab.positions[:, 2] - heights.mean()))[:48]].max() < 1e-3  # bulk inside
    assert lost == {(2, 32), (1, 32)}  # (100) has two dangling bonds per atom, (111) one


@pytest.mark.parametrize("kind", STRUCTURE_KINDS)
def test_distorted_starts_keep_atoms_apart(kind):
    for seed in range(3):
        defect = make(kind, seed)
        distorted = distort(defect, np.random.default_rng(seed))
        assert not too_close(distorted.atoms) and distorted.site_kinds == defect.site_kinds
        moved = np.linalg.norm(distorted.atoms.positions - defect.atoms.positions, axis=1)
        assert 0.005 < np.median(moved) < 0.15 and moved.max() < 0.6 * 3 + 0.3


def test_bond_factors_are_those_of_shakenbreak():
    """All four neighbours of a vacancy move by the same factor, and every factor that fits occurs."""
    assert BOND_FACTORS[0] == -0.6 and BOND_FACTORS[-1] == 0.6 and len(BOND_FACTORS) == 13
    defect = make("vacancy")

    def distances(atoms):
        return defect_distances(atoms.positions, defect.site_positions(atoms.positions), HOST.cell.array, HOST.pbc)[
            :, 0
        ]

    before = distances(defect.atoms)
    neighbours = np.argsort(before)[:4]
    found = set()
    for seed in range(60):
        after = distances(distort(defect, np.random.default_rng(seed), rattle=0.0).atoms)
        factors = after[neighbours] / before[neighbours] - 1
        assert np.ptp(factors) < 1e-6
        assert np.abs(np.delete(after - before, neighbours)).max() < 1e-6
        found.add(round(float(factors[0]), 3))
    # At -60 % the neighbours would be 1.54 Å apart.
    assert found == set(BOND_FACTORS[1:])


def test_large_rattles_stay_large_and_keep_atoms_apart():
    crystal = make("bulk")
    for seed in range(3):
        start = distort(crystal, np.random.default_rng(seed), rattle=0.25)
        assert not too_close(start.atoms)
        scale = (start.atoms.positions - crystal.atoms.positions).std()
        assert 0.05 < scale < 0.25
    assert scale > 0.1


def test_strained_starts_carry_their_sites_along():
    defect = make("vacancy")
    start = distort(defect, np.random.default_rng(0), strain=0.02, bond_factors=(0.0,), rattle=0.0)
    assert 0.001 < np.abs(start.atoms.cell.array / HOST.cell.lengths() - np.eye(3)).max() <= 0.02
    np.testing.assert_allclose(
        start.atoms.cell.scaled_positions(start.site_positions(start.atoms.positions)),
        HOST.cell.scaled_positions(defect.site_positions(defect.atoms.positions)),
        atol=1e-9,
    )


@pytest.mark.parametrize("kind", ["vacancy", "tri_interstitial"])
def test_impossible_lattice_is_an_error(kind):
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=f"{kind}: atoms are too close"):
        distort(STRUCTURE_KINDS[kind](bulk("Si", "diamond", a=3.0, cubic=True) * 2, rng), rng)


def test_commands_know_every_kind_without_importing_how_it_is_made():
    assert (*DEFECT_KINDS,) == WITH_DEFECT and (*STRUCTURE_KINDS,) == WITH_DEFECT + WITHOUT_DEFECT
