"""Where experiments get their models and evaluations from: made once, kept, and known again by content."""

import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm
from transformers import PreTrainedModel

from modeling_adapt.data.load.survey import content_hash
from modeling_adapt.device import available_device, on_device
from modeling_adapt.errors import InputError
from modeling_adapt.evaluation.evaluate import evaluate_energy, evaluate_forces, fit_baseline
from modeling_adapt.feature_extraction_adapt import ADAPTFeatureExtractor
from modeling_adapt.files import finished_folder, write_whole
from modeling_adapt.loading import load_model
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.training.arguments import PRESETS

from .data_sets import DataSets, short_hash
from .experiment import Experiment, Training
from .processes import end_all, run_python


class Lab:
    """
    Args:
        folder: where everything is kept; what is there and finished is used again.
        scale: 1 is the size for a CPU; structures and steps of training grow with it.
        dataset, real: of the user; see [`DataSets`].
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
        self.data = DataSets(self.folder / "data", scale, dataset, real, jobs)

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
                [self.data.hashes(name)[self.data.unseen(name)] for name in self._measured_on(experiment)]
            ),
        }

    def has_all(self, experiment: Experiment) -> bool:
        """Whether all its data sets and models are there."""
        return all(map(self.data.is_made, self._measured_on(experiment))) and not self.missing(
            experiment.trainings(self)
        )

    def minutes(self, trainings: Iterable[Training], data: Iterable[str] = ()) -> float:
        """How long it will take to train what is missing, and to make the data sets that are."""
        missing = self.missing(trainings)
        made = self.data.seconds_to_make([*data, *(training.dataset for training in missing)])
        return (sum(training.seconds(self.scale) for training in missing) / self.jobs + made) / 60

    def _measured_on(self, experiment: Experiment) -> list[str]:
        own = {training.dataset for training in experiment.trainings(self)}
        return sorted(own.union(experiment.also_measured_on))

    def _train(self, training: Training) -> None:
        folder = self._folder(training)
        words = [text for name, value in training.arguments(self.scale).items() for text in _option(name, value)]
        dataset, began = self.data.path(training.dataset), time.monotonic()
        with finished_folder(folder) as unfinished:
            threads = max(1, (os.cpu_count() or 1) // self.jobs)
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


def without_doubles(trainings: Iterable[Training]) -> list[Training]:
    """Experiments share trainings."""
    return list({short_hash([one.dataset, one.arguments(1)]): one for one in trainings}.values())


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [f"--{name}", *map(str, value)] if name == "augmentation" else [f"--{name}", json.dumps(value)]
    return [f"--{name}", str(value)]
