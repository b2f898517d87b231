"""Structures of pymatgen and doped. Stand-ins have the attributes that we read; files need pymatgen itself."""

from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.exchange import as_atoms, as_structure, read_objects
from modeling_adapt.simulation.inputs import read_inputs
from modeling_adapt.simulation.relaxation import relax


def _structure():
    return SimpleNamespace(to_ase_atoms=lambda msonable: bulk("Cu", cubic=True))


def _entry(charge: int = 0):
    return SimpleNamespace(sc_entry=SimpleNamespace(structure=_structure()), charge_state=charge)


def test_objects_of_both_packages_become_atoms():
    for one in (_structure(), _entry(), bulk("Cu", cubic=True)):
        assert as_atoms(one) == bulk("Cu", cubic=True)
        assert relax(one, EMT()).status == "converged"


def test_charges_come_along_and_who_reads_none_refuses(make_energy_model):
    assert as_atoms(_entry(2)).info == {"charge": 2} and as_atoms(_entry()).info == {}
    calculator = ADAPTCalculator(make_energy_model(architecture="pairwise"), outside_domain="ignore")
    with pytest.raises(InputError, match=r"charge"):
        relax(_entry(2), calculator)


def test_what_is_no_structure():
    with pytest.raises(InputError, match="a str is no structure"):
        as_atoms("POSCAR")


def test_json_of_ase_is_still_read(tmp_path):
    bulk("Cu", cubic=True).write(tmp_path / "copper.json")
    assert list(read_inputs([tmp_path / "copper.json"])) == ["copper"]


class TestFiles:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("pymatgen")

    def test_there_and_back(self):
        atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
        again = as_atoms(as_structure(atoms))
        assert np.array_equal(again.numbers, atoms.numbers) and np.allclose(again.positions, atoms.positions)

    def test_named_structures_keep_their_names(self, tmp_path):
        from monty.serialization import dumpfn

        dumpfn({"v_Cu_0": as_structure(bulk("Cu")), "Cu_i/a": as_structure(bulk("Cu") * 2)}, tmp_path / "set.json.gz")
        names = read_inputs([tmp_path / "set.json.gz"])
        assert {name: len(atoms) for name, atoms in names.items()} == {"set.json-v_Cu_0": 1, "set.json-Cu_i_a": 8}

    def test_other_packages_are_not_imported(self, tmp_path):
        (tmp_path / "x.json").write_text('[{"@module": "subprocess", "@class": "Popen", "args": ["true"]}]')
        with pytest.raises(InputError, match="x.json holds no structure"):
            read_objects(tmp_path / "x.json")

    def test_fixed_atoms_and_directions_stay(self):
        atoms = bulk("Cu") * 2
        atoms.set_constraint(FixAtoms([0]))
        atoms.pbc = (True, True, False)
        again = as_atoms(as_structure(atoms))
        assert again.constraints[0].get_indices().tolist() == [0] and again.pbc.tolist() == [True, True, False]

    def test_molecules(self):
        assert not as_atoms(as_structure(Atoms("OH2", [[0, 0, 0], [0, 0, 1], [0, 1, 0]]))).pbc.any()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('[{"@module": "pymatgen.core", "@class": "Nonsense"}]', "cannot be read|is no structure"),
            ('{"@module": "pymatgen.core.structure", "@callable": "Structure"}', "cannot be read|is no structure"),
            ('{"a": {"@module": "pymatgen.core", "@class": "Lattice"', "cannot be read"),
        ],
    )
    def test_what_cannot_be_read_is_one_line(self, tmp_path, content, message):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(InputError, match=f"x.json.*({message})") as error:
            read_objects(tmp_path / "x.json")
        assert "\n" not in str(error.value)

    def test_what_is_no_structure(self, tmp_path):
        (tmp_path / "x.json").write_text('{"@module": "pymatgen.core.lattice", "@class": "Lattice", "matrix": 1}')
        with pytest.raises(InputError, match="x.json"):
            read_objects(tmp_path / "x.json")
