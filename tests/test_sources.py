"""build_dataset.py: several sources in one data set; weights and structures without energy in the loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk
from ase.io import write
from huggingface_hub import DatasetCard

from configuration.configuration_adapt import ADAPTConfig, ADAPTEnergyConfig
from modeling_adapt import ADAPTFeatureExtractor, ADAPTForEnergy, ADAPTForForces
from modeling_adapt.cli.build_dataset import main
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.batching import StructureCollator, StructureDataset
from modeling_adapt.data.load.reading import read_split, read_splits, told_sources
from modeling_adapt.data.load.survey import content_hash, fit_statistics, survey
from modeling_adapt.data.sources import read_sources
from modeling_adapt.data.split.duplicates import near_duplicates
from modeling_adapt.data.structures import structure_row
from modeling_adapt.evaluation.metrics import EnergyMetrics
from modeling_adapt.training.preparation import fit_reference_energies

SHIPPED = sorted((Path(__file__).parent.parent / "configuration" / "datasets").glob("*.yaml"))


def frames(count: int, seed: int, energy: float = -40.0) -> list[Atoms]:
    """Rattled silicon with forces of length 1 eV/Å or so, and energies that differ."""
    found = []
    for index in range(count):
        atoms = bulk("Si", "diamond", a=5.43, cubic=True)
        rng = np.random.default_rng((seed, index))
        atoms.positions += rng.normal(scale=0.3, size=(8, 3))
        atoms.arrays["REF_forces"] = rng.normal(size=(8, 3))
        atoms.info.update(REF_energy=energy - index, config_type="rattled")
        found.append(atoms)
    return found


def source(name: str, files: str | list[str], level: str = "PBE", **more) -> dict:
    return {"name": name, "files": files, "license": "mit", "level": level, "split": "train", **more}


def build(folder: Path, sources: list[dict], capsys, **more) -> tuple[int, str, str]:
    """Exit status and both outputs of the command; the data set is `folder`/set."""
    (folder / "sources.yaml").write_text(yaml.safe_dump({"sources": sources, **more}))
    status = run_command(lambda: main([str(folder / "sources.yaml"), str(folder / "set")]))
    output = capsys.readouterr()
    return status, output.out, output.err


def test_energies_of_one_level_and_weights(tmp_path, capsys):
    write(tmp_path / "a.extxyz", frames(3, 0))
    write(tmp_path / "b.extxyz", frames(2, 1, energy=-900.0))
    write(tmp_path / "c.extxyz", frames(1, 2))
    listed = [
        source("few", "b.extxyz", "HSE", weight=2.5),
        source("many", "a.extxyz"),
        source("more", "c.extxyz"),
    ]
    status, output, _ = build(tmp_path, listed, capsys)
    assert status == 0 and "energies are of PBE; forces alone: few" in output
    rows = read_split(tmp_path / "set", "train")
    assert rows["source_name"][:] == ["few"] * 2 + ["many"] * 3 + ["more"]
    assert rows["energy"][:] == [None, None, -40.0, -41.0, -42.0, -40.0]
    assert rows["source_weight"][:] == [2.5, 2.5, 1.0, 1.0, 1.0, 1.0] and None not in rows["forces"][:]
    assert len(read_split(tmp_path / "set", "train", "energy")) == 4
    assert len(read_split(tmp_path / "set", "train", "energy_and_forces")) == 6
    assert fit_statistics(rows).energy_mean == pytest.approx(-40.75)


def test_the_level_can_be_named(tmp_path, capsys):
    write(tmp_path / "a.extxyz", frames(3, 0))
    write(tmp_path / "b.extxyz", frames(2, 1, energy=-900.0))
    listed = [source("few", "b.extxyz", "HSE"), source("many", "a.extxyz")]
    assert build(tmp_path, listed, capsys, energies="HSE")[0] == 0
    assert read_split(tmp_path / "set", "train")["energy"][:] == [-900.0, -901.0, None, None, None]


def test_limits_leave_out_what_is_above(tmp_path, capsys):
    atoms = frames(4, 0, energy=-40.0)
    atoms[2].arrays["REF_forces"][5] = [0.0, 0.0, 9.0]
    write(tmp_path / "a.extxyz", atoms)
    status, output, _ = build(tmp_path, [source("a", "a.extxyz", max_energy_per_atom=-5.1, max_force=8.0)], capsys)
    assert status == 0 and "left out of a by its limits: 2" in output  # -40 eV of 8 atoms, and 9 eV/Å
    assert read_split(tmp_path / "set", "train")["energy"][:] == [-41.0, -43.0]


def test_nothing_is_there_twice(tmp_path, capsys):
    """Of two sources with one structure the energy is kept; what another split measures on is not trained on."""
    mine, theirs = frames(4, 0), frames(3, 1, energy=-900.0)
    theirs[0].positions = mine[1].positions + 0.01
    measured = frames(3, 2)
    measured[2].positions = mine[3].positions[::-1]  # in another order
    for name, content in (("a", mine), ("b", theirs), ("c", measured)):
        write(tmp_path / f"{name}.extxyz", content)
    listed = [
        source("b", "b.extxyz", "HSE"),
        source("a", "a.extxyz"),
        source("c", "c.extxyz", "c", split="validation"),
        source("d", "c.extxyz", "HSE", split="test"),
    ]
    status, output, _ = build(tmp_path, listed, capsys, energies="PBE")
    assert status == 0 and "left out, as another source has them: 5" in output
    splits = read_splits(tmp_path / "set")
    assert not list(near_duplicates(splits))
    assert splits["train"]["source"][:] == ["b.extxyz#1", "b.extxyz#2"] + [f"a.extxyz#{row}" for row in range(4)]
    assert splits["validation"]["source"][:] == ["c.extxyz#0", "c.extxyz#1"] and "test" not in splits


def test_a_split_by_fractions_does_not_leak(tmp_path, capsys):
    """Whole groups, and no structure of the training split in another one."""
    atoms = frames(20, 0)
    for index, one in enumerate(atoms):
        one.info["file"] = f"runs/run{index // 2}_step{index}.json"
        if index % 2:
            one.positions = atoms[1].positions + 0.001 * index  # the end of all runs
    write(tmp_path / "a.extxyz", atoms)
    pattern = r"(run\d+)_"
    listed = [source("a", "a.extxyz", group_key="file", group_pattern=pattern, split=[0.6, 0.2, 0.2])]
    status, output, _ = build(tmp_path, listed, capsys)
    assert status == 0 and "left out, as another split has nearly the same: 8" in output
    splits = read_splits(tmp_path / "set")
    assert not list(near_duplicates(splits))
    runs = {name: set(rows["trajectory"][:]) for name, rows in splits.items()}
    assert sorted(set.union(*runs.values())) == sorted(f"a/run{number}" for number in range(10))
    assert sum(map(len, runs.values())) == 10 and {name: len(rows) for name, rows in splits.items()} == {
        "train": 6,
        "validation": 2,
        "test": 4,
    }


def test_the_card_tells_of_the_sources(tmp_path, capsys):
    write(tmp_path / "a.extxyz", frames(3, 0))
    write(tmp_path / "b.extxyz", frames(2, 1))
    listed = [
        source("first", "a.extxyz", citation="Doe, J. Data 1 (2020)", url="https://example.org/data"),
        source("second", "b.extxyz", "HSE", split="validation", license="gpl-2.0", weight=0.5),
    ]
    assert build(tmp_path, listed, capsys)[0] == 0
    card = DatasetCard.load(tmp_path / "set" / "README.md")
    assert card.data.license == "other"
    header = "| source | licence | level of theory | energies | weight | structures | cite | from |"
    lines = card.text.split(header)[1].splitlines()[2:4]
    assert lines == [
        "| first | mit | PBE | kept | 1.0 | train 3 | Doe, J. Data 1 (2020) | https://example.org/data |",
        "| second | gpl-2.0 | HSE | left out | 0.5 | validation 2 | - | - |",
    ]
    told = told_sources(tmp_path / "set")
    assert [(one["name"], one["license"], one["energies"]) for one in told] == [
        ("first", "mit", True),
        ("second", "gpl-2.0", False),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wieght": 2}, "source 1 (a): there is no key 'wieght'; did you mean 'weight'? There are name, files"),
        ({"license": None}, "source 1 (a): it needs license"),
        ({"files": "b.extxyz"}, "b.extxyz: no such file"),
        ({"weight": 0}, "source 1 (a): weight: 0 is not a positive number"),
        ({"max_force": "much"}, "source 1 (a): max_force: 'much' is not a number"),
        ({"split": [0.5, 0.1, 0.1]}, "source 1 (a): split 0.5,0.1,0.1: give one name, or three fractions"),
        ({"split_by": "charge_state"}, "source 1 (a): split_by divides rows, and all of these are in the split train"),
        ({"group_pattern": "x"}, "source 1 (a): group_pattern goes with group_key"),
        ({"group_key": "config_type", "group_pattern": "("}, "source 1 (a): group_pattern: "),
        ({"group_key": "config_type", "group_pattern": "^x"}, "has nothing that the pattern '^x' matches"),
        ({"name": "a/b"}, "a name has letters"),
        ({"forces_key": "mine"}, "a.extxyz, frame 0: no 'mine'"),
        ({"host": "crystal.vasp"}, "crystal.vasp: no such file"),
    ],
)
def test_what_makes_no_sense_is_one_line(tmp_path, capsys, change, message):
    write(tmp_path / "a.extxyz", frames(1, 0))
    listed = {name: value for name, value in (source("a", "a.extxyz") | change).items() if value is not None}
    status, _, error = build(tmp_path, [listed], capsys)
    assert status == 2 and message in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.extxyz", "sources.yaml"]


def test_what_the_whole_list_must_not_say(tmp_path, capsys):
    write(tmp_path / "a.extxyz", frames(1, 0))
    one = source("a", "a.extxyz")
    for sources, more, message in (
        ([one, one], {}, "two sources have the name a"),
        ([one], {"energies": "HSE"}, "energies: no source has the level 'HSE'; there are PBE"),
        ([one], {"level": "PBE"}, "There are sources, energies, seed"),
        ([one], {"seed": -1}, "seed: -1 is not a whole number"),
        ([], {}, "no list named sources"),
    ):
        status, _, error = build(tmp_path, sources, capsys, **more)
        assert status == 2 and message in error and error.count("\n") == 1


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_lists_make_sense(path):
    listed = read_sources(path)
    assert listed.apart or listed.energies in {one.level for one in listed.sources}


# The loss


def rows_of(*energies: float | None, weights: tuple[float, ...] = ()) -> list[dict]:
    rows = []
    for seed, energy in enumerate(energies):
        atoms = frames(1, seed)[0]
        rows.append(structure_row(atoms, atoms.arrays["REF_forces"], energy, source=f"a#{seed}"))
        if weights:
            rows[-1]["source_weight"] = weights[seed]
    return rows


def batch_of(folder: Path, rows: list[dict], model) -> dict[str, torch.Tensor]:
    write_dataset({"train": rows}, folder)
    target = "forces" if model.config.predicts == "forces" else "energy_and_forces"
    collator = StructureCollator(ADAPTFeatureExtractor.for_model(model.config), target)
    batch = collator(StructureDataset(read_split(folder, "train")).__getitems__(range(len(rows))))
    return {name: value for name, value in batch.items() if name not in ("rows", "nearest_defect")}


def small(kind: str) -> ADAPTForEnergy | ADAPTForForces:
    torch.manual_seed(0)
    sizes = {"architecture": "pairwise", "hidden_size": 16, "num_hidden_layers": 1, "num_vector_channels": 4}
    if kind == "forces":
        return ADAPTForForces(ADAPTConfig(**sizes)).double().eval()
    return (
        ADAPTForEnergy(ADAPTEnergyConfig(**sizes, energy_mean=-5.0, energy_std=0.5, force_weight=2.0)).double().eval()
    )


def gradients(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    model.zero_grad()
    model(**batch, num_items_in_batch=1).loss.backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


@pytest.mark.parametrize("kind", ["forces", "energy"])
def test_the_loss_of_a_structure_is_multiplied_by_its_weight(tmp_path, kind):
    """The gradient of two structures is the sum of those of each, times their weights."""
    model = small(kind)
    alone = [gradients(model, batch_of(tmp_path / f"{row}", [rows_of(-40.0, -41.0)[row]], model)) for row in (0, 1)]
    weighted = batch_of(tmp_path / "weighted", rows_of(-40.0, -41.0, weights=(2.0, 0.5)), model)
    assert weighted["structure_weights"].tolist() == [2.0, 0.5]
    torch.testing.assert_close(gradients(model, weighted), 2.0 * alone[0] + 0.5 * alone[1])
    double = batch_of(tmp_path / "double", rows_of(-40.0, weights=(2.0,)), model)
    torch.testing.assert_close(gradients(model, double), 2.0 * alone[0])
    assert "structure_weights" not in batch_of(tmp_path / "plain", rows_of(-40.0), model)


def test_forces_without_an_energy_are_learned(tmp_path):
    """Their gradient is that of the forces alone, also beside structures with an energy, and -100 still counts not."""
    model = small("energy")
    known = batch_of(tmp_path / "known", rows_of(-40.0), model)
    without = batch_of(tmp_path / "without", [rows_of(None, None)[1]], model)
    mixed = batch_of(tmp_path / "mixed", rows_of(-40.0, None), model)
    assert without["labels"].isnan().all() and mixed["labels"].isnan().tolist() == [False, True]
    exact = {**without, "labels": model(**without).energy.detach()}  # an energy that has no error
    torch.testing.assert_close(gradients(model, without), gradients(model, exact))
    assert gradients(model, without).norm() > 0
    torch.testing.assert_close(gradients(model, mixed), gradients(model, known) + gradients(model, without))
    torch.testing.assert_close(
        model(**mixed).loss, (model(**known).loss + model(**without).loss) / 2
    )  # structures are counted, not energies
    blank = {**without, "labels": torch.full_like(without["labels"], -100)}
    assert gradients(model, blank).norm() == 0


def test_references_and_scale_are_of_rows_with_energies(tmp_path):
    write_dataset({"train": rows_of(-40.0, None, -48.0), "test": rows_of(-40.0, -48.0)}, tmp_path / "set")
    found = {}
    for split in ("train", "test"):
        config = ADAPTEnergyConfig(architecture="pairwise")
        found[split] = (fit_reference_energies(config, read_split(tmp_path / "set", split)), config.element_energies)
    assert found["train"] == found["test"] == (pytest.approx(0.5), {"Si": pytest.approx(-5.5)})


def test_errors_of_energies_are_of_rows_with_energies():
    metrics = EnergyMetrics()
    metrics.update([-1.0, -2.0, -3.0], [-1.5, np.nan, -3.0], [1, 2, 1], [-1.0, -1.0, -1.0], ["a", "b", "c"])
    found = metrics.compute()
    assert found["num_structures"] == 2 and found["num_atoms"] == 2 and set(found["by_config_type"]) == {"a", "c"}
    assert found["energy_mae_mev_per_atom"] == pytest.approx(250.0)


def test_the_hash_knows_weights_that_are_not_one(tmp_path):
    for name, weights in (("plain", ()), ("one", (1.0, 1.0)), ("two", (2.0, 1.0))):
        write_dataset({"train": rows_of(-1.0, -2.0, weights=weights)}, tmp_path / name)
    plain, one, two = (content_hash(read_split(tmp_path / name, "train")) for name in ("plain", "one", "two"))
    assert plain == one != two
    assert survey(read_split(tmp_path / "plain", "train")).labelled.tolist() == [0, 1]
