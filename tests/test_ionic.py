"""Ionic hosts of the generator: Ewald's sum against known lattices, and what becomes of defects with a charge."""

import numpy as np
import pytest
from ase import Atoms, units

from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.generate_defects import main
from modeling_adapt.data.defects import ionic
from modeling_adapt.data.defects.kinds import Workpiece, too_close
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.options import HOSTS

FACTORIES = {"MgO": ionic.magnesium_oxide, "NaCl": ionic.sodium_chloride, "ZnS": ionic.zinc_sulfide}


def energy_of(atoms: Atoms, calculator) -> float:
    atoms = atoms.copy()
    atoms.calc = calculator
    return atoms.get_potential_energy()


def test_charges_have_the_energies_of_madelung():
    """Of rock salt, and of one charge in a cube with a background (doi 10.1103/PhysRevB.51.4014)."""
    bare, coulomb = ionic.RigidIons(ionic.CHARGES, {}), units.Hartree * units.Bohr
    rock_salt = ionic.ionic_supercell("NaCl", 5.0, 1)
    assert energy_of(rock_salt, bare) / 4 == pytest.approx(-1.7475646 * coulomb / 2.5, rel=1e-6)
    alone = Atoms("Na", cell=[7, 7, 7], pbc=True)
    assert energy_of(alone, bare) == pytest.approx(-2.837297 / 2 * coulomb / 7, rel=1e-6)


def test_forces_are_the_slope_of_the_energy():
    """In a skewed cell with a net charge."""
    rng = np.random.default_rng(0)
    atoms = ionic.charged_vacancy(ionic.ionic_supercell("MgO", 4.2, 1), rng).atoms
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.1 * rng.random((3, 3))), scale_atoms=True)
    atoms.rattle(0.1, seed=0)
    calculator, ends = ionic.magnesium_oxide(), []
    for step in (1e-4, -1e-4):
        moved = atoms.copy()
        moved.positions[3, 1] += step
        ends.append(energy_of(moved, calculator))
    atoms.calc = calculator
    assert atoms.get_forces()[3, 1] == pytest.approx((ends[1] - ends[0]) / 2e-4, rel=1e-5)
    assert np.abs(atoms.get_forces().sum(axis=0)).max() < 1e-9


@pytest.mark.parametrize("host", FACTORIES)
def test_lattice_constants_are_of_zero_stress(host):
    constant, calculator = HOSTS[host].lattice_constant, FACTORIES[host]()
    energies = [energy_of(ionic.ionic_supercell(host, constant + step, 1), calculator) for step in (-0.01, 0, 0.01)]
    assert energies[1] < min(energies[0], energies[2])


@pytest.mark.parametrize("host", ["MgO", "ZnS"])
def test_kinds_have_their_charges_and_distances(host):
    crystal = ionic.ionic_supercell(host, HOSTS[host].lattice_constant, 2)
    distances = {"schottky_pair": set(), "frenkel_pair": set()}
    for seed in range(20):
        for kind in HOSTS[host].kinds:
            defect = ionic.IONIC_KINDS[kind](crystal, np.random.default_rng(seed))
            charge = ionic.net_charge(defect.atoms)
            assert charge in {"vacancy_charged": (2, -2), "substitution_charged": (1,)}.get(kind, (0,))
            assert not too_close(defect.atoms) and defect.kind == kind
            if kind in distances:
                both = Atoms("HH", defect.site_positions(defect.atoms.positions), cell=crystal.cell, pbc=True)
                distances[kind].add(round(both.get_distance(0, 1, mic=True), 1))
    assert all(len(found) > 3 for found in distances.values())


def test_any_dopant_keeps_a_distance_and_may_share_a_site():
    crystal = ionic.ionic_supercell("MgO", 4.2, 1)
    for symbol in ("Al", "Fe", "H", "Xe"):
        piece = Workpiece(crystal)
        piece.split(0, symbol, np.array([1.0, 1.0, 0.0]), np.zeros(3))
        assert len(piece.finished("split").atoms) == 9
        assert too_close(crystal + Atoms(symbol, [crystal.positions[0] + [0.45, 0.45, 0.45]]))


def test_the_command_writes_charges(tmp_path, capsys, monkeypatch):
    options = "--host MgO --structures 8 --repeat 2 --frames 2 --steps 2 --md-steps 2 --split train"
    assert run_command(lambda: main([str(tmp_path / "set"), *options.split()])) == 0
    rows = read_split(tmp_path / "set", "train")
    kinds = dict(zip(rows["config_type"][:], rows["charge"][:], strict=True))
    assert kinds["schottky_pair"] == 0 and abs(kinds["vacancy_charged"]) == 2 and kinds["substitution_charged"] == 1
    card = (tmp_path / "set" / "README.md").read_text()
    assert "ionic:magnesium_oxide" in card and "licence MIT" in card
    assert (
        run_command(lambda: main([str(tmp_path / "no"), *options.split(), "--host", "NaCl", "--kinds", "vacancy"]))
        == 2
    )
    assert "NaCl has no kind 'vacancy'; there are schottky_pair" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_labels.py").write_text("from modeling_adapt.data.defects.ionic import sodium_chloride as mine\n")
    mine = ["--host", "NaCl", "--calculator", "my_labels:mine", "--structures", "1", *options.split()[4:]]
    assert run_command(lambda: main([str(tmp_path / "mine"), *mine])) == 0
