"""Where experiments get their data sets, models and evaluations from: made once, kept, and known again by content."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import torch
from ase import Atoms
from ase.io import iread, write
from tqdm import tqdm
from transformers import PreTrainedModel

from modeling_adapt.data.columns import list_lengths
from modeling_adapt.data.load.reading import of_one_charge, read_split, read_splits, select_subset
from modeling_adapt.data.load.survey import content_hash, require_cubic_cells
from modeling_adapt.data.structures import Target
from modeling_adapt.device import available_device, on_device
from modeling_adapt.errors import InputError, one_line
from modeling_adapt.evaluation.evaluate import evaluate_energy, evaluate_forces
from modeling_adapt.feature_extraction_adapt import ADAPTFeatureExtractor, charge_of
from modeling_adapt.files import finished_folder, write_whole
from modeling_adapt.loading import load_model
from modeling_adapt.reference_energies import fit_baseline
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.training.arguments import PRESETS

from .experiment import (
    CHARGED,
    DEFECTS,
    DFT,
    GENERATED,
    GIVEN,
    IONIC,
    KINDS,
    REAL,
    SMALL_CELLS,
    Experiment,
    Training,
    short_hash,
    source_hash,
    without_doubles,
)

ROOT = Path(__file__).resolve().parents[1]
_running: set[subprocess.Popen[str]] = set()

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
    IONIC: (640, [*_RELAXING, "--host", "MgO"]),
    # Another seed: those of 3 cells would begin as the first of `DEFECTS` do, which were trained on.
    **{f"{repeat} cells": (20, [*_OF_A_SIZE, "--repeat", str(repeat)]) for repeat in LABELLED_SIZES},
    f"{IONIC} 4 cells": (16, [*_OF_A_SIZE[2:], "--repeat", "4", "--host", "MgO"]),
}
UNSEEN_FRAMES = 5  # of so many frames of a defect in a charge, the third is not trained on
_SECONDS_PER_STRUCTURE = 0.2  # to make and label it, of 216 atoms, on two cores


class Lab:
    """
    Args:
        folder (`str` or `Path`): Where everything is kept; what is there and finished is used again.
        scale (`float`, defaults to `1.0`): 1 is the size for a CPU; structures and steps of training grow with it.
        dataset (`str`, *optional*): Of the user; see [`DataSets`].
        real (`str` or `Sequence[str]`, defaults to `()`): Likewise.
        charged (`Sequence[str]`, defaults to `()`): Likewise.
        jobs (`int`, defaults to `2`): Trainings at a time; each has its share of the processors.
    """

    def __init__(
        self,
        folder: str | Path,
        scale: float = 1.0,
        dataset: str | None = None,
        real: str | Sequence[str] = (),
        jobs: int = 2,
        charged: Sequence[str] = (),
    ) -> None:
        self.folder, self.scale, self.jobs = Path(folder), scale, jobs
        self.data = DataSets(
            self.folder / "data", scale, dataset, [real] if isinstance(real, str) else real, jobs, charged
        )

    def model(self, training: Training) -> tuple[PreTrainedModel, ADAPTFeatureExtractor]:
        """The trained model, on the GPU where there is one; it must have been [`prepare`]d."""
        model, feature_extractor = load_model(self.model_folder(training))
        return on_device(model, available_device()), feature_extractor

    def calculator(self, training: Training) -> ADAPTCalculator:
        """Of the trained model, for structures far from what it knows too."""
        return ADAPTCalculator(self.model(training)[0], device=available_device(), outside_domain="ignore")

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

    def energies(
        self, training: Training, dataset: str | None = None, charge: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and reference energies in eV of the unseen split, or of this charge in it, in its order."""
        name = dataset or training.dataset
        split = self.data.unseen(name)
        rows = of_one_charge(self.data.rows(name, split, "energy"), "any" if charge is None else f"{charge:g}", split)
        evaluation = evaluate_energy(*self.model(training), rows)
        atoms = list_lengths(rows.select_columns(["atomic_numbers"]).with_format("arrow")[:], "atomic_numbers")
        return evaluation.predicted * atoms, evaluation.reference * atoms

    def missing(self, trainings: Iterable[Training]) -> list[Training]:
        """Those that are not trained yet, without doubles; data sets that are not made yet count as new."""
        return [training for training in without_doubles(trainings) if not self._is_finished(training)]

    def prepare(self, trainings: Iterable[Training]) -> None:
        """Trains what is missing, so many at a time as there are jobs; an interruption loses only those that run."""
        wanted = without_doubles(trainings)
        for name in dict.fromkeys(training.dataset for training in wanted):
            self.data.path(name)
            self.data.unseen(name)
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
                end_all()
                raise

    def check(self, trainings: Iterable[Training]) -> None:
        """Raises [`InputError`] where a data set that was given will not do."""
        for training in without_doubles(trainings):
            self.data.check(training)

    def fingerprint(self, experiment: Experiment) -> dict[str, str]:
        """By what models and the structures that they are measured on are known again."""
        trainings = without_doubles(experiment.trainings(self))
        return {
            "models": short_hash(sorted(self._folder(training).name for training in trainings)),
            "measured on": short_hash(
                [self.data.hashes(name)[self.data.unseen(name)] for name in self.measured_on(experiment)]
            ),
        }

    def has_all(self, experiment: Experiment) -> bool:
        """Whether all its data sets and models are there."""
        return all(map(self.data.is_made, self.measured_on(experiment))) and not self.missing(
            experiment.trainings(self)
        )

    def minutes(self, trainings: Iterable[Training], data: Iterable[str] = ()) -> float:
        """How long it will take to train what is missing, and to make the data sets that are."""
        missing = self.missing(trainings)
        made = self.data.seconds_to_make([*data, *(training.dataset for training in missing)])
        return (sum(training.seconds(self.scale) for training in missing) / self.jobs + made) / 60

    def measured_on(self, experiment: Experiment) -> list[str]:
        """Names of the data sets that it reads."""
        own = {training.dataset for training in experiment.trainings(self)}
        return sorted(own.union(experiment.also_measured_on))

    def _train(self, training: Training) -> None:
        folder = self._folder(training)
        words = [text for name, value in training.arguments(self.scale).items() for text in _option(name, value)]
        dataset, began = self.data.path(training.dataset), time.monotonic()
        with finished_folder(folder) as unfinished:
            threads = max(1, torch.get_num_threads() // self.jobs)  # of those that this process may use
            output = str(unfinished / "model")
            run_python("train.py", *words, "--dataset", dataset, "--output_dir", output, threads=threads)
            record = training.arguments(self.scale) | {"seconds": time.monotonic() - began}
            (unfinished / "finished.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _evaluation(self, training: Training, dataset: str, target: Literal["forces", "energy"]) -> dict[str, Any]:
        rows = self.data.rows(dataset, self.data.unseen(dataset), target)
        file = self._finished(training) / f"{target}-{short_hash([dataset, content_hash(rows)])}.json"
        if not file.is_file():
            model, feature_extractor = self.model(training)
            if target == "energy":
                baseline = fit_baseline(self.data.rows(dataset, "train", "energy"))
                evaluation = evaluate_energy(model, feature_extractor, rows, baseline=baseline)
            else:
                evaluation = evaluate_forces(model, feature_extractor, rows)
            write_whole(file, json.dumps(evaluation.metrics, indent=2) + "\n")
        return json.loads(file.read_text(encoding="utf-8"))

    def _is_finished(self, training: Training) -> bool:
        return self.data.is_made(training.dataset) and (self._folder(training) / "finished.json").is_file()

    def _finished(self, training: Training) -> Path:
        folder = self._folder(training)
        if not (folder / "finished.json").is_file():
            raise InputError(f"{folder} is not trained; run the experiment again")
        return folder

    def _folder(self, training: Training) -> Path:
        known = {split: value for split, value in self.data.hashes(training.dataset).items() if split != "test"}
        preset = json.loads((PRESETS / f"{training.model}.json").read_text(encoding="utf-8"))
        words = {"data": known, "preset": preset, **training.arguments(self.scale)}
        return self.folder / "trained" / f"{training.model}-{short_hash(words)}"


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [f"--{name}", *map(str, value)] if name == "augmentation" else [f"--{name}", json.dumps(value)]
    return [f"--{name}", str(value)]


class DataSets:
    """
    Args:
        folder (`Path`): Where generated ones are kept.
        scale (`float`): How many times as many structures as at the size for a CPU.
        dataset (`str`, *optional*): A data set of the user's in place of the generated one of 216 atoms.
        real (`Sequence[str]`):
            Data sets of real DFT structures with splits train and validation. The first is called `"dft"`, others
            `"dft"` and the name of the folder.
        jobs (`int`): Processes that generate.
        charged (`Sequence[str]`, defaults to `()`):
            Files of labelled structures of several total charges, which are divided by frames: each is a data set that
            is called `"charged"` and the name of the file; `"charged mgo without +2"` trains on no +2, and keeps all
            unseen frames.
    """

    def __init__(
        self,
        folder: Path,
        scale: float,
        dataset: str | None,
        real: Sequence[str],
        jobs: int,
        charged: Sequence[str] = (),
    ) -> None:
        self.folder, self.scale, self.jobs = folder, scale, jobs
        self.charged = {f"{CHARGED} {Path(file).stem}": file for file in charged}
        self.frames = cache(lambda name: _frames(self.charged[name]))
        names = [REAL, *(f"{REAL} {Path(folder).name}" for folder in real[1:])]
        self.given = dict(zip(names, real, strict=False)) | ({} if dataset is None else {DEFECTS: dataset})
        self._splits = cache(lambda name: read_splits(self.path(name)))
        self.hashes = cache(self._hashes)

    @property
    def kinds(self) -> list[str]:
        """What an experiment that is about any data is done on, as its table calls it."""
        return [
            GIVEN if DEFECTS in self.given else GENERATED,
            *(DFT + name.removeprefix(REAL) for name in self.given if name != DEFECTS),
        ]

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
            if whole in self.charged:
                self._divide_charged(whole, kind, folder)
            elif without:
                run_python("data_scripts/split_dataset.py", self.path(whole), str(folder), "--hold-out", kind)
            else:
                options = [*self._generation(name), "--num-proc", str(self.jobs)]
                run_python("data_scripts/generate_defects.py", str(folder), *options)
        return str(folder)

    def _divide_charged(self, name: str, left_out: str, folder: Path) -> None:
        """By frames, as there are too few trajectories: some of each defect in each charge are unseen."""
        counts: Counter[tuple[str, float]] = Counter()
        splits: dict[str, list[Atoms]] = {"train": [], "test": []}
        for atoms in self.frames(name):
            state = (defect_of(atoms), charge_of(atoms))
            unseen = counts[state] % UNSEEN_FRAMES == UNSEEN_FRAMES // 2
            counts[state] += 1
            if unseen or f"{state[1]:+g}" != left_out:
                splits["test" if unseen else "train"].append(atoms)
        with tempfile.TemporaryDirectory() as scratch:
            files = {split: f"{scratch}/{split}.extxyz" for split in splits}
            for split, frames in splits.items():
                write(files[split], frames)
            inputs = [f"{split}={file}" for split, file in files.items()]
            run_python("data_scripts/import_structures.py", *inputs, str(folder))

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
        if name in self.charged:
            self.frames(name)
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
            if name not in RECIPES:  # divided in a moment
                continue
            count, options = RECIPES[name]
            repeat = int(options[options.index("--repeat") + 1]) if "--repeat" in options else 3
            seconds += _SECONDS_PER_STRUCTURE * count * self.scale * (repeat / 3) ** 3
        return seconds

    def sizes(self) -> dict[str, dict[str, int]]:
        """Number of structures in each split of those that are there, parts of others left out."""
        names = dict.fromkeys([*RECIPES, *self.given, *self.charged])
        made = [name for name in names if self.is_made(name)]
        return {name: {split: len(rows) for split, rows in self._splits(name).items()} for name in made}

    def _generation(self, name: str) -> list[str]:
        """Options that decide what is generated."""
        structures, options = RECIPES[name]
        return ["--structures", str(max(1, round(structures * self.scale))), *options]

    def _folder(self, name: str) -> Path:
        """Whose name tells a data set of one recipe from that of another."""
        if name == REAL:
            return self.folder / name
        whole = name.partition(" without ")[0]
        made_of = source_hash(self.charged[whole]) if whole in self.charged else self._generation(whole)
        return self.folder / f"{name.replace(' ', '-')}-{short_hash(made_of)}"

    def _hashes(self, name: str) -> Mapping[str, str]:
        """By what the splits of a data set are known again, whatever its folder."""
        return {split: content_hash(rows) for split, rows in self._splits(name).items()}


def _frames(file: str) -> list[Atoms]:
    try:
        return list(iread(file))
    except Exception as error:  # of all the readers of ASE
        raise InputError(f"{file} cannot be read: {one_line(error)}") from error


def defect_of(atoms: Atoms) -> str:
    """Its config type."""
    return str(atoms.info.get("config_type", "structures"))


def run_python(*arguments: str, threads: int | None = None) -> str:
    """
    Runs Python with these arguments in the current folder.

    Args:
        arguments (`str`): A script by its path in the repository, or an option such as `-m`, and what follows.
        threads (`int`, *optional*): How many the process may use.

    Returns:
        `str`: What it printed.

    Raises:
        [`InputError`]: It failed; its last line says why.
    """
    script, *rest = arguments
    command = [sys.executable, script if script.startswith("-") else str(ROOT / script), *rest]
    environment = os.environ if threads is None else os.environ | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        _running.add(process)
        try:
            printed, errors = process.communicate()
        finally:
            _running.discard(process)
    if process.returncode:
        reason = (errors.strip().splitlines() or ["failed"])[-1].removeprefix("error: ")
        raise InputError(f"{' '.join(arguments[:2])}: {reason}")
    return printed


def end_all() -> None:
    """Ends what runs, of all threads."""
    for process in list(_running):
        process.terminate()
