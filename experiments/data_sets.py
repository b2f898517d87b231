"""The data sets of the experiments: generated where the user gives none, made once, and known again by content."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import datasets

from modeling_adapt.data.columns import list_lengths
from modeling_adapt.data.load.reading import read_split, read_splits, select_subset
from modeling_adapt.data.load.survey import content_hash, require_cubic_cells
from modeling_adapt.data.structures import Target
from modeling_adapt.errors import InputError

from .experiment import DEFECTS, DFT, GENERATED, GIVEN, KINDS, REAL, SMALL_CELLS, Training
from .processes import run_python

LABELLED_SIZES = (2, 3, 4, 5)  # cubic cells along an edge, of the sets for errors against size
_CARBON = "carbon_substitutional,carbon_interstitial,carbon_vacancy,vacancy"
_DEFECTS = "vacancy,interstitial_tetrahedral,interstitial_split_110,carbon_substitutional,carbon_interstitial"
_KINDS = "vacancy,interstitial_tetrahedral,interstitial_split_110,divacancy,di_interstitial,bulk_thermal,surface"
_RELAXING = ["--frames", "8", "--steps", "30", "--md-share", "0.2", "--md-steps", "40"]
_OF_A_SIZE = ["--kinds", _DEFECTS, "--frames", "2", "--steps", "20", "--split", "test", "--seed", "1"]
# Options of data_scripts/generate_defects.py, and how many structures at scale 1.
RECIPES: dict[str, tuple[int, list[str]]] = {
    DEFECTS: (1000, [*_RELAXING, "--kinds", f"{_DEFECTS},divacancy,di_interstitial,bulk_thermal"]),
    SMALL_CELLS: (600, [*_RELAXING, "--kinds", _CARBON, "--repeat", "2"]),
    KINDS: (800, [*_RELAXING, "--kinds", _KINDS]),
    # Another seed: those of 3 cells would begin as the first of `DEFECTS` do, which were trained on.
    **{f"{repeat} cells": (20, [*_OF_A_SIZE, "--repeat", str(repeat)]) for repeat in LABELLED_SIZES},
}
_SECONDS_PER_STRUCTURE = 0.2  # to make and label it, of 216 atoms, on two cores


class DataSets:
    """
    Args:
        folder: where generated ones are kept.
        scale: how many times as many structures as at the size for a CPU.
        dataset: a data set of the user's in place of the generated one of 216 atoms.
        real: a data set of real DFT structures with splits train and validation, where there is one.
        jobs: processes that generate.
    """

    def __init__(self, folder: Path, scale: float, dataset: str | None, real: str | None, jobs: int) -> None:
        self.folder, self.scale, self.jobs = folder, scale, jobs
        self.given = {name: given for name, given in ((DEFECTS, dataset), (REAL, real)) if given is not None}
        self._splits = cache(lambda name: read_splits(self.path(name)))
        self.hashes = cache(self._hashes)

    @property
    def kinds(self) -> list[str]:
        """What an experiment that is about any data is done on, as its table calls it."""
        return [GIVEN if DEFECTS in self.given else GENERATED, *([DFT] if REAL in self.given else [])]

    def path(self, name: str) -> str:
        """Folder of a data set, which is generated or divided where that has not been done."""
        if name in self.given:
            return self.given[name]
        if name == REAL:
            raise InputError("this experiment needs DFT data: name a data set with --dft")
        folder = self._folder(name)
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            whole, without, kind = name.partition(" without ")
            if without:
                run_python("data_scripts/split_dataset.py", self.path(whole), str(folder), "--hold-out", kind)
            else:
                options = [*self._generation(name), "--num-proc", str(self.jobs)]
                run_python("data_scripts/generate_defects.py", str(folder), *options)
        return str(folder)

    def is_made(self, name: str) -> bool:
        return name in self.given or self._folder(name).is_dir()

    def rows(self, name: str, split: str, target: Target | None = None) -> datasets.Dataset:
        """The rows of one split that carry this label, or all."""
        return self._splits(name)[split] if target is None else read_split(self.path(name), split, target)

    def unseen(self, name: str) -> str:
        """The split of unseen trajectories on which errors are measured."""
        for split in ("test", "validation"):
            if split in self._splits(name):
                return split
        remedy = "name one with such a split" if name in self.given else "take a larger --scale"
        raise InputError(f"{self.path(name)} has no split test or validation to measure errors on: {remedy}")

    def check(self, training: Training) -> None:
        """Raises [`InputError`] where a data set that was given will not do: better now than after hours."""
        name, options = training.dataset, training.options
        if name not in self.given:
            return
        target: Target = "energy_and_forces" if training.model == "pairwise-energy" else "forces"
        train = select_subset(self.rows(name, "train", target), options.get("train_subset", 100))
        unseen = self.rows(name, self.unseen(name), target)
        for rows in (train, unseen):
            sites = rows.select_columns(["defect_sites"]).with_format("arrow")[:]
            if not list_lengths(sites, "defect_sites").any():
                raise InputError(f"{self.given[name]} has no defect sites: import the data with --host")
        if "octahedral" in options.get("augmentation", ()):
            require_cubic_cells(train)

    def seconds_to_make(self, names: Iterable[str]) -> float:
        """Of those that are not there yet."""
        seconds = 0.0
        for name in {name.partition(" without ")[0] for name in names if not self.is_made(name)}:
            count, options = RECIPES[name]
            repeat = int(options[options.index("--repeat") + 1]) if "--repeat" in options else 3
            seconds += _SECONDS_PER_STRUCTURE * count * self.scale * (repeat / 3) ** 3
        return seconds

    def sizes(self) -> dict[str, dict[str, int]]:
        """Number of structures in each split of those that are there, parts of others left out."""
        made = [name for name in (*RECIPES, REAL) if self.is_made(name)]
        return {name: {split: len(rows) for split, rows in self._splits(name).items()} for name in made}

    def _generation(self, name: str) -> list[str]:
        """Options that decide what is generated."""
        structures, options = RECIPES[name]
        return ["--structures", str(max(1, round(structures * self.scale))), *options]

    def _folder(self, name: str) -> Path:
        """Whose name tells a data set of one recipe from that of another."""
        if name == REAL:
            return self.folder / name
        made_of = self._generation(name.partition(" without ")[0])
        return self.folder / f"{name.replace(' ', '-')}-{short_hash(made_of)}"

    def _hashes(self, name: str) -> Mapping[str, str]:
        """By what the splits of a data set are known again, whatever its folder."""
        return {split: content_hash(rows) for split, rows in self._splits(name).items()}


def short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()[:12]
