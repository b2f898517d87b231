"""Where experiments get their data sets, models and evaluations from: made once, kept, and known again by content."""

import hashlib
import json
import os
import shutil
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
from ...data.content import content_hash
from ...data.reading import read_split, read_splits
from ...data.structures import Target
from ...errors import InputError
from ...feature_extraction_adapt import ADAPTFeatureExtractor
from ...loading import load_model
from ..evaluate import evaluate_energy, evaluate_forces, fit_baseline
from .experiment import DEFECTS, KINDS, REAL, SMALL_CELLS, Training

ROOT = Path(__file__).resolve().parents[3]
SIZES = (2, 3, 4, 5)  # cubic cells along an edge, of the sets for errors against size
_CARBON = "carbon_substitutional,carbon_interstitial,carbon_vacancy,vacancy"
_DEFECTS = "vacancy,interstitial_tetrahedral,interstitial_split_110,carbon_substitutional,carbon_interstitial"
_KINDS = "vacancy,interstitial_tetrahedral,interstitial_split_110,divacancy,di_interstitial,bulk_thermal,surface"
_RELAXING = ["--frames", "8", "--steps", "30", "--md-share", "0.2", "--md-steps", "40"]
# Options of data_scripts/generate_defects.py, and how many structures at scale 1.
GENERATED: dict[str, tuple[int, list[str]]] = {
    DEFECTS: (1000, [*_RELAXING, "--kinds", f"{_DEFECTS},divacancy,di_interstitial,bulk_thermal"]),
    SMALL_CELLS: (600, [*_RELAXING, "--kinds", _CARBON, "--repeat", "2"]),
    KINDS: (800, [*_RELAXING, "--kinds", _KINDS]),
    **{
        f"{repeat} cells": (
            8,
            ["--kinds", _DEFECTS, "--repeat", str(repeat), "--frames", "2", "--steps", "20", "--split", "test"],
        )
        for repeat in SIZES
    },
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
        self._rows = cache(self._read)

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
        whole = name.partition(" without ")[0]
        made_of = self.given[whole] if whole in self.given else self._generation(whole)
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

    def processor_seconds(self, training: Training) -> float:
        """What the training took."""
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

    def fingerprints(self, trainings: Iterable[Training]) -> list[str]:
        """By what the models are known again; an outcome is made of them."""
        return sorted(self._folder(training).name for training in without_doubles(trainings))

    def clear(self, folder: Path) -> None:
        """Removes the outcome of other models."""
        shutil.rmtree(folder, ignore_errors=True)

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
        words = {"data": self._hash(training.dataset), **training.arguments(self.scale)}
        return self.folder / "trained" / f"{training.model}-{_short_hash(words)}"

    def _hash(self, name: str) -> dict[str, str]:
        """By what a data set is known again, whatever its folder."""
        return {split: content_hash(rows) for split, rows in self._rows(name).items() if split != "test"}

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
    return list({json.dumps(vars(one), sort_keys=True, default=dict): one for one in trainings}.values())


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [f"--{name}", *map(str, value)] if name == "augmentation" else [f"--{name}", json.dumps(value)]
    return [f"--{name}", str(value)]


def _short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()[:12]
