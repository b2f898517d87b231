"""The Hugging Face Trainer, told what an ADAPT batch is and how a run is put together."""

from dataclasses import fields
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn
from transformers import PrinterCallback, ProgressCallback, Trainer

from ..configuration_adapt import ADAPTConfig
from ..data.importance import ImportanceWeighting
from ..data.loader import StructureCollator, StructureDataset
from ..data.statistics import fit_statistics
from ..errors import InputError
from ..evaluation.evaluate import fit_baseline
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..modeling_adapt import ADAPTForEnergy, ADAPTForForces
from ..simulation.domain import fit_domain
from .arguments import ADAPTTrainingArguments, RunArguments
from .callbacks import RunProgress
from .metrics import EnergyEvaluation, ForceEvaluation


class ADAPTTrainer(Trainer):
    """`Trainer` for batches of [`StructureCollator`]."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        # The distance to the defect is for the metrics; the model does not take it.
        inputs = {name: value for name, value in inputs.items() if name != "nearest_defect"}
        return super().compute_loss(model, inputs, *args, **kwargs)


def build_trainer(
    config: ADAPTConfig,
    data: RunArguments,
    training: ADAPTTrainingArguments,
    train_rows: datasets.Dataset,
    validation_rows: datasets.Dataset | None,
) -> ADAPTTrainer:
    """
    A trainer with a fresh model for `config`, whose statistics and trained domain are fitted on `train_rows` alone.

    Args:
        config: [`ADAPTConfig`] for forces or [`ADAPTEnergyConfig`] for energies; its statistics are filled in.
        train_rows, validation_rows: splits with the columns of `STRUCTURE_FEATURES` and the labels to learn.
    """
    energies = config.model_type == "adapt_energy"
    fit_config(config, train_rows)
    torch.manual_seed(training.seed)
    model = (ADAPTForEnergy if energies else ADAPTForForces)(config)
    weighting = _weighting(data)
    feature_extractor = ADAPTFeatureExtractor()
    evaluation = EnergyEvaluation(fit_baseline(train_rows)) if energies else ForceEvaluation()
    training.label_names = evaluation.label_names
    training.batch_eval_metrics = True
    training.dataloader_pin_memory = training.device.type == "cuda"
    if training.load_best_model_at_end and training.metric_for_best_model in (None, "loss"):
        training.metric_for_best_model, training.greater_is_better = evaluation.headline, False
    trainer = ADAPTTrainer(
        model=model,
        args=training,
        train_dataset=StructureDataset(train_rows, weighting),
        eval_dataset=None if validation_rows is None else StructureDataset(validation_rows, weighting),
        data_collator=StructureCollator(feature_extractor, "energy" if energies else "forces"),
        processing_class=feature_extractor,
        compute_metrics=evaluation,
    )
    for printer in (ProgressCallback, PrinterCallback):  # they print raw dictionaries
        trainer.remove_callback(printer)
    trainer.add_callback(RunProgress)
    return trainer


def fit_config(config: ADAPTConfig, train_rows: datasets.Dataset) -> None:
    """Fills in the normalisation statistics and the trained domain of `config` from the training split."""
    statistics = fit_statistics(train_rows)
    config.feature_mean = statistics.feature_mean
    # A column that never varies, such as a descriptor in data of one element, has no scale; 1 keeps it at zero.
    config.feature_std = [std if std > 1e-9 else 1.0 for std in statistics.feature_std]
    if config.model_type == "adapt_energy":
        config.energy_mean, config.energy_std = statistics.energy_mean, statistics.energy_std
    else:
        config.force_mean, config.force_std = statistics.force_mean, statistics.force_std
        if config.geometry == "pairwise":  # one scale for all directions keeps the forces equivariant
            scale = np.sqrt(np.mean(np.square(np.array(statistics.force_std))))
            config.force_mean, config.force_std = [0.0] * 3, [float(scale)] * 3
    domain = fit_domain(train_rows)
    largest = domain.number_of_atoms[1]
    if config.model_type == "adapt_energy" and largest > config.max_atoms:
        raise InputError(
            f"the training split has a structure of {largest} atoms, but this energy model takes at most "
            f"{config.max_atoms}; raise max_atoms"
        )
    config.training_domain = domain.to_dict()


def _weighting(data: RunArguments) -> ImportanceWeighting:
    return ImportanceWeighting(**{f.name: getattr(data, f"weight_{f.name}") for f in fields(ImportanceWeighting)})
