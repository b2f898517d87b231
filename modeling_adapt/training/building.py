"""From a recipe and rows to a trainer that is ready to run."""

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import datasets
import torch
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback

from ..configuration_adapt import ADAPTConfig, ADAPTEnergyConfig
from ..data.columns import list_lengths
from ..data.content import content_hash
from ..data.load.augmentation import augmentation_steps
from ..data.load.batching import StructureCollator, StructureDataset
from ..data.load.importance import ImportanceWeighting
from ..errors import InputError, one_line
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..loading import HEADS, load_model
from ..reference_energies import fit_baseline
from .arguments import HEADLINE, ADAPTTrainingArguments, RunArguments
from .averaging import WeightAverage
from .callbacks import EpochToDataset, RunProgress
from .diagnosis import Diagnosis
from .preparation import prepare_config
from .record import RunRecord
from .tasks import EnergyAndForcesTask, EnergyTask, ForceTask, Task, target_of
from .trainer import ADAPTTrainer, data_seed


def build_trainer(
    config: ADAPTConfig,
    run: RunArguments,
    training: ADAPTTrainingArguments,
    rows: Mapping[str, datasets.Dataset],
) -> ADAPTTrainer:
    """
    A trainer for `config`, whose statistics and trained domain are fitted on the training split alone.

    Args:
        config: [`ADAPTConfig`] for forces or [`ADAPTEnergyConfig`] for energies; what is fitted is filled in.
        rows: `"train"` and, where there are, `"validation"` and `"test"`, with the columns of `STRUCTURE_FEATURES`
            and the labels to learn.

    Raises:
        [`InputError`]: the recipe contradicts itself or the data.
    """
    train_rows, validation_rows = rows["train"], rows.get("validation")
    _require_consistent(run, training, validation_rows)
    prepare_config(config, run, rows)
    if run.initial_model is None:
        torch.manual_seed(training.seed)
        model, feature_extractor = HEADS[config.model_type](config), _feature_extractor(config)
    else:
        head, revision = HEADS[config.model_type], run.initial_revision
        model, feature_extractor = load_model(run.initial_model, head, revision=revision, config=config)
    task = _task(config, train_rows)
    _choose_metric(training, task, validation_rows)
    if task.target == "energy_and_forces" and config.geometry != "pairwise":
        model.set_attn_implementation("eager")  # a force that is learned needs second derivatives; SDPA has none
    weighting = ImportanceWeighting(
        **{field.name: getattr(run, f"weight_{field.name}") for field in fields(ImportanceWeighting)}
    )
    augmentation = augmentation_steps(run.augmentation, run.position_noise)
    training.label_names = task.label_names
    training.batch_eval_metrics = True
    # A pooled energy reads no vectors, so those of the last layer get no gradient. To look for such costs time.
    training.ddp_find_unused_parameters = isinstance(config, ADAPTEnergyConfig) and config.architecture == "pooled"
    training.dataloader_pin_memory = training.device.type == "cuda"
    try:
        trainer = ADAPTTrainer(
            model=model,
            args=training,
            train_dataset=StructureDataset(train_rows, weighting, augmentation, data_seed(training)),
            eval_dataset=None if validation_rows is None else StructureDataset(validation_rows, weighting),
            data_collator=StructureCollator(feature_extractor, task.target),
            processing_class=feature_extractor,
            compute_metrics=task,
            average=None if run.ema_decay is None else WeightAverage(model, run.ema_decay),
            diagnosis=None
            if validation_rows is None
            else Diagnosis(task, train_rows, feature_extractor, training.eval_batch_size),
            run=_identity(run, training, rows),
        )
    except (ValueError, RuntimeError) as error:  # arguments that contradict each other, or name what is not installed
        raise InputError(f"the Trainer refuses its arguments: {one_line(error)}") from error
    for printer in (ProgressCallback, PrinterCallback):  # they print raw dictionaries
        trainer.remove_callback(printer)
    for callback in (RunProgress, RunRecord, EpochToDataset):
        trainer.add_callback(callback)
    if run.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=run.early_stopping_patience))
    return trainer


def _require_consistent(
    run: RunArguments, training: ADAPTTrainingArguments, validation_rows: datasets.Dataset | None
) -> None:
    if training.train_sampling_strategy == "batch_rebalance":
        raise InputError("train_sampling_strategy: batch_rebalance cannot read structures; use group_by_length")
    if run.early_stopping_patience is not None and not training.load_best_model_at_end:
        raise InputError("early_stopping_patience needs load_best_model_at_end: true, to end with the best model")
    if validation_rows is None and training.load_best_model_at_end:
        raise InputError("load_best_model_at_end needs a validation split; set validation_split, or set it to false")
    if run.ema_decay is not None and (training.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true"):
        raise InputError("ema_decay does not go with fsdp, where no process holds all weights; leave it out")


def _choose_metric(training: ADAPTTrainingArguments, task: Task, validation_rows: datasets.Dataset | None) -> None:
    """Fills in the metric that chooses the best model, or refuses one that no evaluation will give."""
    if training.metric_for_best_model == HEADLINE:
        training.metric_for_best_model = task.headline
    metric = (training.metric_for_best_model or "loss").removeprefix("eval_")
    if metric != "loss" and metric not in task.choices:
        raise InputError(f"metric_for_best_model: {metric} is none of loss, {', '.join(task.choices)}")
    if metric.startswith("near_defect") and validation_rows is not None:
        table = validation_rows.select_columns(["defect_sites"]).with_format("arrow")[:]
        if not list_lengths(table, "defect_sites").any():
            raise InputError(
                f"metric_for_best_model: {metric}, but no structure of the validation split has a defect site; use "
                f"{task.headline}, or import the data with --host"
            )


def _identity(
    run: RunArguments, training: ADAPTTrainingArguments, rows: Mapping[str, datasets.Dataset]
) -> dict[str, Any]:
    """What a run must share with the checkpoint that it goes on from; see `resuming.py`."""
    at_once = training.train_batch_size * training.world_size
    return {
        "data": {split: content_hash(table) for split, table in rows.items() if split != "test"},
        "processes": training.world_size,
        "structures_per_step": at_once * training.gradient_accumulation_steps,
        "ema_decay": run.ema_decay,
        "seed": training.seed,
        "data_seed": data_seed(training),
        "augmentation": [*run.augmentation, run.position_noise],
        "weighting": [getattr(run, f"weight_{field.name}") for field in fields(ImportanceWeighting)],
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "sampling": str(training.train_sampling_strategy),
        "dataset_revision": run.dataset_revision,
        "initial_revision": run.initial_revision,
    }


def _feature_extractor(config: ADAPTConfig) -> ADAPTFeatureExtractor:
    """The published energy network reads atoms by their place in the list; the others read a set."""
    ordered = isinstance(config, ADAPTEnergyConfig) and config.architecture == "mlp"
    return ADAPTFeatureExtractor(canonical_order=ordered)


def _task(config: ADAPTConfig, train_rows: datasets.Dataset) -> Task:
    target: Any = target_of(config)
    if target == "forces":
        return ForceTask()
    return (EnergyTask if target == "energy" else EnergyAndForcesTask)(fit_baseline(train_rows))
