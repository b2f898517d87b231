"""Of each record the fields that are published, by their names: what is not listed here stays home."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any

from transformers import PreTrainedConfig

from ..configuration_adapt import ADAPTEnergyConfig
from ..crystal.trained_region import TrainingDomain
from ..evaluation.answers import ANSWERS_FILE
from ..training.arguments import MODEL_FIELDS, ADAPTTrainingArguments
from ..training.options import RunArguments
from .records import answers_of

_OF_TRANSFORMERS = ("architectures", "auto_map", "custom_pipelines", "dtype", "model_type", "transformers_version")
_CONFIG = {field.name for field in fields(ADAPTEnergyConfig)} - {field.name for field in fields(PreTrainedConfig)}
_TRAINING = {field.name for field in fields(ADAPTTrainingArguments)}
# Of the fields of `TrainingArguments` numbers and choices decide what is learned; their other texts name places.
_CHOICES = {
    *("eval_strategy", "save_strategy", "logging_strategy", "lr_scheduler_type", "optim", "metric_for_best_model"),
    *("train_sampling_strategy", "label_names", "output_dir"),
}
_PART = {
    *("part", "resumed_from", "versions", "git_revision", "device", "threads", "structures", "sources", "parameters"),
    *("data", "processes", "structures_per_step", "atoms_per_batch", "ema_decay", "seed", "data_seed", "augmentation"),
    *("weighting", "learning_rate", "weight_decay", "max_grad_norm", "sampling", "dataset_revision"),
    *("initial_revision", "muon", "training_seconds"),
}
_SOURCE = {"name", "license", "citation", "url", "structures"}
_METRICS = {
    *("model", "dataset", "split", "subfolder", "revision", "dataset_revision", "weights_sha256"),
    *("ensemble", "num_images"),
}
_ANSWERS = {"model", "subfolder", "revision", "host", "weights_sha256"}
_EXAMPLE = {"atomic_numbers", "positions", "cell", "pbc", "source", "units", "forces", "energy"}


def published_fields(file: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """What of the record called `file` (such as run.json) goes out."""
    return _SCHEMAS[file](record)


def _config(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = _named(record, {*_CONFIG, *_OF_TRANSFORMERS})
    if isinstance(kept.get("training_domain"), dict):
        kept["training_domain"] = TrainingDomain.from_dict(kept["training_domain"]).to_dict()
    return kept


def _recipe(record: Mapping[str, Any]) -> dict[str, Any]:
    ours = {*MODEL_FIELDS, *(field.name for field in fields(RunArguments)), *_CHOICES}
    return {
        name: value
        for name, value in record.items()
        if name in ours or (name in _TRAINING and not isinstance(value, str | list | dict))
    }


def _run(record: Mapping[str, Any]) -> dict[str, Any]:
    parts = [_named(part, _PART) for part in record.get("parts", [])]
    for part in parts:
        if part.get("sources"):
            part["sources"] = [_named(source, _SOURCE) for source in part["sources"]]
    return {"parts": parts} if parts else {}


def _metrics(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if name in _METRICS else _numbers(value)
        for name, value in record.items()
        if name in _METRICS or not isinstance(value, str | list)
    }


def _numbers(value: Any) -> Any:
    """Of nested names the numbers."""
    if not isinstance(value, Mapping):
        return value
    return {name: _numbers(one) for name, one in value.items() if not isinstance(one, str | list)}


def _answers(record: Mapping[str, Any]) -> dict[str, Any]:
    answers = {name: one.record() for name, one in answers_of(record).items()}
    return _named(record, _ANSWERS) | {"answers": answers} if answers else {}


def _named(record: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name in names}


_SCHEMAS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "config.json": _config,
    "preprocessor_config.json": lambda record: dict(record),  # whose class writes its own fields alone
    "example.json": lambda record: _named(record, _EXAMPLE),
    "recipe.yaml": _recipe,
    "run.json": _run,
    "training_metrics.json": _numbers,
    "metrics.json": _metrics,
    ANSWERS_FILE: _answers,
}
