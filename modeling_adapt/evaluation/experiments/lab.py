"""Where experiments get their data sets, models and evaluations from: made once, kept, and known again by content."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

import datasets
from tqdm import tqdm
from transformers import PreTrainedModel

from ...command_line import finished_folder, write_whole
from ...data.columns import list_lengths
from ...data.content import content_hash
from ...data.reading import read_split, read_splits
from ...data.structures import Target
from ...data.subsets import select_subset
from ...errors import InputError
from ...feature_extraction_adapt import ADAPTFeatureExtractor
from ...loading import load_model
from ...training.arguments import PRESETS
from ..evaluate import evaluate_energy, evaluate_forces, fit_baseline
from .experiment import DEFECTS, KINDS, REAL, SMALL_CELLS, Training

ROOT = Path(__file__).resolve().parents[3]
LABELLED_SIZES = (2, 3, 4, 5)  # cubic cells along an edge, of the sets for errors against size
_CARBON = "carbon_substitutional,carbon_interstitial,carbon_vacancy,vacancy"
_DEFECTS = "vacancy,interstitial_tetrahedral,interstitial_split_110,carbon_substitutional,carbon_interstitial"
_KINDS = "vacancy,interstitial_tetrahedral,interstitial_split_110,divacancy,di_interstitial,bulk_thermal,surface"
_RELAXING = ["--frames", "8", "--steps", "30", "--md-share", "0.2", "--md-steps", "40"]
_SECONDS_PER_STRUCTURE = 0.2  # to make and label it, of 216 atoms, on two cores
_OF_A_SIZE = ["--kinds", _DEFECTS, "--frames", "2", "--steps", "20", "--split", "test", "--seed", "1"]
# Options of data_scripts/generate_defects.py, and how many structures at scale 1.
GENERATED: dict[str, tuple[int, list[str]]] = {
    DEFECTS: (1000, [*_RELAXING, "--kinds", f"{_DEFECTS},divacancy,di_interstitial,bulk_thermal"]),
    SMALL_CELLS: (600, [*_RELAXING, "--kinds", _CARBON, "--repeat", "2"]),
    KINDS: (800, [*_RELAXING, "--kinds", _KINDS]),
    # Another seed: those of 3 cells would begin as the first of `DEFECTS` do, which were trained on.
    **{f"{repeat} cells": (20, [*_OF_A_SIZE, "--repeat", str(repeat)]) for repeat in LABELLED_SIZES},
}


class Lab:
    """
    Args:
        folder: where everything is kept; what is there and finished is used again.
        scale: 1 is the size for a CPU; structures and steps of training grow with it.
        dataset: a data set of the user's in place of the generated one of 216 atoms.
        real: a data set of real DFT structures with splits train and validation, where there is one.
        jobs: trainings at a time; each has its share of the processors.
    """

    def __init__(
        self,
        folder: str | Path,
        scale: float = 1.0,
        dataset: str | None = None,
        real: str | None = None,
        jobs: int = 2,
    ) -> None:
        self.folder, self.scale, self.jobs = Path(folder), scale, jobs
        self.given = {name: given for name, given in ((DEFECTS, dataset), (REAL, real)) if given is not None}
        self._rows, self._hash = cache(self._read), cache(self._hash_rows)

    @property
    def has_real_data(self) -> bool:
        return REAL in self.given

    def dataset(self, name: str) -> str:
        """Folder of a data set, which is generated or divided where that has not been done."""
        if name in self.given:
            return self.given[name]
        if name == REAL:
            raise InputError("this experiment needs DFT data: name a data set with --dft")
        folder = self._data_folder(name)
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            whole, without, kind = name.partition(" without ")
            if without:
                command = ["data_scripts/split_dataset.py", self.dataset(whole), str(folder), "--hold-out", kind]
            else:
                options = [*self._generation(name), "--num-proc", str(self.jobs)]
                command = ["data_scripts/generate_defects.py", str(folder), *options]
            self._run(command)
        return str(folder)

    def _generation(self, name: str) -> list[str]:
        """Options that decide what is generated."""
        structures, options = GENERATED[name]
        return ["--structures", str(max(1, round(structures * self.scale))), *options]

    def _data_folder(self, name: str) -> Path:
        """Whose name tells a data set of one recipe from that of another."""
        made_of = self._generation(name.partition(" without ")[0])
        return self.folder / "data" / f"{name.replace(' ', '-')}-{_short_hash(made_of)}"

    def _is_made(self, name: str) -> bool:
        return name in self.given or self._data_folder(name).is_dir()

    def rows(self, name: str, split: str) -> datasets.Dataset:
        """One split of a data set."""
        return self._rows(name)[split]

    def split(self, name: str) -> str:
        """The split of unseen trajectories on which errors are measured."""
        return "test" if "test" in self._rows(name) else "validation"

    def model(self, training: Training) -> tuple[PreTrainedModel, ADAPTFeatureExtractor]:
        """The trained model; it must have been [`prepare`]d."""
        return load_model(self._finished(training) / "model")

    def model_folder(self, training: Training) -> Path:
        return self._finished(training) / "model"

    def seconds(self, training: Training) -> float:
        """What the training took, beside the others that ran at the same time."""
        return json.loads((self._finished(training) / "finished.json").read_text())["seconds"]

    def errors(self, training: Training, dataset: str | None = None) -> dict[str, Any]:
        """Metrics of the forces (see [`ForceMetrics`]) on the unseen split of a data set, by default its own."""
        return self._evaluation(training, dataset or training.dataset, "forces")

    def energy_errors(self, training: Training) -> dict[str, Any]:
        """Metrics of the energies (see [`EnergyMetrics`]) on the unseen split of its data set."""
        return self._evaluation(training, training.dataset, "energy")

    def missing(self, trainings: Iterable[Training]) -> list[Training]:
        """Those that are not trained yet, without doubles; data sets that are not made yet count as new."""
        return [training for training in without_doubles(trainings) if not self._is_finished(training)]

    def prepare(self, trainings: Iterable[Training]) -> None:
        """Trains what is missing, so many at a time as there are jobs; an interruption loses only those that run."""
        wanted = without_doubles(trainings)
        for name in dict.fromkeys(training.dataset for training in wanted):
            self.dataset(name)
        todo = sorted(self.missing(wanted), key=lambda training: -training.seconds(self.scale))
        expected = sum(training.seconds(self.scale) for training in todo)
        with (
            tqdm(total=round(expected), unit="s", desc="training", disable=None if todo else True) as bar,
            ThreadPoolExecutor(self.jobs) as pool,
        ):
            running = {pool.submit(self._train, training): training for training in todo}
            try:
                for finished in as_completed(running):
                    finished.result()
                    bar.update(round(running[finished].seconds(self.scale)))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def check(self, trainings: Iterable[Training]) -> None:
        """Raises [`InputError`] where a data set that was given will not do: better now than after hours."""
        for training in without_doubles(trainings):
            if (dataset := self.given.get(training.dataset)) is None:
                continue
            target: Target = "energy_and_forces" if training.model == "pairwise-energy" else "forces"
            if not {"test", "validation"} & self._rows(training.dataset).keys():
                raise InputError(f"{dataset} has no split test or validation: there is nothing to measure errors on")
            select_subset(read_split(dataset, "train", target), training.options.get("train_subset", 100))
            unseen = read_split(dataset, self.split(training.dataset), target)
            sites = unseen.select_columns(["defect_sites"]).with_format("arrow")[:]
            if training.dataset == DEFECTS and not list_lengths(sites, "defect_sites").any():
                raise InputError(f"{dataset} has no defect sites: import the data with --host")

    def fingerprint(self, trainings: Iterable[Training]) -> dict[str, str]:
        """By what models and the structures that they are measured on are known again."""
        unique = without_doubles(trainings)
        measured_on = sorted({training.dataset for training in unique})
        return {
            "models": _short_hash(sorted(self._folder(training).name for training in unique)),
            "measured on": _short_hash([self._hash(name)[self.split(name)] for name in measured_on]),
        }

    def seconds_to_make_data(self, trainings: Iterable[Training]) -> float:
        """Of the data sets that are not there yet."""
        names = {training.dataset.partition(" without ")[0] for training in trainings}
        return sum(
            _SECONDS_PER_STRUCTURE * GENERATED[name][0] * self.scale for name in names if not self._is_made(name)
        )

    def used(self) -> list[str]:
        """Names of the data sets that are there, parts of others left out."""
        return [name for name in (*GENERATED, REAL) if self._is_made(name)]

    def sizes(self, name: str) -> dict[str, int]:
        """Number of structures in each split."""
        return {split: len(rows) for split, rows in self._rows(name).items()}

    def _train(self, training: Training) -> None:
        folder = self._folder(training)
        words = [text for name, value in training.arguments(self.scale).items() for text in _option(name, value)]
        began = time.monotonic()
        with finished_folder(folder) as unfinished:
            model = unfinished / "model"
            self._run(["train.py", *words, "--dataset", self.dataset(training.dataset), "--output_dir", str(model)])
            record = training.arguments(self.scale) | {"seconds": time.monotonic() - began}
            (unfinished / "finished.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _evaluation(self, training: Training, dataset: str, target: Target) -> dict[str, Any]:
        split = self.split(dataset)
        rows = read_split(self.dataset(dataset), split, target)
        file = self._finished(training) / f"{target}-{_short_hash([dataset, content_hash(rows)])}.json"
        if not file.is_file():
            model, feature_extractor = self.model(training)
            if target == "energy":
                baseline = fit_baseline(read_split(self.dataset(dataset), "train", "energy"))
                evaluation = evaluate_energy(model, feature_extractor, rows, baseline=baseline)
            else:
                evaluation = evaluate_forces(model, feature_extractor, rows)
            write_whole(file, json.dumps(evaluation.metrics, indent=2) + "\n")
        return json.loads(file.read_text(encoding="utf-8"))

    def _is_finished(self, training: Training) -> bool:
        return self._is_made(training.dataset) and (self._folder(training) / "finished.json").is_file()

    def _finished(self, training: Training) -> Path:
        folder = self._folder(training)
        if not (folder / "finished.json").is_file():
            raise InputError(f"{folder} is not trained; run the experiment again")
        return folder

    def _folder(self, training: Training) -> Path:
        known = {split: value for split, value in self._hash(training.dataset).items() if split != "test"}
        preset = json.loads((PRESETS / f"{training.model}.json").read_text(encoding="utf-8"))
        words = {"data": known, "preset": preset, **training.arguments(self.scale)}
        return self.folder / "trained" / f"{training.model}-{_short_hash(words)}"

    def _hash_rows(self, name: str) -> dict[str, str]:
        """By what the splits of a data set are known again, whatever its folder."""
        return {split: content_hash(rows) for split, rows in self._rows(name).items()}

    def _read(self, name: str) -> Mapping[str, datasets.Dataset]:
        return read_splits(self.dataset(name))

    def _run(self, command: list[str]) -> None:
        """A command of this repository; its last line is the error where it fails."""
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        finished = subprocess.run(
            [sys.executable, str(ROOT / command[0]), *command[1:]], capture_output=True, text=True, env=environment
        )
        if finished.returncode:
            raise InputError(f"{' '.join(command[:2])}: {(finished.stderr.strip().splitlines() or ['failed'])[-1]}")


def without_doubles(trainings: Iterable[Training]) -> list[Training]:
    """Experiments share trainings."""
    return list({_short_hash([one.dataset, one.arguments(1)]): one for one in trainings}.values())


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [f"--{name}", *map(str, value)] if name == "augmentation" else [f"--{name}", json.dumps(value)]
    return [f"--{name}", str(value)]


def _short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()[:12]
