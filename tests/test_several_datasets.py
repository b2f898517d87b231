"""A repository with a data set for each of several sources: built, loaded by name, and published."""

from pathlib import Path

import pytest
import yaml
from ase.io import write
from datasets import load_dataset
from huggingface_hub import DatasetCard, constants
from test_sources import frames, source

from modeling_adapt.cli import build_dataset, hub_upload
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.data.load.reading import members, pinned_revision, read_split, told_sources
from modeling_adapt.data.sources import OPEN_LICENSES, read_sources
from modeling_adapt.hub.card import LICENSES

SHIPPED = Path(__file__).parents[1] / "configuration" / "datasets" / "open-defects.yaml"


def charged(kind: str, charges: list[int], seed: int) -> list:
    """Two structures of a defect for each charge, of which the first is the same in every charge."""
    found = []
    for charge in charges:
        for number, atoms in enumerate(frames(2, seed)):
            atoms.positions += 0.3 * abs(charge) * number
            atoms.info |= {"config_type": kind, "charge": charge, "of": f"{kind}_{charge}"}
            found.append(atoms)
    return found


def listed(folder: Path, **more) -> Path:
    """A list of two sources of other levels, in `folder` with their files."""
    write(folder / "a.extxyz", charged("v_Si", [-1, 0, 1, 2], 0) + charged("Si_i", [0], 1))
    write(folder / "b.extxyz", frames(3, 2, energy=-900.0))
    grouped = {"split": [0.6, 0.2, 0.2], "split_by": "charge_state", "group_key": "of"}
    sources = [
        source("first-defects", "a.extxyz", "PBE", citation="Doe (2026)", description="Of *silicon*.", **grouped),
        source("second", "b.extxyz", "HSE", license="bsd-3-clause", url="https://example.org/data"),
    ]
    path = folder / "sources.yaml"
    path.write_text(yaml.safe_dump({"apart": True, "sources": sources} | more))
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    assert run_command(lambda: build_dataset.main([str(listed(folder)), str(folder / "open")])) == 0
    return folder / "open"


def test_each_source_is_a_configuration_with_its_own_energies(built):
    assert members(built) == ["first-defects", "second"]
    first, second = (load_dataset(str(built), name) for name in members(built))
    assert set(first) == {"train", "validation", "test"} and list(second) == ["train"]
    assert sum(map(len, first.values())) == 10  # the start that all charges share is left in each
    assert [row["energy"] for row in second["train"]] == [-900.0, -901.0, -902.0]
    states = [{(row["config_type"], row["charge"]) for row in rows} for rows in first.values()]
    assert sum(map(len, states)) == len(set.union(*states)) == 5  # a defect in a charge is in one split
    assert len(read_split(built / "second", "train")) == 3
    assert told_sources(built / "second")[0]["url"] == "https://example.org/data"


def test_the_card_tells_of_each(built):
    card = DatasetCard.load(built / "README.md")
    told = card.data.to_dict()
    assert told["license"] == ["bsd-3-clause", "mit"]
    assert [one["config_name"] for one in told["dataset_info"]] == members(built)
    text = card.text
    for words in ("## first-defects", "Of \\*silicon\\*.", "Doe (2026)", "https://example.org/data", "in eV/Å"):
        assert words in text, words
    assert "| v_Si | -1 |" in text and "| second | 3 | Si | 8 | none told | HSE |" in text
    for picture in (built / "first-defects" / "figures").iterdir():
        assert f"first-defects/figures/{picture.name})" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"license": "gpl-2.0"}, "second is under 'gpl-2.0', by which not everybody may pass it on; leave it out"),
        ({"license": "not stated"}, "second is under 'not stated'"),
        ({"license": "bsd-3-clause; not stated"}, "second is under 'bsd-3-clause; not stated'"),
        ({"split_by": "charge"}, "there is no split_by 'charge'; did you mean 'charge_state'?"),
        ({"files": "c.extxyz"}, "c.extxyz: no such file"),
    ],
)
def test_what_may_not_be_passed_on_is_refused_in_one_line(changes, message, tmp_path, capsys):
    path = listed(tmp_path)
    content = yaml.safe_load(path.read_text())
    content["sources"][1] |= changes
    path.write_text(yaml.safe_dump(content))
    assert run_command(lambda: build_dataset.main([str(path), str(tmp_path / "open")])) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "open").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"apart": "yes"}, "apart: 'yes' is neither true nor false"), ({"energies": "PBE"}, "energies goes with one")],
)
def test_a_list_that_makes_no_sense_is_one_line(changes, message, tmp_path, capsys):
    path = listed(tmp_path, **changes)
    assert run_command(lambda: build_dataset.main([str(path), str(tmp_path / "open")])) == 2
    assert message in capsys.readouterr().err


def test_the_shipped_list_has_open_sources_with_all_that_a_card_tells():
    assert set(OPEN_LICENSES) <= LICENSES
    sources = read_sources(SHIPPED).sources
    assert "gan-defects" in [one.name for one in sources]
    assert all(one.citation and one.url and one.description and one.level for one in sources)


def test_one_of_several_has_to_be_named(built, capsys):
    command = ["my-org/open", "--dataset", str(built), "--evaluation", "x", "--dry-run"]
    assert run_command(lambda: hub_upload.main(command)) == 2
    assert "without a model leave out --evaluation" in capsys.readouterr().err
    with pytest.raises(ValueError, match=rf"several data sets \(first-defects, second\): name one, such as {built}/f"):
        read_split(built, "train")


def test_a_dry_run_shows_what_would_go_out(built, capsys):
    assert run_command(lambda: hub_upload.main(["my-org/open", "--dataset", str(built), "--dry-run"])) == 0
    said = capsys.readouterr().out
    assert "second/data/train-00000-of-00001.parquet" in said and "dry run: nothing was sent" in said
    assert 'load_dataset("my-org/open", "first-defects", split="train")' in said
    assert run_command(lambda: hub_upload.main(["my-org/open", "--dry-run"])) == 2
    assert "name a model before ORG/NAME, or a data set with --dataset" in capsys.readouterr().err


def test_a_member_whose_licence_was_changed_stays_home(built, tmp_path, capsys):
    import shutil

    shutil.copytree(built, tmp_path / "open")
    card = tmp_path / "open" / "second" / "README.md"
    card.write_text(card.read_text().replace("license: bsd-3-clause", "license: gpl-3.0", 1))
    assert run_command(lambda: hub_upload.main(["my-org/o", "--dataset", str(tmp_path / "open"), "--dry-run"])) == 2
    assert "second is under 'gpl-3.0', by which not everybody may pass it on" in capsys.readouterr().err


def test_published_and_loaded_again(built, hub, tmp_path, monkeypatch, capsys):
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    known = {"ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_DISABLE_XET": True}
    for name, value in (known | {"HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(tmp_path / "cache")}).items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    command = ["org/open", "--dataset", str(built), "--tag", "v1"]
    assert run_command(lambda: hub_upload.main(command)) == 0
    repository = hub.repository("org/open", "dataset")
    assert "second/README.md" in repository.files and "README.md" in repository.files
    assert run_command(lambda: hub_upload.main(command)) == 0
    assert "is up to date: nothing was sent" in capsys.readouterr().out
    name = "hf://datasets/org/open/second"
    assert len(read_split(name, "train", revision="v1")) == 3
    assert pinned_revision(name, "v1") == repository.tags["v1"]
    with pytest.raises(ValueError, match="org/open has no data set third; look at its page"):
        read_split("hf://datasets/org/open/third", "train")
