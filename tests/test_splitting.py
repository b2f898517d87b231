"""Splits without leakage: trajectories stay whole, kinds get their shares, the order of rows is of no matter."""

import csv

import numpy as np
import pytest
from ase.build import bulk

from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.split_dataset import main
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.reading import read_split, select_subset
from modeling_adapt.data.split.splitting import SUBSETS, RowKey, assign_rows, divide_rows, train_subsets
from modeling_adapt.data.structures import STRUCTURE_FEATURES, structure_row
from modeling_adapt.errors import InputError

KINDS = {"vacancy": 50, "divacancy": 23, "interstitial": 110, "rare": 2}  # trajectories


def keys(seed: int = 0, longest: int = 12) -> list[RowKey]:
    """Trajectories of random length; some have energies alone."""
    rng = np.random.default_rng(seed)
    found = []
    for kind, count in KINDS.items():
        for number in range(count):
            length, has_forces = int(rng.integers(1, longest)), number % 5 > 0
            found += [RowKey(f"{kind}-{number}", kind, has_forces)] * length
    return found


def names_by_split(found: list[RowKey], splits: dict[str, list[int]]) -> dict[str, set[str]]:
    return {split: {found[row].trajectory for row in rows} for split, rows in splits.items()}


@pytest.mark.parametrize("seed", range(5))
def test_no_trajectory_is_divided_and_no_row_is_lost(seed):
    found = keys(seed)
    found += [RowKey("vacancy-3", "interstitial", True), RowKey("vacancy-3", "vacancy", False)]  # of several kinds
    for options in ({}, {"by": "config_type"}, {"hold_out": ["divacancy"]}):
        splits = assign_rows(found, "0.6,0.2,0.2", seed, **options)
        assert sorted(sum(splits.values(), [])) == list(range(len(found)))
        names = list(names_by_split(found, splits).values())
        assert len(names) >= 3 and sum(map(len, names)) == len(set.union(*names)) == sum(KINDS.values())


def test_every_kind_gets_its_share():
    found = keys(longest=2)  # trajectories of one structure
    splits = assign_rows(found)
    for kind, count in KINDS.items():
        for has_forces in (True, False):
            of_kind = [
                row for row, key in enumerate(found) if key.config_type == kind and key.has_forces == has_forces
            ]
            if len(of_kind) >= 10:
                for split, share in zip(("train", "validation", "test"), (0.8, 0.1, 0.1), strict=True):
                    got = len(set(of_kind) & set(splits[split]))
                    assert abs(got - share * len(of_kind)) <= 2, (kind, count, split)
    for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert abs(len(splits[split]) / len(found) - share) < 0.02


def test_many_rare_kinds_are_divided_together():
    found = [RowKey(f"t{number}", f"kind{number}", True) for number in range(50)]
    assert {split: len(rows) for split, rows in assign_rows(found).items()} == {
        "train": 40,
        "validation": 5,
        "test": 5,
    }


@pytest.mark.parametrize("options", [{}, {"by": "config_type"}, {"hold_out": ["vacancy"]}])
def test_the_order_of_rows_has_no_influence(options):
    found = keys()
    order = np.random.default_rng(5).permutation(len(found))
    shuffled = [found[row] for row in order]
    fractions = "0.6,0.2,0.2"
    splits, again = (assign_rows(rows, fractions, 3, **options) for rows in (found, shuffled))
    assert names_by_split(found, splits) == names_by_split(shuffled, again)
    np.testing.assert_array_equal(train_subsets(found, splits, 3)[order], train_subsets(shuffled, again, 3))
    assert splits != assign_rows(found, fractions, 4, **options)


def test_subsets_are_nested_shares_of_whole_trajectories():
    found = [RowKey(f"{kind}-{number}", kind, True) for kind in "abc" for number in range(200) for _ in range(5)]
    splits = assign_rows(found)
    subsets = train_subsets(found, splits)
    train = splits["train"]
    assert set(subsets[train]) == set(SUBSETS)
    assert np.isnan(np.delete(subsets, train)).all()
    assert len({(found[row].trajectory, subsets[row]) for row in train}) == len(
        {found[row].trajectory for row in train}
    )
    for percent in SUBSETS:
        inside = [found[row] for row in train if subsets[row] <= percent]
        assert abs(len(inside) - percent / 100 * len(train)) <= 5  # one trajectory
        for kind in "abc":
            assert abs(sum(key.config_type == kind for key in inside) - len(inside) / 3) <= 10
    # The smallest has something to learn from, for either kind of label.
    few = [RowKey("a", "", True), RowKey("b", "", False), RowKey("c", "", True)]
    assert sorted(train_subsets(few, {"train": [0, 1, 2]})) == [1, 1, 100]


def test_kinds_as_a_whole_and_held_out():
    found = keys()
    by_kind = assign_rows(found, "0.4,0.3,0.3", by="config_type")
    kinds = [{found[row].config_type for row in rows} for rows in by_kind.values()]
    assert len(kinds) == 3 and sum(map(len, kinds)) == len(KINDS)
    held = assign_rows(found, "0.8,0.1,0.1", hold_out=["vacancy", "rare"])
    assert {found[row].config_type for row in held["held_out"]} == {"vacancy", "rare"}
    assert {found[row].config_type for row in held["train"]} == {"divacancy", "interstitial"}
    assert assign_rows(found, "train", hold_out=["vacancy"]).keys() == {"train", "held_out"}
    nameless = [RowKey("", kind, True) for kind in ("vacancy", "bulk") for _ in range(10)]  # each row stands alone
    assert assign_rows(nameless, hold_out=["vacancy"])["held_out"] == list(range(10))
    with pytest.raises(InputError, match="no config type 'surface' to hold out; there are divacancy, "):
        assign_rows(found, hold_out=["surface"])
    with pytest.raises(InputError, match="leaves .* empty: there are too few types"):
        assign_rows([key for key in found if key.config_type == "rare"], by="config_type")


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """30 trajectories of 3 structures, of two kinds, in splits."""
    monkeypatch.setattr("modeling_adapt.data.build.dataset_card._draw", lambda *_: {})  # figures take long
    rng = np.random.default_rng(0)
    rows = []
    for trajectory in range(30):
        for frame in range(3):
            atoms = bulk("Si", cubic=True)
            atoms.rattle(0.1, rng=rng)
            name = ("vacancy", "interstitial")[trajectory % 2]
            labels = {"forces": rng.normal(size=(8, 3)), "energy": -40 - rng.random() / 3}
            source = f"a.extxyz#{3 * trajectory + frame}"
            rows.append(structure_row(atoms, **labels, config_type=name, trajectory=f"t{trajectory}", source=source))
    keys = [RowKey(row["trajectory"], row["config_type"], True) for row in rows]
    splits, subsets = divide_rows([], keys)
    for row, subset in zip(rows, subsets, strict=True):
        row["subset"] = None if np.isnan(subset) else subset
    write_dataset({split: [rows[index] for index in chosen] for split, chosen in splits.items()}, tmp_path / "set")
    return tmp_path / "set"


def contents(folder, splits) -> dict[str, dict]:
    return {row["source"]: row for split in splits for row in read_split(folder, split).to_list()}


def test_a_data_set_is_divided_anew_and_others_follow(dataset, tmp_path, capsys):
    splits = ("train", "validation", "test")
    assert (
        run_command(lambda: main([str(dataset), str(tmp_path / "new"), "--hold-out", "vacancy", "--seed", "1"])) == 0
    )
    assert set(read_split(tmp_path / "new", "held_out")["config_type"]) == {"vacancy"}
    before, after = contents(dataset, splits), contents(tmp_path / "new", (*splits, "held_out"))
    assert len(before) == 90 and before.keys() == after.keys()
    for source, row in before.items():
        assert {k: v for k, v in row.items() if k != "subset"} == {
            k: v for k, v in after[source].items() if k != "subset"
        }
    with (tmp_path / "new" / "splits.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 90
    for line in lines:
        row = after[line["source"]]
        assert (line["trajectory"], line["config_type"]) == (row["trajectory"], row["config_type"])
        assert line["subset"] == ("" if row["subset"] is None else f"{row['subset']:g}")
        assert (row["subset"] is not None) == (line["split"] == "train")

    run_command(lambda: main([str(dataset), str(tmp_path / "alike"), "--split-file", f"{tmp_path}/new/splits.csv"]))
    for split in (*splits, "held_out"):
        assert read_split(tmp_path / "alike", split).to_list() == read_split(tmp_path / "new", split).to_list()


def test_training_on_a_part(dataset):
    rows = read_split(dataset, "train")
    parts = [set(select_subset(rows, percent)["source"]) for percent in SUBSETS]
    assert all(small <= large for small, large in zip(parts, parts[1:], strict=False))
    assert [len(part) for part in parts] == [3, 3, 6, 21, 72]
    assert select_subset(rows, 10).features == STRUCTURE_FEATURES
    with pytest.raises(InputError, match="no subset of 20 %; there are 1, 3, 10, 30, 100"):
        select_subset(rows, 20)
    with pytest.raises(InputError, match="split_dataset.py"):
        select_subset(read_split(dataset, "test"), 10)


def test_bad_requests_write_nothing(dataset, tmp_path, capsys):
    def file(*lines: str) -> str:
        path = tmp_path / "given.csv"
        path.write_text("\n".join(lines))
        return str(path)

    every = [f"a.extxyz#{number},train," for number in range(90)]
    header = "source,split,subset"
    for arguments, message in [
        (("--hold-out", "surface"), "no config type 'surface'"),
        (("--by", "config_type"), "too few types"),
        (("--by", "element"), "invalid choice"),
        (("--split-file", str(tmp_path / "none.csv")), "No such file"),
        (("--split-file", file("name,split", "a,train")), "no file of splits"),
        (("--split-file", "x.csv", "--hold-out", "vacancy"), "leave out"),
    ]:
        check(dataset, tmp_path / "new", arguments, message, capsys)
    for lines, message in [
        (every[:-1], "no line for the source 'a.extxyz#89'"),
        ([*every[:-1], "a.extxyz#89,test,"], "divides the trajectory 't29'"),
        ([*every, "a.extxyz#0,test,"], "line 92: 'a.extxyz#0' is in another split"),
        (["a.extxyz#0,tr ain,", *every[1:]], "line 2: 'tr ain' is no name"),
        (["a.extxyz#0,train,20", *every[1:]], "line 2: there is no subset of 20 %"),
    ]:
        check(dataset, tmp_path / "new", ("--split-file", file(header, *lines)), message, capsys)


def check(dataset, output, arguments, message, capsys):
    capsys.readouterr()
    status = run_command(lambda: main([str(dataset), str(output), *arguments]))
    error = capsys.readouterr().err
    assert status == 2 and message in error and error.count("\n") == 1, error
    assert not output.exists()
