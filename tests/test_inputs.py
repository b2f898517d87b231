"""What relax.py finds in files and trees: ShakeNBreak's, doped's and others'; what it skips, and what it keeps."""

import csv
import json
import shutil

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixedPlane, FixScaled, FixSymmetry

import modeling_adapt.cli.relax as command
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.data.read.frames import read_frames
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.inputs import Selection, find_inputs, read_inputs
from modeling_adapt.simulation.relaxation import relax
from modeling_adapt.simulation.results import not_held, write_result


def vacancy(seed: int = 0) -> Atoms:
    atoms = bulk("Cu", cubic=True) * 2
    del atoms[0]
    atoms.rattle(0.03, seed=seed)
    return atoms


def structure(atoms: Atoms, charge: float = 0.0, state: int | None = None) -> dict:
    """As pymatgen writes it; decorated with an oxidation state."""
    sites = [
        {"species": [{"element": one.symbol, "occu": 1, "oxidation_state": state}], "xyz": list(one.position)}
        for one in atoms
    ]
    lattice = {"matrix": atoms.cell.tolist(), "pbc": [True] * 3}
    return {"@module": "pymatgen.core.structure", "@class": "Structure"} | {
        "charge": charge,
        "lattice": lattice,
        "sites": sites,
    }


def entry(atoms: Atoms, charge: int) -> dict:
    computed = {"@module": "pymatgen.entries", "structure": structure(atoms)}
    return {"@module": "doped.core", "@class": "DefectEntry", "charge_state": charge, "sc_entry": computed}


@pytest.fixture
def tree(tmp_path):
    """ShakeNBreak's and doped's, with a charge state, a broken file and a folder of results."""
    root = tmp_path / "snb"
    for number, folder in enumerate(("Unperturbed", "Bond_Distortion_-30.0%", "Rattled")):
        for defect in ("v_Cu_0", "v_Cu_-1"):
            (root / defect / folder).mkdir(parents=True)
            ase.io.write(root / defect / folder / "POSCAR", vacancy(number), format="vasp")
            for name in ("INCAR", "KPOINTS", "CHGCAR"):
                (root / defect / folder / name).write_text("SYSTEM = x\n")
            (root / defect / "distortion_metadata.json").write_text('{"distortions": {"v_Cu": [1, 2]}}')
    ase.io.write(root / "v_Cu_0" / "Rattled" / "CONTCAR", vacancy(9), format="vasp")
    generator = {"@module": "doped.generation", "@class": "DefectsGenerator", "bulk_supercell": structure(vacancy())}
    generator["defect_entries"] = {"Cu_i_0": entry(vacancy(5), 0), "Cu_i_+1": entry(vacancy(6), 1)}
    (root / "Cu_defects_generator.json").write_text(json.dumps(generator))
    (root / "broken.cif").write_text("data_broken\n")
    (root / "earlier").mkdir()
    (root / "earlier" / "relax.json").write_text("{}")
    ase.io.write(root / "earlier" / "old.extxyz", vacancy())
    return root


DISTORTIONS = ("Bond_Distortion_-30.0%", "Rattled", "Unperturbed")


def test_a_tree_keeps_its_hierarchy(tree):
    found = find_inputs([tree])
    assert list(found.structures) == [
        "Cu_defects_generator-Cu_i_0",
        *(f"v_Cu_0/{folder}" for folder in DISTORTIONS),
    ]
    assert found.skipped.keys() == {
        *("broken.cif", "Cu_defects_generator-Cu_i_+1"),
        *(f"v_Cu_-1/{folder}" for folder in DISTORTIONS),
    }
    assert "a charge of -1 by its name; the model knows neutral structures only" in found.skipped["v_Cu_-1/Rattled"]
    assert "structure Cu_i_+1: a charge of +1" in found.skipped["Cu_defects_generator-Cu_i_+1"]
    np.testing.assert_allclose(found.structures["v_Cu_0/Rattled"].positions, vacancy(2).positions, atol=1e-6)
    (note,) = found.notes
    counted = f"{tree}: 9 structures in 2 folders"  # with those that are skipped
    assert note.startswith(f"{counted}; files that are no structures: 20 (CHGCAR, INCAR, KPOINTS, ")


def test_patterns_choose(tree):
    def names(*include, exclude=()):
        return list(find_inputs([tree], selection=Selection(include, exclude)).structures)

    assert names("v_Cu_0/*", exclude=["Rattled"]) == [f"v_Cu_0/{DISTORTIONS[0]}", "v_Cu_0/Unperturbed"]
    assert names("v_Cu_0") == [f"v_Cu_0/{folder}" for folder in DISTORTIONS]
    assert names("CONTCAR") == ["v_Cu_0/Rattled"]
    assert names("Cu_i_0") == ["Cu_defects_generator-Cu_i_0"]
    with pytest.raises(InputError, match="--include and --exclude leave no structure"):
        names("v_Zn*")


def test_one_folder_of_a_tree_and_several(tree):
    assert list(find_inputs([tree / "v_Cu_0"]).structures) == [f"v_Cu_0/{folder}" for folder in DISTORTIONS]
    files = [tree / "v_Cu_0" / folder / "POSCAR" for folder in DISTORTIONS]
    assert list(find_inputs(files).structures) == [f"v_Cu_0/{folder}" for folder in DISTORTIONS]
    assert list(find_inputs([tree / "v_Cu_0" / "Rattled"]).structures) == ["Rattled"]


def test_charges_are_seen_and_decoration_is_none(tmp_path, shared_cases):
    cu = vacancy()
    (tmp_path / "decorated.json").write_text(json.dumps(structure(cu, 31.0, state=1)))
    (tmp_path / "charged.json").write_text(json.dumps(structure(cu, -2.0)))
    assert "charge" not in read_inputs([tmp_path / "decorated.json"])["decorated"].info
    with pytest.raises(InputError, match="a charge of -2"):
        read_inputs([tmp_path / "charged.json"])
    assert (
        read_inputs([shared_cases / "decorated_vacancy.json"])["decorated_vacancy"].symbols.formula.count()["O"] == 31
    )
    with pytest.raises(InputError, match="a charge of -1"):
        read_inputs([shared_cases / "charge_minus_one.extxyz"])
    taken = find_inputs([shared_cases / "charge_minus_one.extxyz"], any_charge=True).structures["charge_minus_one"]
    assert taken.info["charge"] == -1 and taken.has("initial_magmoms")


def test_electrons_in_the_input_of_vasp(tmp_path):
    ase.io.write(tmp_path / "POSCAR", vacancy(), format="vasp")
    (tmp_path / "INCAR").write_text("ENCUT = 400\n NELECT = 340\n")
    for any_charge in (False, True):  # nobody knows it, so a model that reads charges would read a wrong one
        with pytest.raises(InputError, match="INCAR sets NELECT, and no POTCAR tells of which charge that is"):
            read_inputs([tmp_path / "POSCAR"], any_charge=any_charge)
    assert find_inputs([tmp_path / "POSCAR"], charge=1.0).structures["poscar"].info["charge"] == 1
    (tmp_path / "POTCAR").write_text("   POMASS =   63.546; ZVAL   =   11.000    mass and valenz\n")
    with pytest.raises(InputError, match=r"a charge of \+1 by its NELECT"):
        read_inputs([tmp_path / "POSCAR"])
    (tmp_path / "INCAR").write_text("NELECT = 341\n")
    assert list(read_inputs([tmp_path / "POSCAR"])) == ["poscar"]


def test_a_broken_file_does_not_take_the_name_of_another(tmp_path):
    ase.io.write(tmp_path / "a.xyz", vacancy())
    (tmp_path / "a.cif").write_text("data_broken\n")
    found = find_inputs([tmp_path])
    assert list(found.structures) == ["a"] and list(found.skipped) == ["a.cif"]


@pytest.fixture
def as_model(monkeypatch):
    """EMT, which knows copper and not silicon, in the place of every checkpoint."""
    monkeypatch.setattr("modeling_adapt.simulation.relaxation.can_batch", lambda *_: False)
    calculator = EMT()
    calculator.domain = None

    def calculate(atoms=None, *arguments, known=calculator.calculate):
        if atoms is not None and not {"Cu"}.issuperset(atoms.symbols):
            raise InputError("atom 0 is Si, which the model does not know")
        return known(atoms, *arguments)

    monkeypatch.setattr(calculator, "calculate", calculate)
    monkeypatch.setattr(ADAPTCalculator, "from_pretrained", lambda *_, **__: calculator)


def _run(*argv) -> int:
    return run_command(lambda: command.main([str(argument) for argument in argv]))


def test_foreign_structures_do_not_stop_the_others(tree, tmp_path, as_model, capsys):
    ase.io.write(tree / "silicon.cif", bulk("Si", cubic=True))
    coinciding = vacancy()
    coinciding.positions[1] = coinciding.positions[0]
    ase.io.write(tree / "coinciding.extxyz", coinciding)
    arguments = (tree, "--model", "m", "--output", tmp_path / "out", "--fmax", "0.3")
    assert _run(*arguments) == 1
    printed = capsys.readouterr()
    assert "skipped, with 4 left to relax: 7\n" in printed.err and printed.out.startswith(f"{tree}: 11 structures")
    reasons = {row["name"]: row["reason"] for row in csv.DictReader(open(tmp_path / "out" / "skipped.csv"))}
    assert len(reasons) == 7 and reasons["silicon"] == "silicon: atom 0 is Si, which the model does not know"
    assert "atoms 0 and 1 are at the same place" in reasons["coinciding"]
    relaxed = tmp_path / "out" / "v_Cu_0" / "Bond_Distortion_-30.0%.relaxed.extxyz"
    assert ase.io.read(relaxed).info["status"] == "converged"
    assert len(ase.io.read(str(relaxed).replace("relaxed", "traj"), ":")) > 1
    assert "v_Cu_0/Rattled" in (tmp_path / "out" / "ranking.csv").read_text()
    assert _run(*arguments) == 1  # and once more, with nothing left to do
    excluded = ("--exclude", "v_Cu*", "*_+1", "broken", "silicon", "coinciding", "--output", tmp_path / "all")
    assert _run(tree, "--model", "m", *excluded) == 0 and not (tmp_path / "all" / "skipped.csv").exists()


def test_cases_of_names_and_trees(shared_cases, tmp_path, as_model, capsys):
    """Of another element than the model knows, so that the reason is what is told of all of them."""
    for case in sorted(shared_cases.glob("Bond_Distortion_*")) + [shared_cases / "poscar_name"]:
        shutil.copytree(case, tmp_path / "v_Si_0" / case.name)
    assert list(find_inputs([tmp_path / "v_Si_0"]).structures) == [
        *("v_Si_0/Bond_Distortion_-30.0%", "v_Si_0/Bond_Distortion_20.0%", "v_Si_0/poscar_name"),
    ]
    assert _run(tmp_path / "v_Si_0", "--model", "m", "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "none of 3 structures can be relaxed; the first: v_Si_0/Bond_Dist" in error and error.count("\n") == 1


# What belongs to a structure ----------------------------------------------------------------------------------------


def belongings() -> Atoms:
    atoms = vacancy()
    atoms.set_initial_magnetic_moments(np.linspace(-1, 1, len(atoms)))
    atoms.set_tags(range(len(atoms)))
    atoms.info["charge"] = -1.0
    atoms.set_constraint([FixAtoms([0, 1]), FixScaled(4, [False, False, True]), FixedPlane([5], (0, 1, 0))])
    return atoms


def test_what_belongs_to_a_structure_stays(tmp_path):
    start = belongings()
    write_result("a", relax(start, EMT(), steps=2), tmp_path, start)
    path = tmp_path / "a.relaxed.extxyz"
    (back,) = read_frames(path)
    assert [one.todict() for one in back.constraints] == [one.todict() for one in start.constraints]
    assert back.info["charge"] == -1 and np.array_equal(back.get_tags(), start.get_tags())
    np.testing.assert_allclose(back.get_initial_magnetic_moments(), start.get_initial_magnetic_moments(), atol=1e-8)
    by_others = ase.io.read(path)  # who does not know our key still finds the directions
    forces = [np.ones((len(start), 3)), np.ones((len(start), 3))]
    for atoms, its_forces in zip((start, by_others), forces, strict=True):
        for constraint in atoms.constraints:
            constraint.adjust_forces(atoms, its_forces)
    assert np.array_equal(*forces)


def test_symmetry_stays_fixed(tmp_path):
    pytest.importorskip("spglib")
    start = bulk("Cu", cubic=True)
    start.set_constraint(FixSymmetry(start))
    write_result("a", relax(start, EMT(), steps=1), tmp_path, start)
    (back,) = read_frames(tmp_path / "a.relaxed.extxyz")
    assert [type(one) for one in back.constraints] == [FixSymmetry]


def test_what_a_format_cannot_hold_is_said(shared_cases):
    assert not_held({"a": vacancy()}, "vasp") == []
    lines = not_held({"a": belongings(), "b": belongings()}, "vasp")
    assert [line.split(" of a and 1 others; NAME.")[0] for line in lines] == [
        f"vasp files do not hold the {thing}" for thing in ("magnetic moments", "tags", "charge")
    ]
    (partial,) = read_inputs([shared_cases / "partial_selective_dynamics.vasp"]).values()
    assert not_held({"a": partial}, "vasp") == [] == not_held({"a": partial}, "traj")
    assert [line for line in not_held({"a": partial}, "cif") if "constraints" in line]
    slanted = vacancy()
    slanted.set_constraint(FixedPlane([0], (1, 1, 0)))  # which ASE refuses to write as POSCAR
    assert "constraints" in not_held({"a": slanted}, "vasp")[0]


@pytest.mark.parametrize("told", ["two", np.nan, np.inf])
def test_a_charge_that_is_no_number_is_the_fault_of_its_structure(tmp_path, told):
    wrong = vacancy()
    wrong.info["charge"] = told
    ase.io.write(tmp_path / "wrong.traj", wrong)
    ase.io.write(tmp_path / "right.extxyz", vacancy(1))
    found = find_inputs([str(tmp_path / "wrong.traj"), str(tmp_path / "right.extxyz")])
    assert list(found.structures) == ["right"] and "a charge must be a number" in found.skipped["wrong"]
