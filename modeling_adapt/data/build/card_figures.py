"""Figures of a data set card: how large forces are, where they are, and how many structures there are of each kind."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.colors import LogNorm

from ...figures import COLUMN, COUNTS, PAGE, STYLES, Style, caption, drawn, legend_below, logarithmic
from ..columns import flat_values, list_column
from ..load.importance import defect_distances
from .summary import DatasetSummary

_DECADES = (-4, 2)  # powers of ten in eV/Å that the distribution of forces shows
_BINS_PER_DECADE = 10
_SAMPLE = 1000  # structures whose forces are drawn against the distance, and atoms of each at most
_KNOWN = ("train", "validation", "test")  # look alike in the figures of all data sets


class ForceFigures:
    """Collects in one pass, with bounded memory, what the figures of forces show.

    Args:
        rows (`int`):
            Number of structures that will come; of which `_SAMPLE`, evenly spread, are drawn against the distance.
    """

    def __init__(self, rows: int) -> None:
        self._every = -(-rows // _SAMPLE)
        self._seen = 0
        bins = (_DECADES[1] - _DECADES[0]) * _BINS_PER_DECADE
        self._counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(bins, dtype=np.int64))
        self._points: list[np.ndarray] = []  # (2, atoms): distances in Å, sizes of forces in eV/Å

    def add(self, split: str, table: pa.Table) -> None:
        """Counts the forces of a table with the columns of `STRUCTURE_FEATURES`."""
        sizes = np.linalg.norm(flat_values(table, "forces").reshape(-1, 3), axis=1)
        counts = self._counts[split]
        scale = (np.log10(np.maximum(sizes, 10.0 ** _DECADES[0])) - _DECADES[0]) * _BINS_PER_DECADE
        counts += np.bincount(np.minimum(scale.astype(np.int64), len(counts) - 1), minlength=len(counts))
        self._sample(table.take(np.arange(-self._seen % self._every, len(table), self._every)))
        self._seen += len(table)

    def _sample(self, table: pa.Table) -> None:
        names = ("positions", "forces", "defect_sites")
        cells = flat_values(table, "cell").reshape(-1, 3, 3)
        periodic = flat_values(table, "pbc").reshape(-1, 3)
        columns = zip(*(list_column(table, name) for name in names), cells, periodic, strict=True)
        for positions, forces, sites, cell, pbc in columns:
            if positions is not None and forces is not None and sites is not None and len(sites):
                some = slice(None, None, -(-len(positions) // _SAMPLE))
                nearest = defect_distances(positions[some], sites, cell, pbc).min(axis=1)
                self._points.append(np.stack([nearest, np.linalg.norm(forces[some], axis=1)]).astype(np.float32))

    def draw_distribution(self, path: Path) -> bool:
        """Shares of atoms by the size of their force; False where there are no forces to draw."""
        shown = {split: counts for split, counts in self._counts.items() if counts.any()}
        if not shown:
            return False
        edges = np.logspace(*_DECADES, (_DECADES[1] - _DECADES[0]) * _BINS_PER_DECADE + 1)
        filled = np.flatnonzero(sum(shown.values()))
        with drawn(path, COLUMN, 2.7) as (figure, (axes,)):
            for (split, counts), look in zip(shown.items(), _looks(list(shown)), strict=True):
                label = f"{split} (n = {counts.sum():,} atoms)"
                axes.stairs(100 * counts / counts.sum(), edges, color=look.colour, linestyle=look.dash, label=label)
            axes.set(xlim=(edges[filled[0]], edges[filled[-1] + 1]), ylim=(0, None))
            axes.set(xlabel="|F| of an atom (eV/Å)", ylabel="share of atoms (%)")
            logarithmic(axes.xaxis)
            caption(figure, f"forces below {edges[0]:g} eV/Å are in the first step" if filled[0] == 0 else "")
            legend_below(figure)
        return True

    def draw_distance(self, path: Path) -> bool:
        """|F| against the distance to the nearest defect site; False where no structure has both."""
        if not self._points:
            return False
        distances, sizes = np.concatenate(self._points, axis=1)
        sizes = np.maximum(sizes, 10.0 ** _DECADES[0])
        with drawn(path, COLUMN, 2.8) as (figure, (axes,)):
            cells = axes.hexbin(
                distances, sizes, yscale="log", gridsize=50, mincnt=1, norm=LogNorm(), cmap=COUNTS, linewidths=0.1
            )
            figure.colorbar(cells, ax=axes, label="atoms in a hexagon", format="{x:,g}").outline.set_visible(False)
            middles, quartiles = _quartiles(distances, sizes)
            for values, dash, label in zip(
                quartiles, (":", "-", ":"), ("", "median", "first and third quartile"), strict=True
            ):
                axes.plot(middles, values, color=STYLES[1].colour, linestyle=dash, label=label or None)
            axes.set(xlabel="distance to the nearest defect site (Å)", ylabel="|F| of an atom (eV/Å)")
            logarithmic(axes.yaxis)
            caption(figure, f"n = {len(distances):,} atoms of {len(self._points):,} structures")
            legend_below(figure)
        return True


def draw_kinds(summary: DatasetSummary, path: Path) -> bool:
    """Number of structures of every config type, by split; True, as there are always some to draw."""
    totals = {kind: tally.structures for kind, tally in summary.by("config_type").items()}
    kinds = sorted(totals, key=lambda kind: totals[kind])
    counts = {label: tally.structures for label, tally in summary.by("split", "config_type").items()}
    splits = list(summary.by("split"))
    with drawn(path, PAGE, 1.1 + 0.18 * len(kinds)) as (figure, (axes,)):
        left = np.zeros(len(kinds))
        for split, look in zip(splits, _looks(splits), strict=True):
            widths = np.array([counts.get((split, kind), 0) for kind in kinds])
            axes.barh([kind or "none given" for kind in kinds], widths, left=left, **look.bar(), label=split)
            left += widths
        for place, total in enumerate(left):
            axes.annotate(f"{total:,.0f}", (total, place), (3, 0), textcoords="offset points", va="center", size=7)
        axes.margins(x=0.08, y=0.01)
        axes.set_xlabel("number of structures")
        caption(figure, f"n = {left.sum():,.0f} structures")
        legend_below(figure)
    return True


def _quartiles(distances: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles of half-Å bins of the distance, and quartiles (3, B) of the size; bins with few atoms are left out."""
    bins = (2 * distances).astype(np.int64)
    filled = [index for index, count in enumerate(np.bincount(bins)) if count >= 10]
    found = [np.percentile(sizes[bins == index], (25, 50, 75)) for index in filled]
    return np.array([index / 2 + 0.25 for index in filled]), np.reshape(found, (-1, 3)).T


def _looks(splits: list[str]) -> list[Style]:
    own = [split for split in splits if split not in _KNOWN]
    return [STYLES[[*_KNOWN, *own].index(split) % len(STYLES)] for split in splits]
