"""Ranked structures on their way back to DFT: folders for VASP, and what ShakeNBreak and doped go on from."""

import json

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

import modeling_adapt.cli.relax as command
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.ranking import Candidate, Host, rank
from modeling_adapt.simulation.tree import defect_of, distortion_of, write_tree

DEFECT = "v_Cu_0"


@pytest.mark.parametrize(
    ("name", "defect", "distortion"),
    [
        ("v_Cd_-2/Bond_Distortion_-30.0%", "v_Cd_-2", -0.3),
        ("snb/v_Cd_+1/Bond_Distortion_0.0%", "v_Cd_+1", 0.0),
        ("v_Cd_0/Unperturbed", "v_Cd_0", "Unperturbed"),
        ("v_Cd_0/Bond_Distortion_-60.0%_from_+2", "v_Cd_0", "-60.0%_from_+2"),
        ("mine/Rattled", "mine", "Rattled"),
        ("generator-v_Cd_-2", "v_Cd_-2", None),
        ("Te_i_C3v_Cd2.83_-1/vasp_std", "Te_i_C3v_Cd2.83_-1", None),
        ("cands-4", "Cu31_0", None),
        ("Rattled", "Cu31_0", "Rattled"),
    ],
)
def test_names(name, defect, distortion):
    assert (defect_of(name, "Cu31"), distortion_of(name)) == (defect, distortion)


def _vacancy(pull: float = 0.0) -> Atoms:
    """Copper with gold atoms among it, so that elements come more than once in the order of the atoms."""
    atoms = bulk("Cu", cubic=True) * 2
    atoms.symbols[[3, 7]] = "Au"
    del atoms[0]
    atoms.positions[4, 0] += pull
    return atoms


@pytest.fixture
def ranked() -> list[Candidate]:
    energies = {"Bond_Distortion_-30.0%": -10.0, "Bond_Distortion_0.0%": -9.7, "Unperturbed": -9.7, "Rattled": -9.5}
    pulls = {"Bond_Distortion_-30.0%": 0.5, "Rattled": 0.9}
    made = [Candidate(f"{DEFECT}/{name}", _vacancy(pulls.get(name, 0.0)), energy) for name, energy in energies.items()]
    return rank([*made, Candidate("other", bulk("Cu", cubic=True), -3.0)])


def test_folders(ranked, tmp_path):
    write_tree(tmp_path / "tree", ranked, "a model")
    assert sorted(path.name for path in (tmp_path / "tree").iterdir()) == ["Cu4_0", "relaxed.json", DEFECT]
    folder = tmp_path / "tree" / DEFECT
    assert sorted(path.parent.name for path in folder.glob("[0-9]/POSCAR")) == ["1", "2", "3"]
    lowest = ase.io.read(folder / "1" / "POSCAR")
    assert lowest.get_chemical_symbols() == _vacancy().get_chemical_symbols()
    np.testing.assert_allclose(lowest.positions, _vacancy(0.5).positions, atol=1e-7)
    assert (folder / "1" / "POSCAR").read_text().startswith("v_Cu_0, rank 1, a model: v_Cu_0/Bond_Distortion_-30.0%")
    second = ase.io.read(folder / "Unperturbed" / "CONTCAR")
    np.testing.assert_allclose(second.positions, ase.io.read(folder / "2" / "POSCAR").positions)
    assert yaml.safe_load((folder / f"{DEFECT}.yaml").read_text()) == {
        "distortions": {-0.3: -10.0, 0.0: -9.7, "Rattled": -9.5},
        "Unperturbed": -9.7,
    }
    assert (folder / f"{DEFECT}.png").stat().st_size > 5_000


def test_entries_for_doped(ranked, tmp_path):
    core = pytest.importorskip("pymatgen.core", reason="pymatgen is an optional extra")
    write_tree(tmp_path / "tree", ranked)
    entries = json.loads((tmp_path / "tree" / "relaxed.json").read_text())
    assert [entry["energy"] for entry in entries[DEFECT]] == [-10.0, -9.7, -9.5]
    structure = core.Structure.from_dict(entries[DEFECT][0]["structure"])
    assert [str(site.specie) for site in structure] == _vacancy().get_chemical_symbols()
    computed = pytest.importorskip("pymatgen.entries.computed_entries", reason="only the core is installed")
    assert computed.ComputedStructureEntry.from_dict(entries[DEFECT][0]).energy == -10.0


def test_entries_of_doped_come_back_relaxed(ranked, tmp_path):
    pytest.importorskip("pymatgen.core", reason="pymatgen is an optional extra")
    was = {"@module": "doped.core", "@class": "DefectEntry", "charge_state": 0, "sc_entry": {}, "wyckoff": "8a"}
    was |= {"corrections": {"kumagai": 0.1}, "bulk_entry": None, "_sc_entry_energy": -1.0}
    name = f"{DEFECT}/Bond_Distortion_-30.0%"
    host = Host(bulk("Cu", cubic=True) * 2, -11.0, {})
    write_tree(tmp_path / "tree", ranked, entries={name: was}, host=host)
    write_tree(tmp_path / "without", ranked, entries={name: was})
    assert not (tmp_path / "without" / "defect_entries.json").exists()  # its bulk would be of DFT
    (entry,) = json.loads((tmp_path / "tree" / "defect_entries.json").read_text()).values()
    assert entry["sc_entry"]["energy"] == -10.0 and entry["bulk_entry"]["energy"] == -11.0
    assert entry["wyckoff"] == "8a" and entry["corrections"] == {} and entry["_sc_entry_energy"] is None
    x = entry["sc_entry"]["structure"]["sites"][4]["xyz"][0]
    assert x == pytest.approx(_vacancy(0.5).positions[4, 0])


def test_of_the_command(tmp_path, monkeypatch, capsys):
    calculator = EMT()
    calculator.domain = None
    monkeypatch.setattr("modeling_adapt.simulation.relaxation.can_batch", lambda *_: False)
    monkeypatch.setattr(ADAPTCalculator, "from_pretrained", lambda *_, **__: calculator)
    ase.io.write(tmp_path / "v_Cu_0.extxyz", _vacancy(0.1))
    options = [str(tmp_path / "v_Cu_0.extxyz"), "--model", "m", "--finish", "0.05"]

    def run(output: str, tree: str) -> int:
        where = ["--output", str(tmp_path / output), "--write-tree", str(tmp_path / tree)]
        return run_command(lambda: command.main([*options, *where]))

    assert run("out", "tree") == 0
    assert (tmp_path / "tree" / "v_Cu_0" / "1" / "POSCAR").is_file()
    for output, tree, message in (("other", "tree", "not empty"), ("new", "new", "--output are one folder")):
        assert run(output, tree) == 2
        assert message in capsys.readouterr().err and not (tmp_path / output).exists()
