"""From what doped and ShakeNBreak write to ranked structures with one command, and back to them: the real packages."""

import csv
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase.build import bulk

import modeling_adapt.cli.relax as command
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.simulation.exchange import as_structure

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("doped", "shakenbreak")),
        reason="doped and ShakeNBreak are optional extras",
    ),
]
DISTORTIONS = (-0.4, 0.0, 0.3)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A generator of doped, the perfect crystal of it, and a folder of ShakeNBreak, for small cells of silicon."""
    from doped.generation import DefectsGenerator
    from shakenbreak.input import Distortions

    folder = tmp_path_factory.mktemp("packages")
    small = {"min_image_distance": 7.0, "min_atoms": 30}
    generator = DefectsGenerator(as_structure(bulk("Si", a=5.47)), processes=1, supercell_gen_kwargs=small)
    generator.to_json(folder / "silicon.json.gz")
    generator.bulk_supercell.to(str(folder / "host.vasp"), fmt="poscar")
    vacancies = [one for name, one in generator.defect_entries.items() if name.startswith("v_Si_")]
    electrons = {"dict_number_electrons_user": {"v_Si": 4}}
    distortions = Distortions({"v_Si": vacancies}, bond_distortions=list(DISTORTIONS), **electrons)
    distortions.write_vasp_files(output_path=str(folder / "snb"), verbose=False)
    return folder


def _relax(*arguments: object) -> int:
    return run_command(lambda: command.main(list(map(str, arguments))))


def _ranked(output: Path) -> dict[str, float]:
    return {row["name"]: float(row["energy_ev"]) for row in csv.DictReader((output / "ranking.csv").open())}


def test_from_a_generator_of_doped(written, tmp_path, capsys):
    from doped.core import DefectEntry
    from monty.serialization import loadfn

    tree, output = tmp_path / "tree", tmp_path / "out"
    arguments = (written / "silicon.json.gz", "--host", written / "host.vasp", "--output", output)
    assert _relax(*arguments, "--write-tree", tree) == 1  # as charged ones are skipped
    assert "structure v_Si_+1: a charge of +1" in capsys.readouterr().err
    energies = _ranked(output)
    assert len(energies) == 3
    entries = loadfn(tree / "defect_entries.json")
    assert {f"silicon.json-{name}" for name in entries} == energies.keys()
    for name, entry in entries.items():
        assert isinstance(entry, DefectEntry) and entry.name == name and entry.charge_state == 0
        assert entry.sc_entry.energy == pytest.approx(energies[f"silicon.json-{name}"], abs=1e-6)
        poscar = ase.io.read(tree / name / "1" / "POSCAR")
        np.testing.assert_allclose(entry.sc_entry.structure.cart_coords, poscar.positions, atol=1e-6)
        assert -1 < entry.get_ediff() - (len(poscar) - 30) * entry.bulk_entry.energy / 30 < 6  # formation energy, eV
    assert loadfn(tree / "relaxed.json")["v_Si_0"][0].energy == entries["v_Si_0"].sc_entry.energy


@pytest.fixture(scope="module")
def from_shakenbreak(written, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("relaxed")
    options = ("--output", folder / "out", "--write-tree", folder / "tree", "--charge", "0")
    assert _relax(written / "snb", "--exclude", "v_Si_-1", *options) == 0
    return folder


def _snb(tree: Path, name: str, *arguments: str) -> str:
    program = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert program is not None
    ended = subprocess.run([program, *arguments], cwd=tree, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_from_a_folder_of_shakenbreak(from_shakenbreak):
    energies, tree = _ranked(from_shakenbreak / "out"), from_shakenbreak / "tree"
    assert len(energies) == 2 * (len(DISTORTIONS) + 1)
    for defect in ("v_Si_0", "v_Si_+1"):
        lowest = ase.io.read(tree / defect / "1" / "POSCAR")
        assert len(lowest) == 29 and (tree / defect / f"{defect}.png").is_file()
        written = yaml.safe_load((tree / defect / f"{defect}.yaml").read_text())
        assert set(written["distortions"]) == set(DISTORTIONS)
        assert written["Unperturbed"] == pytest.approx(energies[f"{defect}/Unperturbed"], abs=1e-6)


def test_shakenbreak_plots_our_energies(from_shakenbreak):
    tree = from_shakenbreak / "tree"
    drawn = tree / "v_Si_0" / "v_Si_0.png"
    ours = drawn.read_bytes()
    _snb(tree, "snb-plot", "-d", "v_Si_0", "-f", "png")
    assert drawn.read_bytes() != ours  # which it keeps under another name


def test_shakenbreak_takes_the_lowest_and_tries_it_in_other_charges(from_shakenbreak, tmp_path):
    tree = shutil.copytree(from_shakenbreak / "tree", tmp_path / "tree")
    file = tree / "v_Si_0" / "v_Si_0.yaml"
    energies = yaml.safe_load(file.read_text())
    energies["distortions"][-0.4] -= 0.5  # as if it had led elsewhere
    file.write_text(yaml.safe_dump(energies))
    path = tree / "v_Si_0" / "Bond_Distortion_-40.0%" / "CONTCAR"
    moved = ase.io.read(path)
    moved.rattle(0.3, seed=0)
    ase.io.write(path, moved, format="vasp")
    _snb(tree, "snb-groundstate")
    found = ase.io.read(tree / "v_Si_0" / "Groundstate" / "POSCAR")
    np.testing.assert_allclose(found.positions, moved.positions, atol=1e-6)
    _snb(tree, "snb-regenerate")
    again = ase.io.read(tree / "v_Si_+1" / "Bond_Distortion_-40.0%_from_0" / "POSCAR")
    np.testing.assert_allclose(again.get_scaled_positions(), moved.get_scaled_positions(), atol=1e-4)
