"""The card of a data set: true numbers, a header that `datasets` and the Hub read, and nothing lost when rewritten."""

import numpy as np
import pytest
from ase.build import bulk
from datasets import load_dataset, load_dataset_builder
from huggingface_hub import DatasetCard
from PIL import Image

from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.describe_dataset import main
from modeling_adapt.cli.split_dataset import main as split_main
from modeling_adapt.data.build.dataset_card import write_card
from modeling_adapt.data.build.summary import summary_table
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.structures import STRUCTURE_FEATURES, structure_row
from modeling_adapt.errors import InputError

pytestmark = pytest.mark.figures


@pytest.fixture
def dataset(tmp_path):
    """Two vacancies and a surface in train, carbon with an energy alone in validation."""
    rng = np.random.default_rng(0)
    vacancy, carbon = bulk("Si", cubic=True) * 2, bulk("Si", cubic=True)
    site = vacancy.positions[0].copy()
    del vacancy[0]
    carbon.symbols[0] = "C"
    forces = rng.normal(size=(63, 3))
    forces[10] = [3.0, 4.0, 12.0]  # of length 13
    known = {"defect_sites": [site], "defect_kinds": ["v_Si"], "config_type": "vacancy"}
    first = structure_row(vacancy, forces, -250.0, trajectory="t0", source="a.xyz#0", **known)
    second = structure_row(vacancy, forces / 2, None, trajectory="t0", source="a.xyz#1", **known)
    surface = structure_row(vacancy, np.zeros((63, 3)), -255.0, trajectory="t1", source="a.xyz#2")
    train = [first | {"subset": 1.0}, second | {"subset": 1.0}, surface | {"subset": 100.0}]
    alone = structure_row(carbon, None, -40.0, config_type="carbon", trajectory="t2", source="b.xyz#0")
    write_dataset({"train": train, "validation": [alone]}, tmp_path / "set")
    return tmp_path / "set"


def mean_component(folder) -> float:
    """Mean size of the force components of the train split, in eV/Å."""
    return float(np.abs([row["forces"] for row in read_split(folder, "train")]).mean())


@pytest.fixture
def no_figures(monkeypatch):
    """They take most of the time, and are looked at in one test."""
    monkeypatch.setattr("modeling_adapt.data.build.dataset_card._draw", lambda *_: {})


def test_a_data_set_is_never_taken_for_another_of_the_same_name_and_size(tmp_path, no_figures):
    """`datasets` keeps copies of what it has read, by name and header; the values must be those of this folder."""
    for shift in (0.0, 1.0):
        folder = tmp_path / str(shift) / "set"
        atoms = bulk("Si", cubic=True)
        write_dataset({"train": [structure_row(atoms, np.full((8, 3), shift), 0.0, source="a#0")]}, folder)
        write_card(folder)
        assert mean_component(folder) == shift


def test_figures_do_not_turn_a_data_set_into_one_of_images(dataset, tmp_path):
    """Where no file name tells a split, `datasets` takes every file for data, and the most frequent kind wins."""
    folder = tmp_path / "plain"
    folder.mkdir()
    next((dataset / "data").glob("train*")).rename(folder / "structures.parquet")
    write_card(folder)
    assert len(read_split(folder, "train")) == 3 and write_card(folder).total.structures == 3


def test_configs_of_the_set_that_was_divided_do_not_hide_new_splits(dataset, tmp_path, no_figures):
    (dataset / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"
    )
    assert run_command(lambda: split_main([str(dataset), str(tmp_path / "new"), "--split", "other"])) == 0
    assert list(load_dataset(str(tmp_path / "new"))) == ["other"]


def test_datasets_and_the_hub_read_the_card(dataset, no_figures):
    plain = {split: read_split(dataset, split).to_list() for split in ("train", "validation")}
    write_card(dataset, {"command": "import a.xyz", "versions": {"ase": "3.29"}}, license="cc-by-4.0")
    card = DatasetCard.load(dataset / "README.md")
    assert card.data.license == "cc-by-4.0" and card.data.size_categories == ["n<1K"]
    assert card.data.provenance == {"command": "import a.xyz", "versions": {"ase": "3.29"}}

    info = load_dataset_builder(str(dataset)).info  # what the header says
    assert info.features == STRUCTURE_FEATURES
    assert {split: found.num_examples for split, found in info.splits.items()} == {"train": 3, "validation": 1}
    assert info.download_size == sum(path.stat().st_size for path in (dataset / "data").iterdir())
    loaded = load_dataset(str(dataset), verification_mode="all_checks")
    assert {split: rows.to_list() for split, rows in loaded.items()} == plain
    for split, rows in loaded.items():
        assert info.splits[split].num_bytes == pytest.approx(rows.data.nbytes, rel=0.05)
    streamed = load_dataset(str(dataset), split="train", streaming=True)
    assert streamed.features == STRUCTURE_FEATURES and list(streamed) == plain["train"]


def test_numbers_and_figures(dataset):
    write_card(dataset, {"calculator": "one | two"})
    text = (dataset / "README.md").read_text()
    lines = [line.replace(" ", "") for line in text.splitlines()]
    assert f"|train|3|2|3|2|63|{1000 * mean_component(dataset):.1f}|13.000|" in lines
    assert "|validation|1|1|0|1|8|-|-|" in lines
    assert "|vacancy|2|1|2|1|63|" in "".join(lines) and "|nonegiven|1|1|1|1|63|0.0|0.000|" in lines
    assert "|C|1|1|" in lines and f"|Si|{3 * 63 + 7}|4|" in lines
    assert "|v_Si|2|" in lines and "|structures|2|2|2|2|3|" in lines
    assert "Energies: -255.000 to -40.000 eV, which is -5.0000 to -3.9683 eV per atom." in text
    assert "|`positions`|`float32[n,3]`|CartesiancoordinatesinÅ|" in lines
    assert r"|calculator|one\|two|" in lines
    for name in ("forces", "distance", "kinds"):
        assert f"(figures/{name}.png)" in text
        pixels = np.asarray(Image.open(dataset / "figures" / f"{name}.png").convert("L"))
        assert (pixels < 200).mean() > 0.002  # something is drawn
    assert sorted(path.name for path in dataset.iterdir()) == ["README.md", "data", "figures"]


def test_names_of_files_are_text_on_the_card(tmp_path, no_figures):
    """What a file calls its structures is neither markup nor the end of a table's cell."""
    known = {"defect_sites": [[0, 0, 0]], "defect_kinds": ["v_*Si*"], "config_type": "<img src=x>|[a](b)"}
    row = structure_row(bulk("Si", cubic=True), np.zeros((8, 3)), trajectory="t0", source="a#0", **known)
    write_dataset({"train": [row]}, tmp_path / "set")
    write_card(tmp_path / "set", {"files": "*.xyz"}, name="a `b`")
    text = (tmp_path / "set" / "README.md").read_text().partition("\n---\n")[2]
    assert r"| &lt;img src=x&gt;\|\[a\](b) | 1 |" in text and "<img" not in text
    assert r"| v\_\*Si\* | 1 |" in text and r"| files | \*.xyz |" in text and r"# a \`b\`" in text


def test_a_card_that_is_written_again_keeps_what_people_wrote(dataset, capsys, no_figures):
    (dataset / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\nWritten by hand.\n")
    write_card(dataset, {"command": "import"}, name="Silicon")
    path = dataset / "README.md"
    path.write_text(path.read_text() + "\nCite us.\n")
    before = path.read_text()
    assert run_command(lambda: main([str(dataset)])) == 0
    assert path.read_text() == before
    assert "Written by hand." in before and before.endswith("Cite us.\n")
    assert DatasetCard.load(path).data.license == "mit" and "language: en" in before and "# Silicon" in before
    write_card(dataset, {"checked": "yes"}, license="cc0-1.0", name="New")
    data = DatasetCard.load(path).data
    assert data.license == "cc0-1.0" and data.provenance == {"command": "import", "checked": "yes"}
    assert "# New" in path.read_text()


def test_summary_of_the_terminal(dataset):
    table = summary_table(write_card(dataset))
    assert "config types: vacancy 2, none given 1, carbon 1" in table
    assert [line.split() for line in table.splitlines()[2:4]] == [
        ["a.xyz", "train", "3", "2", "2", "63", "Si", f"{1000 * mean_component(dataset):.1f}"],
        ["b.xyz", "validation", "1", "1", "1", "8", "C", "Si", "-"],
    ]


def test_data_sets_of_earlier_versions_and_without_forces(dataset, tmp_path):
    """They lack columns, and nothing is drawn of what is not there; the card says what the files hold."""
    old = load_dataset(str(dataset), split="validation").remove_columns(["defect_kinds", "subset"])
    (tmp_path / "old").mkdir()
    old.to_parquet(str(tmp_path / "old" / "test.parquet"))
    write_card(tmp_path / "old")
    assert load_dataset(str(tmp_path / "old"), split="test").features == old.features
    assert "`subset`" not in (tmp_path / "old" / "README.md").read_text()
    assert [path.name for path in (tmp_path / "old" / "figures").iterdir()] == ["kinds.png"]


def test_bad_folders_are_named(dataset, tmp_path):
    (tmp_path / "empty").mkdir()
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    whole = next((dataset / "data").glob("train*")).read_bytes()
    (damaged / "train.parquet").write_bytes(whole[: len(whole) // 2])
    for folder, message in [
        (tmp_path / "none", "no such folder"),
        (tmp_path / "empty", "no parquet files"),
        (damaged, "cannot be read as a data set"),
    ]:
        with pytest.raises(InputError, match=message):
            write_card(folder)
        assert not (folder / "README.md").exists()
    (dataset / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(InputError, match="README.md: its header cannot be read"):
        write_card(dataset)


def test_a_row_that_is_no_structure_is_named(tmp_path, no_figures, capsys):
    row = structure_row(bulk("Si", cubic=True), np.zeros((8, 3)), source="a#0")
    write_dataset({"train": [row, row | {"atomic_numbers": [92] * 8, "source": "b#3"}]}, tmp_path / "set")
    assert run_command(lambda: main([str(tmp_path / "set")])) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "row 1 (b#3)" in error and "92" in error
    assert not (tmp_path / "set" / "README.md").exists()
