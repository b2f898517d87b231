"""Near duplicates across splits: planted ones are found in any disguise, different structures are left alone."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from modeling_adapt.cli.check_splits import main
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.defects.kinds import silicon_supercell
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.split.duplicates import near_duplicates
from modeling_adapt.data.structures import structure_row


def defects(seed: int, count: int) -> list[Atoms]:
    """Rattled vacancies and carbon atoms in a 64-atom cell, each at another site."""
    host = silicon_supercell(repeat=2)
    rng = np.random.default_rng(seed)
    found = []
    for number, site in enumerate(rng.permutation(64)[:count]):
        atoms = host.copy()
        atoms.rattle(0.08, rng=rng)
        if number % 2:
            atoms.symbols[site] = "C"
        else:
            del atoms[site]
        found.append(atoms)
    return found


def write(folder, **frames: list[Atoms]):
    """A data set whose frames are each a trajectory of their own."""
    rows = {
        split: [
            structure_row(atoms, np.zeros((len(atoms), 3)), trajectory=f"{split}{i}", source=f"{split}#{i}")
            for i, atoms in enumerate(found)
        ]
        for split, found in frames.items()
    }
    write_dataset(rows, folder)
    return {split: read_split(folder, split) for split in frames}


def disguised(atoms: Atoms, seed: int, displacement: float) -> Atoms:
    """The same structure in another order, in other periodic images, with every atom moved a little."""
    rng = np.random.default_rng(seed)
    copy = atoms[rng.permutation(len(atoms))]
    directions = rng.normal(size=(len(atoms), 3))
    copy.positions += displacement * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    copy.positions += rng.integers(-2, 3, size=(len(atoms), 3)) @ copy.cell.array
    return copy


def test_planted_duplicates_are_found_and_nothing_else(tmp_path):
    train, test = defects(0, 60), defects(1, 20)
    planted = {5: 3, 12: 8, 40: 17}  # train -> test
    for seed, (source, place) in enumerate(planted.items()):
        test[place] = disguised(train[source], seed, 0.04)
    splits = write(tmp_path / "set", train=train, test=test)
    found = list(near_duplicates(splits))
    assert {pair.rows for pair in found} == set(planted.items())
    assert all(pair.splits == ("train", "test") for pair in found)
    np.testing.assert_allclose([pair.distance for pair in found], 0.04, atol=1e-5)
    assert not list(near_duplicates(splits, tolerance=0.03))


@pytest.mark.parametrize("pbc", [True, (True, True, False), False])
def test_any_cell(tmp_path, pbc):
    """Primitive skew cells, slabs and molecules; every atom at the border of the cell."""
    crystal = bulk("SiC", "zincblende", a=4.36) * (3, 3, 3)
    crystal.pbc = pbc
    if not crystal.pbc.all():
        crystal.cell[2] = 0.0
    frames = [crystal.copy() for _ in range(6)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    copy = frames[2].copy()
    copy.positions += np.random.default_rng(0).normal(scale=0.01, size=copy.positions.shape)
    copy.positions[:, 0] -= 0.01
    if crystal.pbc.all():
        copy.wrap()
    splits = write(tmp_path / "set", train=frames, test=[copy])
    assert [pair.rows for pair in near_duplicates(splits)] == [(2, 0)]


def test_what_a_near_duplicate_is_not(tmp_path):
    atoms = defects(0, 2)[1]  # one carbon atom
    far, exchanged, strained, shifted, drifted = (atoms.copy() for _ in range(5))
    far.positions[7] += [0.1, 0.0, 0.0]
    carbon = int(np.flatnonzero(atoms.numbers == 6)[0])
    exchanged.numbers[[carbon, (carbon + 1) % 64]] = 14, 6
    strained.set_cell(atoms.cell * 1.02, scale_atoms=True)
    shifted.positions += 1.0
    drifted.positions += 0.02
    splits = write(tmp_path / "set", train=[atoms], test=[far, exchanged, strained, shifted, atoms, drifted])
    assert [pair.rows for pair in near_duplicates(splits)] == [(0, 4), (0, 5)]


def test_command(tmp_path, capsys):
    train, test = defects(0, 10), defects(1, 6)
    write(tmp_path / "clean", train=train, test=test[:3], validation=test[3:])
    assert run_command(lambda: main([str(tmp_path / "clean")])) == 0
    output = capsys.readouterr().out
    assert "nearly equal structures in different splits: none" in output
    assert "trajectories in several splits: none" in output

    write(tmp_path / "leaking", train=train, test=[disguised(train[4], 0, 0.02)])
    assert run_command(lambda: main([str(tmp_path / "leaking")])) == 1
    output = capsys.readouterr().out
    assert "train 4 (train#4)" in output and "test 0 (test#0)" in output and "0.0200" in output
    assert "different splits: 1 pairs" in output
    assert run_command(lambda: main([str(tmp_path / "leaking"), "--tolerance", "0.01"])) == 0

    rows = [structure_row(atoms, np.zeros((len(atoms), 3)), trajectory="one") for atoms in train[:2]]
    write_dataset({"train": rows[:1], "test": rows[1:]}, tmp_path / "divided")
    assert run_command(lambda: main([str(tmp_path / "divided")])) == 1
    assert "the trajectory 'one' is in train and test" in capsys.readouterr().out
    for arguments in (["none"], ["divided", "--tolerance", "0.5"], ["divided", "--tolerance", "0"]):
        capsys.readouterr()
        assert run_command(lambda given=arguments: main([str(tmp_path / given[0]), *given[1:]])) == 2
        assert capsys.readouterr().err.count("\n") == 1
