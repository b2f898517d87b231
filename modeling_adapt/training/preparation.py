"""From a recipe and rows to a trainer that is ready to run: what is fitted on the training split, and built."""

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from ..configuration_adapt import ADAPTConfig, ADAPTEnergyConfig
from ..crystal.trained_region import fit_domain
from ..data.columns import ArrayRows
from ..data.load.augmentation import augmentation_steps
from ..data.load.batching import StructureCollator, StructureDataset
from ..data.load.importance import ImportanceWeighting
from ..data.load.survey import DatasetStatistics, content_hash, fit_statistics, require_cubic_cells, survey
from ..device import require_compiler
from ..elements_adapt import SYMBOLS
from ..errors import InputError, one_line
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..loading import HEADS, load_model
from ..reference_energies import CompositionBaseline
from .arguments import HEADLINE, ADAPTTrainingArguments
from .callbacks import EarlyStopping, EpochToDataset, FiniteGradients, RunProgress
from .checkpoints import Checkpoints
from .diagnosis import Diagnosis
from .ema import ExponentialMovingAverage
from .muon import MuonFactory
from .options import RunArguments
from .record import RunRecord
from .tasks import EnergyAndForcesTask, EnergyTask, ForceTask, Task, WithStress, learns_stress, target_of
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
        config ([`ADAPTConfig`]): For forces, or [`ADAPTEnergyConfig`] for energies; what is fitted is filled in.
        rows (`Mapping[str, datasets.Dataset]`):
            `"train"` and, where there are, `"validation"` and `"test"`, with the columns of `STRUCTURE_FEATURES` and
            the labels to learn; and `"isolated"`, single atoms whose energies are the reference energies.

    Raises:
        [`InputError`]: The recipe contradicts itself or the data.
    """
    train_rows, validation_rows = rows["train"], rows.get("validation")
    _require_consistent(run, training, validation_rows)
    prepare_config(config, run, rows)
    if run.initial_model is None:
        torch.manual_seed(training.seed)
        model, feature_extractor = HEADS[config.model_type](config), ADAPTFeatureExtractor.for_model(config)
    else:
        head, revision = HEADS[config.model_type], run.initial_revision
        model, feature_extractor = load_model(run.initial_model, head, revision=revision, config=config)
    task = _task(config, train_rows)
    _choose_metric(training, task, validation_rows)
    weighting = ImportanceWeighting(
        **{field.name: getattr(run, f"weight_{field.name}") for field in fields(ImportanceWeighting)}
    )
    augmentation = augmentation_steps(run.augmentation, run.position_noise)
    training.label_names = task.label_names
    training.batch_eval_metrics = True
    training.dataloader_pin_memory = training.dataloader_pin_memory and training.device.type == "cuda"
    callbacks: list[TrainerCallback] = [FiniteGradients(), RunProgress(), RunRecord(), EpochToDataset()]
    if training.early_stopping_patience is not None:
        callbacks.append(EarlyStopping(training.early_stopping_patience))
    diagnosis = validation = None
    if validation_rows is not None:
        validation = StructureDataset(validation_rows, weighting, cutoff=config.cutoff)
        diagnosis = Diagnosis(getattr(task, "task", task), train_rows, feature_extractor, training.eval_batch_size)
    try:
        trainer = ADAPTTrainer(
            model=model,
            args=training,
            train_dataset=StructureDataset(train_rows, weighting, augmentation, data_seed(training), config.cutoff),
            eval_dataset=validation,
            data_collator=StructureCollator(feature_extractor, task.target, stress=learns_stress(config)),
            processing_class=feature_extractor,
            compute_metrics=task,
            checkpoints=Checkpoints(_identity(run, training, rows)),
            ema=None if run.ema_decay is None else ExponentialMovingAverage(model, run.ema_decay),
            diagnosis=diagnosis,
            atoms_per_batch=run.atoms_per_batch,
            optimizer_cls_and_kwargs=_muon(training) if run.muon else None,
            callbacks=callbacks,
        )
    except (ValueError, RuntimeError) as error:  # arguments that contradict each other, or name what is not installed
        raise InputError(f"the Trainer cannot be made: {one_line(error)}") from error
    for printer in (ProgressCallback, PrinterCallback):  # they print raw dictionaries
        trainer.remove_callback(printer)
    return trainer


def _require_consistent(
    run: RunArguments, training: ADAPTTrainingArguments, validation_rows: datasets.Dataset | None
) -> None:
    if training.train_sampling_strategy == "batch_rebalance":
        raise InputError("train_sampling_strategy: batch_rebalance cannot read structures; use group_by_length")
    if run.atoms_per_batch is not None and training.train_sampling_strategy != "random":
        raise InputError(
            f"atoms_per_batch draws batches, train_sampling_strategy {training.train_sampling_strategy} too"
        )
    if training.torch_compile and training.torch_compile_backend == "inductor":
        require_compiler(training.device)
    if training.early_stopping_patience is not None and not training.load_best_model_at_end:
        raise InputError("early_stopping_patience needs load_best_model_at_end: true, to end with the best model")
    if validation_rows is None and training.load_best_model_at_end:
        raise InputError("load_best_model_at_end needs a validation split; set validation_split, or set it to false")
    if run.ema_decay is not None and (training.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true"):
        raise InputError("ema_decay does not go with fsdp, where no process holds all weights; leave it out")


def _muon(training: ADAPTTrainingArguments) -> tuple[Any, dict[str, Any]]:
    """The optimiser that `Trainer` is to make, and its options."""
    betas = (training.adam_beta1, training.adam_beta2)
    rates = {"lr": training.learning_rate, "weight_decay": training.weight_decay}
    return MuonFactory, rates | {"betas": betas, "eps": training.adam_epsilon}


def _choose_metric(training: ADAPTTrainingArguments, task: Task, validation_rows: datasets.Dataset | None) -> None:
    """Fills in the metric that chooses the best model, or refuses one that no evaluation will give."""
    if training.metric_for_best_model == HEADLINE:
        training.metric_for_best_model = task.headline
    metric = (training.metric_for_best_model or "loss").removeprefix("eval_")
    if metric != "loss" and metric not in task.choices:
        raise InputError(f"metric_for_best_model: {metric} is none of loss, {', '.join(task.choices)}")
    if metric.startswith("near_defect") and validation_rows is not None:
        if not survey(validation_rows).defective.any():
            raise InputError(
                f"metric_for_best_model: {metric}, but no structure of the validation split has a defect site; use "
                f"{task.headline}, or import the data with --host"
            )


def _identity(
    run: RunArguments, training: ADAPTTrainingArguments, rows: Mapping[str, datasets.Dataset]
) -> dict[str, Any]:
    """What a run must share with the checkpoint that it goes on from; see [`Checkpoints`]."""
    at_once = training.train_batch_size * training.world_size
    return {
        "data": {split: content_hash(table) for split, table in rows.items() if split != "test"},
        "processes": training.world_size,
        "structures_per_step": at_once * training.gradient_accumulation_steps,
        "atoms_per_batch": run.atoms_per_batch,
        "muon": run.muon or None,  # as in checkpoints from before there was a choice
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


def _task(config: ADAPTConfig, train_rows: datasets.Dataset) -> Task:
    target: Any = target_of(config)
    if target == "forces":
        return ForceTask()
    task = (EnergyTask if target == "energy" else EnergyAndForcesTask)(_baseline(train_rows))
    return WithStress(task) if learns_stress(config) else task


def _baseline(train_rows: datasets.Dataset, isolated: datasets.Dataset | None = None) -> CompositionBaseline:
    """Of the rows that have an energy."""
    found = survey(train_rows)
    known = {} if isolated is None else {row["atomic_numbers"][0]: row["energy"] for row in isolated}
    return CompositionBaseline.fit(found.compositions[found.labelled], found.energies[found.labelled], known)


def unseen_elements(config: ADAPTConfig, train_rows: datasets.Dataset) -> list[str]:
    """The elements of a training split that the model of `config` was not trained on; none where it does not tell."""
    known = (config.training_domain or {}).get("elements")
    elements = [SYMBOLS[number] for number in survey(train_rows).elements]
    return [] if known is None else [element for element in elements if element not in known]


def prepare_config(config: ADAPTConfig, run: RunArguments, rows: Mapping[str, datasets.Dataset]) -> None:
    """
    Fills in what `config` takes from the training split. A run that goes on from a checkpoint keeps its statistics
    unless `refit_statistics`. The domain is always that of the new split, and what belongs to the labels of an energy
    model is too: the reference energies, as energies of another potential or functional are off by eV per atom, and
    the scale of the forces, which such a model only has to weigh its loss.

    Raises:
        [`InputError`]: The splits and the run do not fit together.
    """
    train_rows, isolated = rows["train"], rows.get("isolated")
    _require_fitting(config, run, train_rows)
    if run.initial_model is None or run.refit_statistics:
        fit_statistics_of(config, train_rows, isolated)
    elif isinstance(config, ADAPTEnergyConfig) and config.element_energies is not None:
        fit_reference_energies(config, train_rows, isolated)
        _fit_force_scale(config, fit_statistics(train_rows))
    if isinstance(config, ADAPTEnergyConfig):
        for split, table in rows.items():
            if split == "isolated":
                continue
            lacking = "no structure with an energy" if split == "train" else "none"
            _require_readable(config, table, f"the {split} split", lacking)
    # Every augmentation moves the crystal about, so no alignment is left that the model knows.
    domain = fit_domain(
        ArrayRows(train_rows),
        local=config.cutoff is not None,
        reads_coordinates=config.traits.reads_positions and not run.augmentation,
        reads_charge=config.reads_charge,
    )
    config.training_domain = domain.to_dict()


def fit_statistics_of(
    config: ADAPTConfig, train_rows: datasets.Dataset, isolated: datasets.Dataset | None = None
) -> None:
    """Fills in the normalisation statistics of `config` from the training split; `isolated` as in
    [`fit_reference_energies`]."""
    statistics = fit_statistics(train_rows)
    config.feature_mean = statistics.feature_mean
    config.feature_std = [_scale(std) for std in statistics.feature_std]
    _fit_force_scale(config, statistics)
    if isinstance(config, ADAPTEnergyConfig):
        config.energy_std = fit_reference_energies(config, train_rows, isolated)


def _fit_force_scale(config: ADAPTConfig, statistics: DatasetStatistics) -> None:
    """Energy models read the scale alone; they have no mean force to add."""
    mean, std = statistics.force_mean, statistics.force_std and [_scale(one) for one in statistics.force_std]
    if config.traits.equivariant and std:  # one scale for all directions keeps them equivalent
        scale = np.sqrt(np.mean(np.square(np.array(statistics.force_std))))
        mean, std = [0.0] * 3, [_scale(float(scale))] * 3
    config.force_mean, config.force_std = mean if config.predicts == "forces" else None, std


def fit_reference_energies(
    config: ADAPTEnergyConfig, train_rows: datasets.Dataset, isolated: datasets.Dataset | None = None
) -> float:
    """
    Fits one energy per element by least squares, which is all that the composition tells, and the mean of what is left
    over: per atom for a sum of atomic energies, per structure for the published network. Rows without an energy do not
    count. An element of which there is an isolated atom has the energy of that, by the same DFT.

    Returns:
        `float`: Standard deviation of what is left over in eV; 1 where nothing is.
    """
    found, baseline = survey(train_rows), _baseline(train_rows, isolated)
    config.element_energies = baseline.element_energies()
    left_over = found.energies - baseline.predict(found.compositions)
    if not config.traits.reads_order:
        left_over = left_over / found.sizes
    left_over = left_over[found.labelled]
    config.energy_mean = float(np.mean(left_over))
    return _scale(float(np.std(left_over)))


def _scale(std: float) -> float:
    """What never varies has no scale; 1 keeps it at zero."""
    return std if std > 1e-9 else 1.0


def _require_fitting(config: ADAPTConfig, run: RunArguments, train_rows: datasets.Dataset) -> None:
    if "octahedral" in run.augmentation:
        require_cubic_cells(train_rows)
    if "rotation" in run.augmentation and config.traits.needs_cell:
        raise InputError("augmentation: rotation turns the forces, but fractional coordinates stay; use octahedral")
    if learns_stress(config) and not survey(train_rows).stressed.any():
        raise InputError(
            "stress_weight: no structure of the training split has a stress; leave it out, or set it to 0"
        )
    if target_of(config) != "energy" and config.force_loss.startswith("weighted"):
        found = survey(train_rows)
        if not (found.defective.any() or found.weighted.any()):
            unweighted = config.force_loss.removeprefix("weighted_")
            raise InputError(
                f"force_loss: {config.force_loss} weighs atoms by their distance to a defect, but no structure of the "
                f"training split has a defect site; use force_loss: {unweighted}, or import the data with --host"
            )


def _require_readable(config: ADAPTEnergyConfig, rows: datasets.Dataset, where: str, lacking: str) -> None:
    """An energy model takes only so many atoms and the elements that it has seen; better said now than after hours."""
    found = survey(rows)
    largest = int(found.sizes.max())
    if config.traits.reads_order and largest > config.max_atoms:
        raise InputError(
            f"{where} has a structure of {largest} atoms, but this energy model takes at most {config.max_atoms}; "
            "raise max_atoms"
        )
    known = config.element_energies or {}
    for number in found.elements:
        if known and SYMBOLS[number] not in known:
            raise InputError(
                f"{where} has {SYMBOLS[number]}, of which the training split has {lacking}: there is no reference "
                "energy"
            )
