"""The order of an epoch is a function of seed and epoch, and blanks that fill it up teach nothing."""

import pytest
import torch

from modeling_adapt import ADAPTFeatureExtractor
from modeling_adapt.data.load.augmentation import augmentation_steps
from modeling_adapt.data.load.batching import Blank, StructureCollator, StructureDataset
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.training.sampling import EpochSampler

POOLED = {"architecture": "pairwise", "num_vector_channels": 8}


@pytest.fixture(scope="module")
def structures(springs) -> StructureDataset:
    return StructureDataset(read_split(springs, "train"), augmentation=augmentation_steps(["translation"]))


@pytest.mark.parametrize("strategy", ["random", "group_by_length", "sequential"])
def test_every_row_comes_once_whatever_the_global_generator_did(structures, strategy):
    sampler = EpochSampler(structures, strategy, seed=1, group_size=4)
    first = list(sampler)
    assert sorted(first) == list(range(16))
    torch.rand(3)
    assert list(EpochSampler(structures, strategy, seed=1, group_size=4)) == first
    if strategy != "sequential":
        structures.set_epoch(1)
        assert list(sampler) != first
        assert list(EpochSampler(structures, strategy, seed=2, group_size=4)) != first
        structures.set_epoch(0)


def test_blanks_fill_up_to_a_multiple(structures):
    sampler = EpochSampler(structures, "random", seed=0, multiple=6)
    order = list(sampler)
    assert len(order) == len(sampler) == 18
    assert [isinstance(index, Blank) for index in order] == [False] * 16 + [True] * 2
    assert sorted(order[:16]) == list(range(16)) and order[16:] == [order[15]] * 2


class Cells:
    """A data set that knows sizes alone: many small crystals and a few large cells."""

    epoch = 0

    def __init__(self, sizes):
        self._sizes = sizes

    def __len__(self):
        return len(self._sizes)

    def sizes(self):
        return self._sizes


def test_batches_by_atoms_hold_every_row_once_and_little_padding():
    sizes = [2 + row % 15 for row in range(900)] + [60 + row % 37 for row in range(60)]
    cells = Cells(sizes)
    sampler = EpochSampler(cells, "random", seed=1, atoms_per_batch=160, multiple=4)
    first = list(sampler)
    assert len(first) == len(sampler) and len(first) % 4 == 0
    batches = [batch for batch in first if not isinstance(batch[0], Blank)]
    assert sorted(row for batch in batches for row in batch) == list(range(960))
    padded = [len(batch) * max(sizes[row] for row in batch) for batch in batches]
    assert sum(padded) < 1.1 * sum(sizes) and max(padded) < 4 * 160  # one batch has both small and large
    assert list(sampler) == first
    cells.epoch = 1
    assert len(list(sampler)) == len(first) and set(list(sampler)) != set(first)


@pytest.mark.parametrize("sizes", [[1, 1, 1, 100], [100, 1, 1], [8] * 50 + [64] * 20 + [216] * 10, [5], [3, 3]])
@pytest.mark.parametrize("atoms_per_batch", [1, 26, 64, 128, 200, 10**6])
def test_no_batch_is_empty_whatever_the_sizes(sizes, atoms_per_batch):
    sampler = EpochSampler(Cells(sizes), "random", seed=0, atoms_per_batch=atoms_per_batch)
    batches = list(sampler)
    assert len(batches) == len(sampler) and min(map(len, batches)) > 0
    assert sorted(row for batch in batches for row in batch) == list(range(len(sizes)))


def test_a_batch_by_atoms_is_the_structures_of_its_rows(structures):
    one = StructureCollator(ADAPTFeatureExtractor())(structures.__getitems__([(3, 5), (7,)]))
    other = StructureCollator(ADAPTFeatureExtractor())(structures.__getitems__([3, 5, 7]))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("target", ["forces", "energy", "energy_and_forces"])
def test_blanks_add_nothing_to_loss_and_gradient(structures, make_force_model, make_energy_model, target):
    collator = StructureCollator(ADAPTFeatureExtractor(), target)
    model = make_force_model() if target == "forces" else make_energy_model(**POOLED)
    model.train()  # a force that is learned has a gradient of its own; there is no dropout
    results = []
    for indices in ([3, 5], [3, 5, Blank(0), Blank(3)]):
        batch = collator(structures.__getitems__(indices))
        for name in ("nearest_defect", "rows"):
            batch.pop(name, None)
        model.zero_grad()
        loss = model(**batch, num_items_in_batch=int((batch["labels"] != -100).sum())).loss
        loss.backward()
        results.append([loss, *(weight.grad for weight in model.parameters() if weight.grad is not None)])
    for plain, filled in zip(*results, strict=True):
        torch.testing.assert_close(plain, filled, rtol=1e-5, atol=1e-6)


def test_energy_that_happens_to_be_the_mark_counts(structures):
    item = structures[0] | {"energy": -100.0}
    labels = StructureCollator(ADAPTFeatureExtractor(), "energy")([item])["labels"]
    assert labels.item() != -100 and labels.item() == pytest.approx(-100, abs=1e-12)
