"""The order in which an epoch visits its structures: a function of seed and epoch alone, exact on many processes."""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..data.load.batching import Blank, StructureDataset

Strategy = Literal["random", "sequential", "group_by_length"]


class EpochSampler(Sampler[int | tuple[int, ...]]):
    """
    The rows of `dataset` in the order of its epoch. Every process, and a run that was resumed, has the same one.

    With `atoms_per_batch` it gives batches of rows in place of rows: structures of similar size, together of about so
    many atoms. Where a crystal of four atoms and a cell of 96 count alike, batches are either small or mostly padding.
    Their number is the same in every epoch, which structures share one is drawn anew.

    Where many processes share an epoch whose length they do not divide, accelerate would repeat the first structures,
    so that N processes learn something else than one. Here blanks fill the last batches instead: structures without
    labels, which add nothing to a loss (see [`StructureDataset`]).

    Args:
        strategy (`Strategy`):
            `"random"`, `"sequential"`, or `"group_by_length"`: random, with structures of similar size beside each
            other, so that batches hold little padding.
        group_size (`int`, defaults to `1`): Structures of one optimiser step, within which `"group_by_length"` sorts.
        multiple (`int`, defaults to `1`): The length is filled up to a multiple of this with blanks.
        atoms_per_batch (`int`, *optional*): See above; `strategy` is `"random"` then.
        seed (`int`): At least 0.
    """

    def __init__(
        self,
        dataset: StructureDataset,
        strategy: Strategy,
        seed: int,
        group_size: int = 1,
        multiple: int = 1,
        atoms_per_batch: int | None = None,
    ) -> None:
        self.dataset, self.strategy, self.seed = dataset, strategy, seed
        self.group_size, self.multiple = group_size, multiple
        self.sizes = dataset.sizes() if strategy == "group_by_length" or atoms_per_batch is not None else None
        self.num_batches = None
        if atoms_per_batch is not None and self.sizes is not None:
            self.num_batches = min(len(dataset), math.ceil(sum(self.sizes) / atoms_per_batch))

    def __len__(self) -> int:
        return self._num_items + self._num_blanks

    def __iter__(self) -> Iterator[int | tuple[int, ...]]:
        order = self._order() if self.num_batches is None else self._batches(self.num_batches)
        yield from order
        for _ in range(self._num_blanks):
            yield Blank(order[-1]) if isinstance(order[-1], int) else tuple(map(Blank, order[-1]))

    @property
    def _num_items(self) -> int:
        return len(self.dataset) if self.num_batches is None else self.num_batches

    @property
    def _num_blanks(self) -> int:
        return -self._num_items % self.multiple

    def _batches(self, count: int) -> list[tuple[int, ...]]:
        rng, sizes = np.random.default_rng((self.seed, self.dataset.epoch)), np.array(self.sizes)
        order = np.argsort(sizes * rng.uniform(1.0, 1.2, len(sizes)))
        middles = np.cumsum(sizes[order]) - sizes[order] / 2
        starts = np.searchsorted(middles, np.arange(1, count) * sizes.sum() / count)
        # Not two at one place, where a structure is as large as several batches: none is empty.
        places = np.arange(count - 1)
        starts = np.maximum.accumulate(np.maximum(starts, 1) - places) + places
        starts = np.minimum(starts, len(sizes) - count + 1 + places)
        batches = [tuple(batch.tolist()) for batch in np.split(order, starts)]
        return [batches[index] for index in rng.permutation(len(batches))]

    def _order(self) -> list[int]:
        if self.strategy == "sequential":
            return list(range(len(self.dataset)))
        rng = np.random.default_rng((self.seed, self.dataset.epoch))
        if self.sizes is None:
            return rng.permutation(len(self.dataset)).tolist()
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        return get_length_grouped_indices(self.sizes, self.group_size, generator=generator)
