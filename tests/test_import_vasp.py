"""import_structures.py on folders of VASP runs: which files, which names, and what of a run that was cut off."""

import gzip
import re
import shutil
from collections import Counter

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from documentation import ROOT

from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.import_structures import main
from modeling_adapt.cli.train import main as train
from modeling_adapt.data.load.reading import of_one_charge, read_split, read_splits
from modeling_adapt.data.read.charges import named_charge
from modeling_adapt.data.read.frames import read_run, run_charge, run_kind
from modeling_adapt.errors import InputError

CELL = bulk("Si", "diamond", a=5.43, cubic=True)
ENERGY = -43.39281547


def steps(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Positions (8, 3) in Å, forces (8, 3) in eV/Å and energy in eV of ionic steps, with VASP's digits."""
    rng = np.random.default_rng(seed)
    positions = (CELL.positions + rng.normal(scale=0.05, size=(8, 3))).round(5)
    return [(positions + 0.01 * step, rng.normal(size=(8, 3)).round(6), ENERGY + step) for step in range(count)]


SMEARING = 0.0125  # eV; what E(sigma -> 0) is above the free energy, of which the forces are the gradient


def lines(name: str, rows: np.ndarray) -> str:
    return f'<varray name="{name}">' + "".join(f"<v>{x:.8f} {y:.8f} {z:.8f}</v>\n" for x, y, z in rows) + "</varray>"


def vasprun(run, crystal=CELL) -> str:
    """The parts of vasprun.xml that tell structures and labels; elements and cell are those of `crystal`."""

    def structure(positions, name=""):
        basis = f"<crystal>{lines('basis', crystal.cell.array)}</crystal>"
        return f"<structure{name}>{basis}{lines('positions', crystal.cell.scaled_positions(positions))}</structure>\n"

    energy = '<energy><i name="e_fr_energy">{0:.8f}</i><i name="e_0_energy">{1:.8f}</i></energy>'
    calculations = "".join(
        f"<calculation><scstep>{energy.format(total, total + SMEARING)}</scstep>{structure(positions)}"
        f"{lines('forces', forces)}{energy.format(total, total + SMEARING)}</calculation>\n"
        for positions, forces, total in run
    )
    start = structure(run[0][0] if run else crystal.positions, ' name="initialpos"')
    atoms = "".join(f"<rc><c>{symbol}</c><c>1</c></rc>" for symbol in crystal.symbols)
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n'
        f'<kpoints>{lines("kpointlist", np.zeros((1, 3)))}<varray name="weights"><v>1.0</v></varray></kpoints>\n'
        f'<atominfo><array name="atoms"><set>{atoms}</set></array></atominfo>\n'
        f"{start}{calculations}</modeling>\n"
    )


def outcar(run) -> str:
    """The parts of OUTCAR that tell structures and labels."""
    text = (
        " POTCAR:    PAW_PBE Si 05Jan2001\n POTCAR:    PAW_PBE Si 05Jan2001\n   ions per type =               8\n"
        "   ISPIN  =      1    spin polarized calculation?\n"
        "   k-points    NKPTS =      1   k-points in BZ     NKDIM =      1   number of bands    NBANDS=     16\n"
        " k-points in reciprocal lattice and weights: \n   0.00000000  0.00000000  0.00000000       1.000\n"
    )
    for number, (positions, forces, total) in enumerate(run, start=1):
        text += f"--------- Iteration {number:4d}(   1)  ---------\n      direct lattice vectors         reciprocal\n"
        text += "".join(f" {x:.9f} {y:.9f} {z:.9f}  0.1 0.1 0.1\n" for x, y, z in CELL.cell)
        text += " POSITION                                       TOTAL-FORCE (eV/Angst)\n " + 83 * "-" + "\n"
        text += "".join("".join(f" {x:12.6f}" for x in row) + "\n" for row in np.hstack([positions, forces]))
        text += (
            "\n  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n  ---------------------\n"
            f"  free  energy   TOTEN  = {total:17.8f} eV\n\n"
            f"  energy  without entropy= {total:15.8f}  energy(sigma->0) = {total + SMEARING:15.8f}\n"
        )
    return text + " General timing and accounting informations for this job:\n"


def write_run(folder, name: str, text: str):
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".gz"):
        (folder / name).write_bytes(gzip.compress(text.encode()))
    else:
        (folder / name).write_text(text)
    return folder


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command."""
    status = run_command(lambda: main(list(map(str, arguments))))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_every_run_of_a_tree_is_a_trajectory(tmp_path, capsys):
    runs = tmp_path / "runs"
    write_run(runs / "vacancy" / "relaxed", "vasprun.xml", vasprun(steps(3, 1)))
    write_run(runs / "vacancy" / "relaxed", "OUTCAR", outcar(steps(3, 9)))  # the same run, told with fewer digits
    write_run(runs / "vacancy", "OUTCAR.gz", outcar(steps(2, 2)))
    write_run(runs / "md", "vasprun.xml.gz", vasprun(steps(4, 3)))
    write_run(runs / "old", "vasprun.xml", "")  # VASP was told not to write it
    write_run(runs / "old", "OUTCAR", outcar(steps(1, 4)))
    write_run(runs / "notes", "README", "nothing of VASP")
    status, out, error = run(capsys, runs, tmp_path / "set", "--split", "train")
    assert status == 0, error
    rows = read_split(tmp_path / "set", "train").with_format("numpy")
    assert [str(name) for name in rows["trajectory"]] == (
        ["runs/md"] * 4 + ["runs/old"] + ["runs/vacancy"] * 2 + ["runs/vacancy/relaxed"] * 3
    )
    assert rows["source"][9] == "runs/vacancy/relaxed/vasprun.xml#2"
    expected = [*steps(4, 3), *steps(1, 4), *steps(2, 2), *steps(3, 1)]
    for row, (positions, forces, energy) in zip(rows, expected, strict=True):
        np.testing.assert_allclose(np.stack(row["positions"]), positions, atol=1e-5)
        np.testing.assert_allclose(np.stack(row["forces"]), forces, atol=1e-6)
        assert row["energy"] == pytest.approx(energy, abs=1e-9)  # float32 would be off by 1e-6
    assert "cut off" not in out and "left out" not in out


@pytest.mark.parametrize(("name", "write"), [("vasprun.xml", vasprun), ("OUTCAR", outcar)])
def test_of_a_run_that_was_cut_off_complete_steps_are_taken(tmp_path, capsys, name, write):
    text = write(steps(3))
    write_run(tmp_path / "run", name, text[: len(text) - 400])
    status, out, error = run(capsys, tmp_path / "run", tmp_path / "set", "--split", "train")
    assert status == 0, error
    assert len(read_split(tmp_path / "set", "train")) == 2
    assert "cut off, of which the complete ionic steps are taken: 1" in out


@pytest.mark.parametrize(("name", "write"), [("vasprun.xml", vasprun), ("OUTCAR", outcar)])
def test_no_cut_changes_a_number(tmp_path, name, write):
    text = write(steps(2))
    cuts = range(len(write(steps(1))) + 100, len(text) - 40, 7)
    counts = set()
    for cut in cuts:
        write_run(tmp_path, name, text[:cut])
        frames = list(read_run(tmp_path / name, run_kind(tmp_path / name), notes := {}))
        for atoms, (positions, forces, energy) in zip(frames, steps(2), strict=False):
            np.testing.assert_allclose(atoms.positions, positions, atol=1e-5)
            np.testing.assert_allclose(atoms.calc.results["forces"], forces, atol=1e-6)
            assert atoms.calc.results["free_energy"] == pytest.approx(energy, abs=1e-9)
        counts.add(len(frames))
        assert notes["cut_off"]
    assert counts == {1, 2} and len(cuts) > 50


def broken_runs(folder) -> dict[str, str]:
    """Folder -> what the error must say."""
    write_run(folder / "queued", "OUTCAR", "")
    write_run(folder / "killed", "OUTCAR", outcar(steps(1))[:300])
    write_run(folder / "started", "vasprun.xml", vasprun(steps(1))[:1800])
    write_run(folder / "stopped", "vasprun.xml", vasprun([]))
    write_run(folder / "mangled", "OUTCAR", outcar(steps(2)).replace("POSITION  ", "P", 1))
    return {
        "queued": "OUTCAR: the file is empty",
        "killed": "OUTCAR: ASE cannot read frame 0",
        "started": "vasprun.xml: the run has no complete ionic step",
        "stopped": "vasprun.xml: the run has no complete ionic step",
        "mangled": "OUTCAR: ASE cannot read frame 0",
    }


def test_a_broken_run_is_one_line_or_left_out(tmp_path, capsys):
    runs = tmp_path / "runs"
    write_run(runs / "good", "vasprun.xml", vasprun(steps(2)))
    for folder, message in (expected := broken_runs(runs)).items():
        status, _, error = run(capsys, runs / folder, tmp_path / "set")
        assert status == 2 and error.count("\n") == 1 and f"{folder}/{message}" in error, error
        assert not (tmp_path / "set").exists()
    status, _, error = run(capsys, runs, tmp_path / "set", "--strict", "--split", "train")
    assert status == 2 and error.count("\n") == 1
    status, out, error = run(capsys, runs, tmp_path / "set", "--split", "train")
    assert status == 0, error
    assert set(read_split(tmp_path / "set", "train")["trajectory"]) == {"runs/good"}
    assert f"left out because it cannot be read or has bad data: {len(expected)}\n" in out
    assert all(f"{folder}/{message}" in out for folder, message in expected.items())


def test_a_folder_without_runs(tmp_path, capsys):
    write_run(tmp_path / "runs", "POSCAR", "")
    status, _, error = run(capsys, tmp_path / "runs", tmp_path / "set")
    assert status == 2 and "no vasprun.xml or OUTCAR in this folder or below" in error and error.count("\n") == 1


# Steps that are no labels -----------------------------------------------------------------------------------------


def frames(folder, name: str, text: str) -> tuple[list, dict]:
    write_run(folder, name, text)
    found = list(read_run(folder / name, run_kind(folder / name), notes := {}))
    return found, notes


def test_cases_of_runs(shared_cases, tmp_path, capsys):
    """Unconverged and ML_FF steps are left out and counted, energies beside those without vdW are read."""
    for case in ("unconverged_vasprun", "unconverged_outcar", "ml_ff_outcar", "vdw_outcar"):
        shutil.copytree(shared_cases / case, tmp_path / "runs" / case)
    status, out, error = run(capsys, tmp_path / "runs", tmp_path / "set", "--split", "train")
    assert status == 0, error
    rows = read_split(tmp_path / "set", "train")
    assert Counter(rows["trajectory"]) == {
        **{"runs/unconverged_vasprun": 2, "runs/unconverged_outcar": 2},
        **{"runs/ml_ff_outcar": 1, "runs/vdw_outcar": 2},
    }
    assert sorted(round(energy) for energy in rows["energy"]) == [-43] * 4 + [-42] + [-41] * 2
    sources = [source for source in rows["source"] if "unconverged_outcar" in source]
    assert sources == ["runs/unconverged_outcar/OUTCAR#0", "runs/unconverged_outcar/OUTCAR#2"]
    assert "2 whose SCF did not converge (NELM reached), 2 of ML_FF" in out and "left out because" not in out


def test_a_run_of_ml_ff_alone_has_nothing_to_learn_from(tmp_path):
    text = outcar(steps(2)).replace("  FREE ENERGIE", "  ML FREE ENERGIE")
    with pytest.raises(InputError, match="no ionic step to learn from: 2 of ML_FF"):
        frames(tmp_path, "OUTCAR", text)


def test_steps_without_forces_are_left_out(tmp_path):
    """As NWRITE = 0 leaves them in the middle of OUTCAR."""
    first, second, third = re.split("(?=--------- Iteration)", outcar(steps(3)))[1:]
    short = second[: second.index(" POSITION")] + second[second.index("\n  FREE ENERGIE") :]
    header = outcar(steps(3)).partition("--------- Iteration")[0]
    found, notes = frames(tmp_path, "OUTCAR", header + first + short + third)
    assert [atoms.info["ionic_step"] for atoms in found] == [0, 2] and notes["without_forces"] == 1


def test_many_elements_on_two_lines(tmp_path):
    elements = "Si C Ge N P As O S Se F Cl Br Al Ga In Mg".split()
    potcars = "".join(f" POTCAR:    PAW_PBE {element} 05Jan2001\n" for element in elements * 2)
    text = outcar(steps(1)).replace(" POTCAR:    PAW_PBE Si 05Jan2001\n", "").replace(" =               8\n", " =\n")
    ions = "   ions per type =               1   1   1   1   1   1   1   1   1   1\n   1   1   1   1   1   1\n"
    text = potcars + text.replace("   ions per type =\n", ions)
    block = text[text.index(" POSITION") : text.index("\n  FREE ENERGIE")]
    text = text.replace(block, block + "".join(block.splitlines(keepends=True)[2:]))  # eight atoms more
    (atoms,), _ = frames(tmp_path, "OUTCAR", text)
    assert list(atoms.symbols) == elements


def charged(text: str, electrons: float, kinds=((8, "Si", 4.0),)) -> str:
    """The text of a run with so many electrons, where the neutral cell has as many as its `kinds` of atoms bring."""
    if "<modeling>" in text:
        rows = (f"<rc><c>{n:3d}</c><c>{one}</c><c>1.0</c><c>{valence}</c><c>PAW</c></rc>" for n, one, valence in kinds)
        types = f'<array name="atomtypes"><set>{"".join(rows)}</set></array>'
        return text.replace(
            "<kpoints>", f'<parameters><i name="NELECT">{electrons}</i></parameters>{types}\n<kpoints>'
        )
    mass = "   POMASS =   28.085; ZVAL   =    4.000    mass and valenz\n"
    return text.replace("   ISPIN", f"{mass}   NELECT =  {electrons:8.4f}    total number of electrons\n   ISPIN")


@pytest.mark.parametrize(("name", "write"), [("vasprun.xml", vasprun), ("OUTCAR", outcar)])
@pytest.mark.parametrize(("electrons", "charge"), [(32.0, 0.0), (30.0, 2.0), (33.0, -1.0), (31.5, 0.5)])
def test_electrons_tell_the_charge(tmp_path, name, write, electrons, charge):
    found, _ = frames(tmp_path, name, charged(write(steps(2)), electrons))
    assert [atoms.info["charge"] for atoms in found] == [charge] * 2 and run_charge(tmp_path / name) == charge
    assert "charge" not in frames(tmp_path, name, write(steps(1)))[0][0].info


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("runs/v_O_+2/vasp_std", ("runs/v_O", 2)),
        ("Cd_i_C3v_Te2.81_-1/POSCAR", ("Cd_i_C3v_Te2.81", -1)),
        ("Mg_Ga/q=-2/vasprun.xml.gz", ("Mg_Ga", -2)),
        ("v_Cd_1/Bond_Distortion_-30.0%/POSCAR", ("v_Cd", 1)),
        ("v_O_+2.vasp", ("v_O", 2)),
        ("v_Cd_0/Unperturbed", ("v_Cd", 0)),
        ("v_O_2/POSCAR", None),  # the second site, perhaps
        ("Bond_Distortion_-30.0%/POSCAR", None),
        ("strain_-2/POSCAR", None),
    ],
)
def test_names_tell_a_charge_or_none(path, expected):
    assert named_charge(path) == expected


def test_charge_states_of_one_defect_stay_together(tmp_path, capsys):
    runs = tmp_path / "runs"
    for number, defect in enumerate(("v_Si", "Si_i_Td", "C_Si", "N_Si", "B_Si", "P_Si")):
        for charge in (0, 1, 2):
            folder = runs / f"{defect}_{charge:+d}".replace("+0", "0") / "vasp_std"
            write_run(folder, "vasprun.xml", charged(vasprun(steps(1, 10 * number + charge)), 32 - charge))
    fractions = ("--split", "0.5,0.25,0.25", "--host", "none")
    status, out, error = run(capsys, runs, tmp_path / "set", *fractions)
    assert status == 0, error
    splits = read_splits(tmp_path / "set")
    kinds = [set(rows["config_type"]) for rows in splits.values()]
    assert len(splits) == 3 and sum(map(len, kinds)) == 6 == len(set.union(*kinds))
    assert "v_Si" in set.union(*kinds) and "charges\n" in out
    train = splits["train"]
    with pytest.raises(InputError, match=r"charges \+0 \(\d\), \+1 \(\d\), \+2 .* --charge 0, or --charge any"):
        of_one_charge(train, None, "train")
    neutral = of_one_charge(train, "0", "train")
    assert set(neutral["charge"]) == {0.0} and len(neutral) == len(train) // 3
    assert of_one_charge(neutral, None, "train") is neutral and of_one_charge(train, "any", "train") is train
    with pytest.raises(InputError, match=r"no structure of charge -3"):
        of_one_charge(train, "-3", "train")


def test_charges_of_a_file_with_config_types(shared_data, tmp_path, capsys):
    """54 frames of relaxations of two defects in GaN, whose charges are in the comment lines."""
    path = shared_data / "defects" / "gan-defects-pbesol.extxyz"
    if not path.is_file():
        pytest.skip("no data of defects")
    status, out, error = run(capsys, path, tmp_path / "set", "--host", "none")
    assert status == 0, error
    expected = Counter(atoms.info["charge"] for atoms in ase.io.iread(path))
    splits = read_splits(tmp_path / "set")
    assert sum((Counter(rows["charge"]) for rows in splits.values()), Counter()) == expected
    for defect in ("Mg_Ga", "v_N"):
        assert sum(defect in rows["config_type"] for rows in splits.values()) == 1
    assert "-2 -1 +0 +1" in out or "-1 +0 +1 +2" in out
    assert "have nothing to do with the positions" not in out and "look wrong" not in out


VALENCES = {"Ga": 13.0, "N": 5.0, "Mg": 2.0}  # of Ga_d, N and Mg


def test_a_tree_of_charged_runs(shared_data, tmp_path, capsys):
    """Relaxations of GaN as the runs that they were, whose NELECT tells the charges; the neutral ones train alone."""
    path = shared_data / "defects" / "gan-defects-pbesol.extxyz"
    if not path.is_file():
        pytest.skip("no data of defects")
    relaxations: dict[str, list] = {}
    for atoms in ase.io.iread(path):
        relaxations.setdefault(atoms.info["source"].split("test_files/")[1], []).append(atoms)
    for place, images in relaxations.items():
        steps = [(one.positions, one.arrays["REF_forces"], one.info["REF_energy"]) for one in images]
        kinds = [(count, symbol, VALENCES[symbol]) for symbol, count in images[0].symbols.formula.count().items()]
        electrons = sum(count * valence for count, _, valence in kinds) - images[0].info["charge"]
        text = charged(vasprun(steps, images[0]), electrons, kinds)
        write_run((tmp_path / "runs" / place).parent, "vasprun.xml.gz", text)
    status, out, error = run(capsys, tmp_path / "runs", tmp_path / "set", "--split", "train", "--host", "none")
    assert status == 0 and "charges\n" in out, error
    rows = read_split(tmp_path / "set", "train")
    assert len(relaxations) == 10 and len(rows) == 54
    for row in rows:
        kind, _, charge = row["trajectory"].removeprefix("runs/").partition("/")
        expected = float(charge.removeprefix("q=")) if charge.startswith("q=") else 0.0
        assert row["charge"] == expected and row["config_type"].startswith("bulk") == charge.startswith("bulk")
        assert charge.startswith("bulk") or row["config_type"] == kind
    arguments = [str(ROOT / "configuration" / "recipes" / "demo.yaml"), "--dataset", str(tmp_path / "set")]
    arguments += ["--output_dir", str(tmp_path / "run"), "--max_steps", "1", "--eval_strategy", "no"]
    arguments += ["--save_strategy", "no", "--load_best_model_at_end", "false", "--validation_split", "null"]
    arguments += ["--force_loss", "mse"]
    assert run_command(lambda: train(arguments)) == 2
    assert "--charge 0, or --charge any" in capsys.readouterr().err
    assert run_command(lambda: train([*arguments, "--charge", "0"])) == 0
