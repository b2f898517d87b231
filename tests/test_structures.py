"""Rows of the data set: validation, and the way through parquet and back."""

import numpy as np
import pyarrow as pa
import pytest
from ase import Atoms
from ase.build import bulk
from datasets import Dataset, load_dataset

from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.read.frames import same_trajectory
from modeling_adapt.data.split.splitting import RowKey, assign_rows
from modeling_adapt.data.structures import STRUCTURE_FEATURES, atoms_from_row, structure_row
from modeling_adapt.data.validation import require_valid_table
from modeling_adapt.errors import InputError


def silicon(seed: int = 0) -> tuple[Atoms, np.ndarray]:
    atoms = bulk("Si", "diamond", a=5.43, cubic=True)
    rng = np.random.default_rng(seed)
    atoms.positions += rng.normal(scale=0.05, size=(8, 3))
    return atoms, rng.normal(size=(8, 3))


def with_value(array: np.ndarray, index, value: float) -> np.ndarray:
    changed = np.array(array, dtype=float)
    changed[index] = value
    return changed


def test_round_trip_through_parquet(tmp_path):
    atoms, forces = silicon()
    full = structure_row(
        atoms, forces, -1173.123456789, defect_sites=[[1.0, 2.0, 3.0]], importance_weights=np.arange(8) + 1.0,
        config_type="vacancy", trajectory="t0", source="a.extxyz#4",
    )  # fmt: skip
    energy_only = structure_row(atoms[:5], None, -5.0, trajectory="t1", source="a.extxyz#5")
    (tmp_path / "set").mkdir()  # an empty folder is welcome
    counts = write_dataset({"train": [full], "test": iter([energy_only]), "validation": []}, tmp_path / "set")
    assert counts == {"train": 1, "test": 1}

    loaded = load_dataset(str(tmp_path / "set"))
    assert set(loaded) == {"train", "test"}
    assert loaded["train"].features == STRUCTURE_FEATURES
    row = loaded["train"][0]
    assert row["energy"] == -1173.123456789  # float64 survives
    np.testing.assert_array_equal(np.float32(row["forces"]), np.float32(forces))
    assert row["importance_weights"] == list(np.arange(8) + 1.0)
    assert row["defect_sites"] == [[1.0, 2.0, 3.0]]
    back = atoms_from_row(row)
    assert back.calc is None and back.get_chemical_formula() == "Si8" and back.pbc.all()
    assert back.info == {"config_type": "vacancy", "trajectory": "t0", "source": "a.extxyz#4"}
    np.testing.assert_allclose(back.positions, atoms.positions, atol=1e-6)
    np.testing.assert_array_equal(back.cell, atoms.cell)
    other = loaded["test"][0]
    assert other["forces"] is None and other["importance_weights"] is None and other["defect_sites"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda atoms, forces: (atoms, with_value(forces, (5, 1), np.nan)), "force of atom 5 (Si) is not a finite"),
        (lambda atoms, forces: (atoms, with_value(forces, (5, 1), 1e300)), "force of atom 5 (Si) is not a finite"),
        (lambda atoms, forces: (atoms, forces[:7]), "forces of shape (7, 3) for 8 atoms"),
        (lambda atoms, forces: (atoms[:0], forces[:0]), "no atoms"),
        (lambda atoms, forces: (atoms, None), "neither forces nor energy"),
    ],
)
def test_bad_labels_are_named(change, message):
    with pytest.raises(InputError) as caught:
        structure_row(*change(*silicon()), source="bad.extxyz#3")
    assert message in str(caught.value)
    assert str(caught.value).startswith("bad.extxyz, frame 3: ")


def test_bad_structures_are_named():
    atoms, forces = silicon()
    broken = atoms.copy()
    broken.positions[2, 0] = np.inf
    with pytest.raises(InputError, match=r"frame 3: the position of atom 2 \(Si\)"):
        structure_row(broken, forces, source="bad.extxyz#3")
    unknown = atoms.copy()
    unknown.symbols[6] = "U"
    with pytest.raises(InputError, match="frame 3: atom 6.*U"):
        structure_row(unknown, forces, source="bad.extxyz#3")
    flat = atoms.copy()
    flat.cell[2] = 0.0
    with pytest.raises(InputError, match="periodic along cell vector c"):
        structure_row(flat, forces)
    flat.cell[2] = flat.cell[0] + flat.cell[1]
    with pytest.raises(InputError, match="the cell is .* Å thick"):
        structure_row(flat, forces)
    flat.pbc[2] = False  # what a direction that is not periodic says is not used
    structure_row(flat, forces)
    twice = atoms.copy()
    twice.positions[5] = twice.positions[1] - twice.cell[0]
    with pytest.raises(InputError, match="atoms 1 and 5 are at the same place"):
        structure_row(twice, forces)
    with pytest.raises(InputError, match="energy is not a finite"):
        structure_row(atoms, forces, np.nan)
    with pytest.raises(InputError, match="importance weight of atom 0"):
        structure_row(atoms, forces, importance_weights=np.full(8, np.nan))
    with pytest.raises(InputError, match="importance weight is negative"):
        structure_row(atoms, forces, importance_weights=np.full(8, -1.0))


def test_failed_writing_leaves_nothing(tmp_path):
    def rows():
        yield structure_row(*silicon())
        raise InputError("the second is bad")

    with pytest.raises(InputError, match="second"):
        write_dataset({"train": rows()}, tmp_path / "set")
    with pytest.raises(InputError, match="no structures"):
        write_dataset({"train": []}, tmp_path / "set")
    assert not list(tmp_path.iterdir())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").touch()
    with pytest.raises(InputError, match="not empty"):
        write_dataset({"train": [structure_row(*silicon())]}, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["note"]


def test_reading_keeps_the_rows_with_the_label(tmp_path):
    atoms, forces = silicon()
    rows = [structure_row(atoms, forces, source="a#0"), structure_row(atoms, None, -1.0, source="a#1")]
    write_dataset({"train": rows}, tmp_path / "set")
    assert len(read_split(tmp_path / "set", "train")) == 2
    assert read_split(tmp_path / "set", "train", "forces")["source"][:] == ["a#0"]
    assert read_split(tmp_path / "set", "train", "energy")["source"][:] == ["a#1"]
    with pytest.raises(InputError, match="no structure has both an energy and forces"):
        read_split(tmp_path / "set", "train", "energy_and_forces")
    write_dataset({"train": [*rows, structure_row(atoms, forces, -1.0, source="a#2")]}, tmp_path / "both")
    assert read_split(tmp_path / "both", "train", "energy_and_forces")["source"][:] == [
        "a#0",
        "a#2",
    ]  # forces alone too
    write_dataset({"train": rows[:1]}, tmp_path / "forces")
    with pytest.raises(InputError, match="no structure has an energy"):
        read_split(tmp_path / "forces", "train", "energy")


def test_reading_errors_are_one_line_and_offline(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_adapt.data.load.reading.load_dataset", lambda *_: pytest.fail("went to the Hub"))
    for missing in ("./sets/none", "none", str(tmp_path / "none"), f"{tmp_path.name}/a/b"):
        with pytest.raises(InputError, match="no such folder"):
            read_split(missing, "train")
    (tmp_path / "sets").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such folder"):  # could be a Hub id, but the folder sets exists
        read_split("sets/none", "train")
    with pytest.raises(InputError, match="no parquet"):
        read_split(tmp_path / "sets", "train")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        read_split(tmp_path / "file", "train")


def test_reading_names_splits_columns_and_damage(tmp_path, caplog):
    write_dataset({"train": [structure_row(*silicon())]}, tmp_path / "set")
    with pytest.raises(InputError, match="no split 'test'; it has train"):
        read_split(tmp_path / "set", "test")
    Dataset.from_dict({"text": ["a"]}).to_parquet(str(tmp_path / "other" / "train.parquet"))
    with pytest.raises(InputError, match="lacks the columns atomic_numbers, "):
        read_split(tmp_path / "other", "train")
    whole = (tmp_path / "set" / "data" / "train-00000-of-00001.parquet").read_bytes()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "train.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be loaded: ArrowInvalid"):
        read_split(tmp_path / "half", "train")
    rows = read_split(tmp_path / "set", "train")
    rows.select(range(0)).to_parquet(str(tmp_path / "set" / "data" / "test-00000-of-00001.parquet"))
    with pytest.raises(InputError, match="test-00000-of-00001.parquet has no rows: a split needs some"):
        read_split(tmp_path / "set", "test")
    assert not caplog.records  # datasets would log the same once more


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.full((8, 3), np.nan)}, "the position of atom 0 (Si) is not a finite number"),
        ({"forces": np.full((8, 3), np.inf)}, "the force of atom 0 (Si) is not a finite number"),
        ({"energy": np.nan}, "the energy is not a finite number"),
        ({"forces": with_value(np.zeros((8, 3)), (5, 1), np.nan)}, "the force of atom 5 (Si) is not a finite number"),
        ({"defect_sites": np.full((1, 3), np.nan)}, "defect_sites holds a value that is not a finite number"),
        ({"cell": np.full((3, 3), np.nan)}, "cell holds a value that is not a finite number"),
        ({"forces": np.zeros((7, 3))}, "7 forces for 8 atoms"),
        ({"positions": np.zeros((9, 3))}, "9 positions for 8 atoms"),
        ({"importance_weights": np.ones(3)}, "3 importance_weights for 8 atoms"),
        ({"importance_weights": -np.ones(8)}, "an importance weight is negative"),
        ({"atomic_numbers": np.full(8, 92, dtype=np.uint8)}, "no descriptors for element U"),
        ({"cell": np.ones((3, 3))}, "Å thick"),
        ({"cell": None}, "it has no cell"),
        ({"atomic_numbers": None}, "it has no atomic_numbers"),
        ({name: np.zeros((0, 3)) for name in ("positions", "forces")} | {"atomic_numbers": []}, "there are no atoms"),
    ],
)
def test_rows_from_elsewhere_are_checked_when_read(tmp_path, change, message):
    good = structure_row(*silicon(), source="good#0")
    write_dataset({"train": [good, good | {"source": "bad#7"} | change]}, tmp_path / "set")
    with pytest.raises(InputError) as caught:
        read_split(tmp_path / "set", "train")
    assert message in str(caught.value) and "row 1 (bad#7)" in str(caught.value)


def test_the_first_bad_row_is_named_whatever_is_wrong_with_later_ones(tmp_path):
    atoms, forces = silicon()
    good = structure_row(atoms, forces, source="good#0")
    flat, unknown = {"cell": np.ones((3, 3))}, {"atomic_numbers": np.full(8, 92, dtype=np.uint8)}
    rows = [good, structure_row(atoms[:5], forces[:5]), good | flat, good | unknown]
    write_dataset({"train": rows}, tmp_path / "set")
    with pytest.raises(InputError, match="row 2 .*Å thick"):
        read_split(tmp_path / "set", "train")


def test_holes_in_lists_are_named():
    """Arrow leaves them out of its flat arrays, and every later row would be read from the wrong place."""
    row = structure_row(*silicon())
    rows = [{name: np.asarray(value).tolist() for name, value in one.items()} for one in (row, row)]
    for name, index in (("positions", 3), ("forces", 0), ("cell", 1), ("atomic_numbers", 2)):
        holed = rows[1] | {name: [*rows[1][name][:index], None, *rows[1][name][index + 1 :]]}
        table = pa.Table.from_pylist([rows[0], holed], schema=STRUCTURE_FEATURES.arrow_schema)
        with pytest.raises(InputError, match=f"row 8 .*: {name} holds a value that is missing"):
            require_valid_table(table, "set", first=7)


def test_splits_never_divide_a_trajectory():
    rng = np.random.default_rng(1)
    trajectories = np.repeat(np.arange(40), rng.integers(1, 12, size=40)).tolist()
    keys = [RowKey(str(trajectory), "", True) for trajectory in trajectories]
    splits = assign_rows(keys, seed=3)
    assert sorted(sum(splits.values(), [])) == list(range(len(trajectories)))
    members = {name: {trajectories[index] for index in indices} for name, indices in splits.items()}
    assert not members["train"] & members["validation"] and not members["train"] & members["test"]
    assert not members["validation"] & members["test"]
    assert 0.7 < len(splits["train"]) / len(trajectories) < 0.9
    assert splits == assign_rows(keys, seed=3) != assign_rows(keys, seed=4)


def test_few_trajectories_fill_train_first():
    assert assign_rows([RowKey("a", "", True)] * 12) == {"train": list(range(12))}
    sizes = {name: len(rows) for name, rows in assign_rows([RowKey(str(i), "", True) for i in range(10)]).items()}
    assert sizes == {"train": 8, "validation": 1, "test": 1}


def test_rows_without_a_trajectory_stand_alone():
    sizes = {name: len(rows) for name, rows in assign_rows([RowKey("", "", True)] * 10).items()}
    assert sizes == {"train": 8, "validation": 1, "test": 1}


def test_forces_and_energies_are_split_apart():
    keys = [RowKey("a", "", True), RowKey("b", "", False)]
    assert list(assign_rows(keys)) == ["train"]
    assert list(assign_rows(keys, "test")) == ["test"]
    for wrong in ("0.8,0.2", "0.8,0.1,0.2", "0.8,0.1,x", "nan,1,0", "a b", "0.5", "all"):
        with pytest.raises(InputError):
            assign_rows(keys, wrong)


def test_trajectories_are_found():
    atoms, _ = silicon()
    moved, far, strained, other = atoms.copy(), atoms.copy(), atoms.copy(), atoms.copy()
    moved.positions[3] += [0.9, 0.0, 0.0]
    moved.positions[0] += atoms.cell[1]  # wrapping is no displacement
    far.positions[3] += [1.1, 0.0, 0.0]
    strained.set_cell(atoms.cell * 1.02, scale_atoms=True)
    other.symbols[0] = "C"
    assert same_trajectory(atoms, moved) and same_trajectory(atoms, strained)
    assert not same_trajectory(atoms, far) and not same_trajectory(atoms, other)
    assert not same_trajectory(atoms, atoms * (2, 1, 1)) and not same_trajectory(atoms, atoms[:7])
