"""Rows to batches, and the statistics of a data set."""

import numpy as np
import pytest
import torch
from ase.build import bulk
from datasets import load_dataset
from torch.utils.data import DataLoader

from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.batching import StructureCollator, StructureDataset, read_structures
from modeling_adapt.data.load.importance import ImportanceWeighting, defect_distances
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.load.survey import fit_statistics
from modeling_adapt.data.structures import structure_row
from modeling_adapt.elements_adapt import descriptors
from modeling_adapt.errors import InputError
from modeling_adapt.feature_extraction_adapt import ADAPTFeatureExtractor
from modeling_adapt.training.sampling import EpochSampler


def make_rows() -> list[dict]:
    """Five structures of 5 to 9 atoms: without defect, with one or two sites, with published weights, with C."""
    rng = np.random.default_rng(0)
    rows = []
    for index, size in enumerate((8, 7, 5, 9, 6)):
        atoms = (bulk("Si", "diamond", a=5.43, cubic=True) * (2, 1, 1))[:size]
        atoms.positions += rng.normal(scale=0.1, size=(size, 3))
        if index == 4:
            atoms.symbols[2] = "C"
        rows.append(
            structure_row(
                atoms,
                rng.normal(size=(size, 3)),
                None if index == 1 else -4.6 * size + rng.normal(),
                defect_sites=atoms.positions[: (0, 1, 2, 1, 1)[index]] + 0.3,
                importance_weights=rng.uniform(1, 10, size) if index == 3 else None,
                source=f"made#{index}",
            )
        )
    return rows


@pytest.fixture(scope="module")
def rows():
    return make_rows()


@pytest.fixture(scope="module")
def dataset(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader") / "set"
    write_dataset({"train": rows}, folder)
    return read_split(folder, "train")


def test_items_are_the_rows(rows, dataset):
    structures = StructureDataset(dataset)
    assert len(structures) == 5
    order = [3, 0, 4, 4, 1]
    for item, row in zip(structures.__getitems__(order), (rows[index] for index in order), strict=True):
        for name in ("atomic_numbers", "positions", "cell", "pbc", "forces"):
            np.testing.assert_array_equal(item[name], row[name])
        assert item["energy"] == row["energy"] or (np.isnan(item["energy"]) and row["energy"] is None)
    np.testing.assert_array_equal(structures[2]["forces"], rows[2]["forces"])
    chosen = StructureDataset(dataset.select([4, 2]))  # an index mapping lies in between
    np.testing.assert_array_equal(chosen[0]["positions"], rows[4]["positions"])


def test_weights_and_nearest_defect(rows, dataset):
    weighting = ImportanceWeighting()
    items = StructureDataset(dataset, weighting).__getitems__(range(5))
    assert (items[0]["importance_weights"] == 1).all() and np.isinf(items[0]["nearest_defect"]).all()
    for index in (1, 2, 4):
        row = rows[index]
        distances = defect_distances(row["positions"], row["defect_sites"], row["cell"], row["pbc"])
        np.testing.assert_allclose(items[index]["importance_weights"], weighting.weights(distances), rtol=1e-6)
        np.testing.assert_allclose(items[index]["nearest_defect"], distances.min(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(items[3]["importance_weights"], rows[3]["importance_weights"])
    assert np.isfinite(items[3]["nearest_defect"]).all()

    unweighted = StructureDataset(dataset)
    assert (unweighted[2]["importance_weights"] == 1).all()
    np.testing.assert_array_equal(unweighted[3]["importance_weights"], rows[3]["importance_weights"])
    plain = StructureDataset(dataset, ImportanceWeighting(minimum_image=False))[2]
    assert (plain["nearest_defect"] == items[2]["nearest_defect"]).all()  # the metric is always periodic
    assert not np.allclose(plain["importance_weights"], items[2]["importance_weights"])


def test_force_batch_is_padded(rows, dataset):
    collator = StructureCollator(ADAPTFeatureExtractor(), "forces")
    loader = DataLoader(StructureDataset(dataset, ImportanceWeighting()), batch_size=5, collate_fn=collator)
    (batch,) = loader
    assert batch["input_features"].shape == (5, 9, 12) and batch["labels"].shape == (5, 9, 3)
    assert all(isinstance(value, torch.Tensor) for value in batch.values())
    real = batch["attention_mask"].bool()
    assert (batch["labels"][~real] == -100).all() and (batch["labels"] != -100).sum() == 3 * real.sum() == 3 * 35
    assert (batch["importance_weights"][~real] == 0).all() and (batch["importance_weights"][real] >= 1).all()
    assert torch.isinf(batch["nearest_defect"][~real]).all()
    for index, row in enumerate(rows):
        size = len(row["atomic_numbers"])
        np.testing.assert_array_equal(batch["labels"][index, :size].numpy(), row["forces"])
        np.testing.assert_allclose(batch["input_features"][index, :size, :3].numpy(), row["positions"], atol=1e-6)
    alone = collator([StructureDataset(dataset)[2]])
    torch.testing.assert_close(alone["labels"][0], batch["labels"][2, :5])


def test_energy_batch_is_double(rows, dataset):
    structures, collator = StructureDataset(dataset), StructureCollator(ADAPTFeatureExtractor(), "energy")
    batch = collator(structures.__getitems__([0, 2]))
    assert batch["labels"].dtype == torch.float64
    assert batch["labels"].tolist() == [rows[0]["energy"], rows[2]["energy"]]
    assert "importance_weights" not in batch
    with pytest.raises(InputError, match="without energy"):
        collator(structures.__getitems__([0, 1]))
    labels = StructureCollator(ADAPTFeatureExtractor(), "energy_and_forces")(structures.__getitems__([0, 1]))["labels"]
    assert labels[0] == rows[0]["energy"] and labels[1].isnan()  # of the second, the forces are learned


def test_missing_forces_are_an_error(rows, tmp_path):
    write_dataset({"train": [rows[0], rows[2] | {"forces": None}]}, tmp_path / "set")
    structures = StructureDataset(read_split(tmp_path / "set", "train"))
    items = structures.__getitems__([0, 1])
    assert items[1]["forces"] is None
    with pytest.raises(InputError, match="without forces"):
        StructureCollator(ADAPTFeatureExtractor(), "forces")(items)


@pytest.mark.parametrize("weighting", [ImportanceWeighting(), ImportanceWeighting(minimum_image=False), None])
def test_streamed_rows_make_the_same_batches(rows, tmp_path, weighting):
    write_dataset({"train": rows}, tmp_path / "set")
    whole = StructureDataset(read_split(tmp_path / "set", "train"), weighting)
    streamed = load_dataset(str(tmp_path / "set"), split="train", streaming=True).with_format("arrow")
    collator = StructureCollator(ADAPTFeatureExtractor(), "forces", weighting)
    first, second = (list(DataLoader(data, batch_size=3, collate_fn=collator)) for data in (whole, streamed))
    assert len(first) == len(second) == 2
    for one, other in zip(first, second, strict=True):
        assert one.keys() - other.keys() == {"rows"}  # a stream has no row numbers
        assert all(torch.equal(one[name], other[name]) for name in other)


def test_workers_share_the_shards_of_a_stream(rows, tmp_path):
    folder = tmp_path / "set"
    write_dataset({"train": rows}, folder)
    (shard,) = folder.rglob("train-*.parquet")
    shard.with_name("train-00001-of-00002.parquet").write_bytes(shard.read_bytes())
    shard.rename(shard.with_name("train-00000-of-00002.parquet"))
    streamed = load_dataset(str(folder), split="train", streaming=True).with_format("arrow")
    collator = StructureCollator(ADAPTFeatureExtractor())
    batches = list(DataLoader(streamed, batch_size=2, collate_fn=collator, num_workers=2))
    sizes = sorted(torch.cat([batch["attention_mask"].sum(dim=1) for batch in batches]).tolist())
    assert sizes == sorted(2 * [len(row["atomic_numbers"]) for row in rows])


def test_batches_of_similar_sizes_hold_less_padding(dataset):
    structures = StructureDataset(dataset.select(np.random.default_rng(0).integers(0, 5, 400)))
    collator = StructureCollator(ADAPTFeatureExtractor())

    def order(sampler) -> list[int]:
        return [int(index) for index in sampler]

    def padding(**options) -> float:
        loader = DataLoader(structures, batch_size=10, collate_fn=collator, **options)
        masks = [batch["attention_mask"] for batch in loader]
        return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)

    sampler = EpochSampler(structures, "group_by_length", seed=3, group_size=10)
    first = order(sampler)
    assert sorted(first) == list(range(400))
    assert padding(sampler=sampler) < 0.2 * padding(shuffle=True)
    torch.rand(1)  # the order does not come from the global generator, which processes may have used differently
    assert order(EpochSampler(structures, "group_by_length", seed=3, group_size=10)) == first
    structures.set_epoch(1)
    assert order(sampler) != first
    structures.set_epoch(0)
    assert order(sampler) == first != order(EpochSampler(structures, "group_by_length", seed=4, group_size=10))


def test_statistics(rows, dataset, monkeypatch):
    monkeypatch.setattr("modeling_adapt.data.columns.ROWS_PER_READ", 2)  # merged over three reads
    statistics = fit_statistics(dataset)
    positions = np.concatenate([row["positions"] for row in rows]).astype(np.float64)
    numbers = np.concatenate([row["atomic_numbers"] for row in rows])
    features = np.hstack([positions, descriptors(numbers)])
    forces = np.concatenate([row["forces"] for row in rows]).astype(np.float64)
    energies = np.array([row["energy"] for row in rows if row["energy"] is not None])
    np.testing.assert_allclose(statistics.feature_mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.feature_std, features.std(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(statistics.force_mean, forces.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(statistics.force_std, forces.std(axis=0), rtol=1e-12)
    assert statistics.energy_mean == pytest.approx(energies.mean(), rel=1e-14)
    assert statistics.energy_std == pytest.approx(energies.std(), rel=1e-12)


def test_statistics_of_absent_labels(rows, dataset, tmp_path):
    write_dataset({"train": [rows[2] | {"forces": None}]}, tmp_path / "set")
    statistics = fit_statistics(read_split(tmp_path / "set", "train"))
    assert statistics.force_mean is None and statistics.force_std is None and statistics.energy_std == 0.0
    assert fit_statistics(dataset.select([1])).energy_mean is None
    with pytest.raises(InputError, match="empty"):
        fit_statistics(dataset.select([]))


def test_arrow_rows_of_earlier_versions_have_no_stress_and_weigh_alike(dataset):
    """A plain `Trainer` may hand over what is in a file that was written before there were these columns."""
    table = dataset.with_format("arrow")[:2].drop_columns(["stress", "source_weight", "source_name"])
    for item in read_structures(table):
        assert item["stress"] is None and item["source_weight"] == 1.0
