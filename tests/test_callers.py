"""Packages that take any ASE calculator work with ours: pymatgen, matcalc, and the cells and pressures of ASE."""

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.optimize import LBFGS

from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.exchange import as_structure

LATTICE_CONSTANT = 5.469  # Å, of the silicon model in the box


@pytest.fixture(scope="module")
def calculator() -> ADAPTCalculator:
    return ADAPTCalculator()


def _rattled():
    atoms = bulk("Si", a=5.4)
    atoms.rattle(0.05, seed=0)
    return atoms


def _edge(volume: float) -> float:
    """Of the cubic cell in Å, from the volume of two atoms in Å^3."""
    return (4 * volume) ** (1 / 3)


def test_cell_filters(calculator):
    atoms = _rattled()
    atoms.calc = calculator
    assert LBFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=50)
    assert _edge(atoms.get_volume()) == pytest.approx(LATTICE_CONSTANT, abs=0.005)
    assert np.abs(atoms.get_stress()).max() / units.GPa < 0.1


def test_dynamics_at_a_pressure(calculator):
    atoms = bulk("Si", cubic=True, a=5.45)
    atoms.calc = calculator
    hot = np.sqrt(units.kB * 300 * atoms.get_masses())[:, None]
    atoms.set_momenta(hot * np.random.default_rng(0).normal(size=(len(atoms), 3)))
    before = atoms.get_volume()
    times = {"tdamp": 50 * units.fs, "pdamp": 500 * units.fs}
    dynamics = IsotropicMTKNPT(atoms, 1 * units.fs, temperature_K=300, pressure_au=0.0, **times)
    conserved = dynamics.get_conserved_energy()
    dynamics.run(20)
    assert before < atoms.get_volume() < 1.05 * before  # it is under pressure
    assert dynamics.get_conserved_energy() == pytest.approx(conserved, abs=1e-3 * len(atoms))


class TestPymatgen:
    @pytest.fixture
    def structure(self):
        pytest.importorskip("pymatgen.core", reason="pymatgen is an optional extra")
        return as_structure(_rattled())

    def test_relax(self, structure, calculator):
        relaxed = structure.relax(calculator, fmax=0.01)
        assert _edge(relaxed.volume) == pytest.approx(LATTICE_CONSTANT, abs=0.005) and relaxed.calc is calculator
        fixed = structure.relax(calculator, relax_cell=False, optimizer="BFGS", fmax=0.01)
        assert fixed.volume == pytest.approx(structure.volume)

    def test_calculate(self, structure, calculator):
        results = structure.calculate(calculator).results
        assert {"energy", "forces", "stress", "energy_uncertainty", "atom_doubt"} <= results.keys()
        assert results["forces"].shape == (2, 3) and results["stress"].shape == (6,)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*acoustic mode")
class TestMatcalc:
    @pytest.fixture
    def matcalc(self):
        return pytest.importorskip("matcalc", reason="matcalc is an optional extra")

    @pytest.fixture
    def silicon(self, matcalc):
        return as_structure(bulk("Si", a=LATTICE_CONSTANT))

    def test_relaxation(self, matcalc, calculator, tmp_path):
        found = matcalc.RelaxCalc(calculator, fmax=0.01, traj_file=tmp_path / "x.traj").calc(as_structure(_rattled()))
        assert found["is_converged"] and _edge(found["volume"]) == pytest.approx(LATTICE_CONSTANT, abs=0.005)

    @pytest.mark.filterwarnings("ignore:.*outside the trained region")
    def test_bulk_modulus_in_two_ways(self, matcalc, calculator, silicon):
        """95 GPa by DFT, 94 by the answers of the model."""
        state = matcalc.EOSCalc(calculator, fmax=0.01, max_abs_strain=0.03).calc(silicon)
        assert state["bulk_modulus_bm"] == pytest.approx(94, abs=4) and state["r2_score_bm"] > 0.99
        # Of components that symmetry makes zero, which are rounding here, no line is a good fit.
        elastic = matcalc.ElasticityCalc(calculator, fmax=0.01, units_GPa=True, r2_min=-1).calc(silicon)
        assert elastic["bulk_modulus_vrh"] == pytest.approx(94, abs=4)

    def test_phonons(self, matcalc, calculator, silicon, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # where it leaves a file
        found = matcalc.PhononCalc(calculator, fmax=0.01, supercell_matrix=((2, 0, 0), (0, 2, 0), (0, 0, 2)))
        thermal = found.calc(silicon)["thermal_properties"]
        at_room = thermal["heat_capacity"][list(thermal["temperatures"]).index(300)]
        assert at_room == pytest.approx(2 * 19.8, abs=1.5)  # J/(K mol); measured for each of the two atoms
