"""import_structures.py on folders of VASP runs: which files, which names, and what of a run that was cut off."""

import gzip

import numpy as np
import pytest
from ase.build import bulk

from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.import_structures import main
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.read.frames import read_run, run_kind

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


def vasprun(run) -> str:
    """The parts of vasprun.xml that tell structures and labels."""

    def structure(positions, name=""):
        basis = f"<crystal>{lines('basis', CELL.cell.array)}</crystal>"
        return f"<structure{name}>{basis}{lines('positions', CELL.cell.scaled_positions(positions))}</structure>\n"

    energy = '<energy><i name="e_fr_energy">{0:.8f}</i><i name="e_0_energy">{1:.8f}</i></energy>'
    calculations = "".join(
        f"<calculation><scstep>{energy.format(total, total + SMEARING)}</scstep>{structure(positions)}"
        f"{lines('forces', forces)}{energy.format(total, total + SMEARING)}</calculation>\n"
        for positions, forces, total in run
    )
    start = structure(run[0][0] if run else CELL.positions, ' name="initialpos"')
    atoms = "<rc><c>Si</c><c>1</c></rc>" * 8
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
    status, out, error = run(capsys, runs, tmp_path / "set", "--skip-broken", "--split", "train")
    assert status == 0, error
    assert set(read_split(tmp_path / "set", "train")["trajectory"]) == {"runs/good"}
    assert f"left out because it cannot be read or has bad data: {len(expected)}\n" in out
    assert all(f"{folder}/{message}" in out for folder, message in expected.items())


def test_a_folder_without_runs(tmp_path, capsys):
    write_run(tmp_path / "runs", "POSCAR", "")
    status, _, error = run(capsys, tmp_path / "runs", tmp_path / "set")
    assert status == 2 and "no vasprun.xml or OUTCAR in this folder or below" in error and error.count("\n") == 1
