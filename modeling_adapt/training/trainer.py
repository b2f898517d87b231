"""The Hugging Face Trainer, told what an ADAPT batch is and how a run is put together."""

from dataclasses import fields
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..configuration_adapt import ADAPTConfig, ADAPTEnergyConfig
from ..data.augmentation import augmentation_steps, require_cubic_cells
from ..data.columns import list_column
from ..data.importance import ImportanceWeighting
from ..data.loader import StructureCollator, StructureDataset
from ..data.statistics import fit_statistics
from ..elements_adapt import SYMBOLS
from ..errors import InputError, one_line
from ..evaluation.evaluate import fit_baseline
from ..evaluation.metrics import compositions
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..loading import HEADS, load_model
from ..simulation.domain import fit_domain
from .arguments import ADAPTTrainingArguments, RunArguments
from .callbacks import RunProgress
from .tasks import EnergyAndForcesTask, EnergyTask, ForceTask, target_of


class ADAPTTrainer(Trainer):
    """`Trainer` for batches of [`StructureCollator`]."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        # The distance to the defect is for the metrics; the model does not take it.
        inputs = {name: value for name, value in inputs.items() if name != "nearest_defect"}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _get_train_sampler(self, train_dataset: StructureDataset | None = None) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return SizeGroupedSampler(dataset, self.args.train_batch_size, data_seed(self.args))

    def _get_eval_sampler(self, eval_dataset: StructureDataset) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_eval_sampler(eval_dataset)
        return SizeGroupedSampler(eval_dataset, self.args.eval_batch_size, data_seed(self.args))


class SizeGroupedSampler(LengthGroupedSampler):
    """Random order in which structures of similar size are neighbours, so that batches hold little padding.

    As the sampler of transformers, but the order depends on the seed and the epoch of the data set alone: on every
    process, and after a resume, it is the same.
    """

    def __init__(self, dataset: StructureDataset, batch_size: int, seed: int):
        super().__init__(batch_size, lengths=dataset.sizes())
        self.dataset, self.seed = dataset, seed

    def __iter__(self) -> Any:
        self.generator = torch.Generator().manual_seed(self.seed + self.dataset.epoch)
        return super().__iter__()


class EpochToDataset(TrainerCallback):
    """Tells the training data set its epoch. The loaders of accelerate do not, on many processes or after a resume."""

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kwargs["train_dataloader"].dataset.set_epoch(int(state.epoch or 0))


def data_seed(training: TrainingArguments) -> int:
    """The seed of the order and the augmentation of the data."""
    return training.seed if training.data_seed is None else training.data_seed


def build_trainer(
    config: ADAPTConfig,
    run: RunArguments,
    training: ADAPTTrainingArguments,
    train_rows: datasets.Dataset,
    validation_rows: datasets.Dataset | None,
) -> ADAPTTrainer:
    """
    A trainer for `config`, whose statistics and trained domain are fitted on `train_rows` alone. A run that goes on
    from a checkpoint keeps its weights and statistics; the domain and reference energies are those of the new split.

    Args:
        config: [`ADAPTConfig`] for forces or [`ADAPTEnergyConfig`] for energies; what is fitted is filled in.
        train_rows, validation_rows: splits with the columns of `STRUCTURE_FEATURES` and the labels to learn.
    """
    if training.train_sampling_strategy == "batch_rebalance":
        raise InputError("train_sampling_strategy: batch_rebalance cannot read structures; use group_by_length")
    if "octahedral" in run.augmentation:
        require_cubic_cells(train_rows)
    if "rotation" in run.augmentation and config.geometry == "fourier":
        raise InputError("augmentation: rotation turns the forces, but fractional coordinates stay; use octahedral")
    config.training_domain = _domain(config, train_rows)
    if run.initial_model is None:
        fit_statistics_of(config, train_rows)
        torch.manual_seed(training.seed)
        model = HEADS[config.model_type](config)
    else:
        if isinstance(config, ADAPTEnergyConfig) and config.architecture == "pooled":
            # Reference energies belong to the labels: those of another potential or functional are off by eV per atom.
            _fit_reference_energies(config, train_rows)
        model, _ = load_model(run.initial_model, HEADS[config.model_type], config=config)
    task = _task(config, train_rows)
    weighting = ImportanceWeighting(
        **{field.name: getattr(run, f"weight_{field.name}") for field in fields(ImportanceWeighting)}
    )
    augmentation = augmentation_steps(run.augmentation, run.position_noise)
    feature_extractor = ADAPTFeatureExtractor()
    training.label_names = task.label_names
    training.batch_eval_metrics = True
    training.dataloader_pin_memory = training.device.type == "cuda"
    if training.load_best_model_at_end and training.metric_for_best_model in (None, "loss"):
        training.metric_for_best_model, training.greater_is_better = task.headline, False
    try:
        trainer = ADAPTTrainer(
            model=model,
            args=training,
            train_dataset=StructureDataset(train_rows, weighting, augmentation, data_seed(training)),
            eval_dataset=None if validation_rows is None else StructureDataset(validation_rows, weighting),
            data_collator=StructureCollator(feature_extractor, task.target),
            processing_class=feature_extractor,
            compute_metrics=task,
        )
    except ValueError as error:  # arguments that contradict each other, or name what is not installed
        raise InputError(f"the Trainer refuses its arguments: {one_line(error)}") from error
    for printer in (ProgressCallback, PrinterCallback):  # they print raw dictionaries
        trainer.remove_callback(printer)
    trainer.add_callback(RunProgress)
    trainer.add_callback(EpochToDataset)
    return trainer


def fit_statistics_of(config: ADAPTConfig, train_rows: datasets.Dataset) -> None:
    """Fills in the normalisation statistics of `config` from the training split."""
    statistics = fit_statistics(train_rows)
    config.feature_mean = statistics.feature_mean
    # A column that never varies, such as a descriptor in data of one element, has no scale; 1 keeps it at zero.
    config.feature_std = [std if std > 1e-9 else 1.0 for std in statistics.feature_std]
    config.force_mean, config.force_std = statistics.force_mean, statistics.force_std
    if config.geometry == "pairwise" and statistics.force_std:  # one scale for all directions keeps them equivalent
        scale = np.sqrt(np.mean(np.square(np.array(statistics.force_std))))
        config.force_mean, config.force_std = [0.0] * 3, [float(scale)] * 3
    if isinstance(config, ADAPTEnergyConfig):
        config.energy_mean, config.energy_std = statistics.energy_mean, statistics.energy_std
        if config.architecture == "pooled":
            config.energy_std = _fit_reference_energies(config, train_rows)


def _fit_reference_energies(config: ADAPTEnergyConfig, train_rows: datasets.Dataset) -> float:
    """Reference energies of the elements and the mean of what they leave over per atom; returns its deviation (eV)."""
    baseline = fit_baseline(train_rows)
    known = np.flatnonzero(np.isfinite(baseline.energy_per_atom))
    config.element_energies = {SYMBOLS[number]: float(baseline.energy_per_atom[number]) for number in known}
    table = train_rows.select_columns(["atomic_numbers", "energy"]).with_format("arrow")[:]
    counts = compositions(list_column(table, "atomic_numbers"))
    left_over = (table["energy"].to_numpy() - baseline.predict(counts)) / counts.sum(axis=1)
    config.energy_mean = float(np.mean(left_over))
    return float(np.std(left_over))


def _domain(config: ADAPTConfig, train_rows: datasets.Dataset) -> dict[str, Any]:
    domain = fit_domain(train_rows)
    largest = domain.number_of_atoms[1]
    if isinstance(config, ADAPTEnergyConfig) and config.architecture == "mlp" and largest > config.max_atoms:
        raise InputError(
            f"the training split has a structure of {largest} atoms, but this energy model takes at most "
            f"{config.max_atoms}; raise max_atoms"
        )
    return domain.to_dict()


def _task(config: ADAPTConfig, train_rows: datasets.Dataset) -> ForceTask | EnergyTask | EnergyAndForcesTask:
    target = target_of(config)
    if target == "forces":
        return ForceTask()
    return (EnergyTask if target == "energy" else EnergyAndForcesTask)(fit_baseline(train_rows))
