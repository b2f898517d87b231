"""Several sources in one data set: energies of one level of theory, weights, and no structure twice.

Energies of two levels differ by eV per atom, so they can never be labels together; the forces can.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..read.structure_files import StructureFile, find_files, owner_of, structure_rows
from ..sources import Source, SourceList
from ..split.duplicates import near_duplicates
from ..split.splitting import SPLITS, Division, RowKey, assign_rows, train_subsets
from .building import Notes

Change = Callable[[pa.Table], pa.Table]
_GEOMETRY = ["atomic_numbers", "positions", "cell", "pbc", "charge", "source_name"]


def source_files(sources: Sequence[Source], root: Path) -> list[StructureFile]:
    """The files of all sources, each of which is the owner of its files.

    Raises:
        [`InputError`]: As [`find_files`].
    """
    return find_files([(source.name, root / file) for source in sources for file in source.files])


def source_rows(
    part: StructureFile, notes: Notes, sources: Mapping[str, Source], skip_broken: bool
) -> Iterator[dict[str, Any]]:
    """Rows of [`structure_row`] for the frames of a file that its source does not leave out.

    Args:
        part ([`StructureFile`]): Of [`source_files`].
        notes (`Notes`):
            Beside those of [`structure_rows`] gets `source`, the number of `energies` and that of the `filtered`.
        sources (`Mapping[str, Source]`): By name.
        skip_broken (`bool`): Of [`ReadingOptions`].
    """
    source = sources[part.owner]
    notes.update(source=source.name, energies=0, filtered=0)
    for row in structure_rows(part, notes, source.options(skip_broken)):
        if _is_filtered(row, source):
            notes["filtered"] += 1
            continue
        notes["energies"] += row["energy"] is not None
        yield row | {"source_name": source.name, "source_weight": source.weight}


def _is_filtered(row: Mapping[str, Any], source: Source) -> bool:
    if source.max_force is not None and np.linalg.norm(row["forces"], axis=1).max() > source.max_force:
        return True
    energy = row["energy"]
    limit = source.max_energy_per_atom
    return limit is not None and energy is not None and energy / len(row["atomic_numbers"]) > limit


class Mixture:
    """What becomes of the rows of [`source_rows`] when all are there.

    Attributes:
        level (`str`, *optional*): Whose energies are kept; None until [`Mixture.revise`], or where there are none.
        filtered (`Counter[str]`): By source, structures left out by its limits; none until [`Mixture.revise`].
        duplicates (`int`): Structures left out as another source has them.
        leaks (`int`): Structures left out as a split that is measured on has nearly the same.
    """

    def __init__(self, listed: SourceList) -> None:
        self.listed = listed
        self.level = listed.energies
        self.filtered: Counter[str] = Counter()
        self.duplicates = self.leaks = 0

    def divide(self, sources: Sequence[str], keys: Sequence[RowKey]) -> Division:
        """Each source as it says."""
        splits: dict[str, list[int]] = {}
        of_source = [owner_of(key.trajectory) for key in keys]
        for source in self.listed.sources:
            rows = [row for row, name in enumerate(of_source) if name == source.name]
            found = assign_rows([keys[row] for row in rows], source.split, self.listed.seed, by=source.split_by)
            for split, members in found.items():
                splits.setdefault(split, []).extend(rows[member] for member in members)
        splits = {split: sorted(splits[split]) for split in sorted(splits, key=_rank)}
        return splits, train_subsets(keys, splits, self.listed.seed)

    def revise(self, paths: list[Path], notes: list[Notes], division: Division) -> tuple[Division, Change]:
        """Chooses the level of the energies, and leaves out what is there twice."""
        energies: Counter[str] = Counter()
        levels = {source.name: source.level for source in self.listed.sources}
        for note in notes:
            energies[levels[note["source"]]] += note["energies"]
            self.filtered[note["source"]] += note["filtered"]
        if self.level is None and energies.total():
            self.level = energies.most_common(1)[0][0]
        with tempfile.TemporaryDirectory(dir=paths[0].parent) as cache:
            files = [str(path) for path in paths if pq.read_metadata(path).num_rows]
            rows = datasets.Dataset.from_parquet(files, columns=_GEOMETRY, cache_dir=cache)
            left = self._without_duplicates(rows)
            splits = {split: [row for row in members if left[row]] for split, members in division[0].items()}
            leaking = self._leaking(rows, splits)
        splits = {split: [row for row in members if row not in leaking] for split, members in splits.items()}
        self.leaks = len(leaking)
        return ({split: members for split, members in splits.items() if members}, division[1]), self._of_one_level

    def _without_duplicates(self, rows: datasets.Dataset) -> np.ndarray:
        """(rows,) which are left: of two sources' structure the one whose energy is kept, or that is named first."""
        names = np.array(rows["source_name"])
        order = sorted(self.listed.sources, key=lambda source: source.level != self.level)
        members = {source.name: np.flatnonzero(names == source.name) for source in order}
        left = np.ones(len(rows), dtype=bool)
        for _, second in _duplicates(rows, {name: own for name, own in members.items() if len(own)}):
            left[second] = False
        self.duplicates = int((~left).sum())
        return left

    @staticmethod
    def _leaking(rows: datasets.Dataset, splits: Mapping[str, Sequence[int]]) -> set[int]:
        """Those of which a later split has nearly the same: what is measured on stays whole."""
        ordered = {split: splits[split] for split in sorted(splits, key=_rank) if splits[split]}
        return {first for first, _ in _duplicates(rows, ordered)}

    def _of_one_level(self, table: pa.Table) -> pa.Table:
        """A table without the energies of other levels."""
        of_level = pa.array([source.name for source in self.listed.sources if source.level == self.level], pa.string())
        keeps = pc.is_in(table["source_name"], value_set=of_level)
        place = table.column_names.index("energy")
        energies = pc.if_else(keeps, table["energy"], pa.scalar(None, pa.float64()))
        return table.set_column(place, table.schema.field("energy"), energies)

    def left_out(self) -> list[str]:
        """A sentence for each reason why structures are not there."""
        told = {
            "beyond the limits of the source": self.filtered.total(),
            "which another source has": self.duplicates,
            "of which another split has nearly the same": self.leaks,
        }
        return [f"Left out: {count} structures {reason}" for reason, count in told.items() if count]

    def provenance(self) -> dict[str, Any]:
        """For the card; each of the `sources` with what it is, and under which licence."""
        sources = []
        for source in self.listed.sources:
            told = asdict(source) | {"files": [Path(file).name for file in source.files]}
            told["host"] = source.host if source.host in ("auto", "none") else Path(source.host).name
            told |= {"filtered": self.filtered[source.name], "energies": source.level == self.level}
            sources.append({name: value for name, value in told.items() if value not in (None, "")})
        return {
            "energies of": self.level or "none",
            "seed": self.listed.seed,
            "left out, as another source has them": self.duplicates,
            "left out, as another split has nearly the same": self.leaks,
            "sources": sources,
        }


def _duplicates(rows: datasets.Dataset, parts: Mapping[str, Sequence[int] | np.ndarray]) -> Iterator[tuple[int, int]]:
    """Rows of different parts that are nearly the same, in the same charge: in another one the labels are others."""
    charges = [charge or 0.0 for charge in rows["charge"]]
    for pair in near_duplicates({name: rows.select(members) for name, members in parts.items()}):
        first, second = (int(parts[part][row]) for part, row in zip(pair.splits, pair.rows, strict=True))
        if charges[first] == charges[second]:
            yield first, second


def _rank(split: str) -> tuple[int, str]:
    """Train first, then validation and test, then others."""
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)
