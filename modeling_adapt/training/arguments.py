"""What a training run can be told, and where it comes from: a YAML recipe, overridden by the command line."""

import argparse
import difflib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser, PreTrainedConfig, TrainingArguments

import configuration

from ..configuration_adapt import ADAPTConfig, ADAPTEnergyConfig
from ..errors import InputError
from ..loading import load_model

PRESETS = Path(configuration.__file__).parent / "models"
CONFIGS: dict[str, type[ADAPTConfig]] = {config.model_type: config for config in (ADAPTConfig, ADAPTEnergyConfig)}

# Fields that training fits; neither a recipe nor a preset sets them.
_FITTED = {"feature_mean", "feature_std", "force_mean", "force_std", "energy_mean", "energy_std", "training_domain"}
MODEL_FIELDS = [
    field.name
    for field in fields(ADAPTEnergyConfig)
    if field.name not in {base.name for base in fields(PreTrainedConfig)} | _FITTED
]


@dataclass
class RunArguments:
    """The model, the data set, and how its atoms are weighted. Distances in Å."""

    dataset: str = field(metadata={"help": "folder or Hub id of a structure data set"})
    model: str | None = field(default=None, metadata={"help": "preset or JSON file; see configuration/models/"})
    initial_model: str | None = field(
        default=None, metadata={"help": "checkpoint to go on from: its model, weights and statistics are kept"}
    )
    train_split: str = field(default="train", metadata={"help": "split to train on"})
    validation_split: str | None = field(
        default="validation", metadata={"help": "split to evaluate on; null trains without evaluation"}
    )
    weight_amplitude: float = field(default=2.54, metadata={"help": "importance weights: amplitude"})
    weight_offset: float = field(default=0.21, metadata={"help": "importance weights: offset of the distance in Å"})
    weight_inner_exponent: float = field(default=1.04, metadata={"help": "importance weights: exponent of a distance"})
    weight_outer_exponent: float = field(default=1.92, metadata={"help": "importance weights: exponent of the sum"})
    weight_maximum: float = field(default=9.8858, metadata={"help": "importance weights: largest excess over 1"})
    weight_minimum_image: bool = field(
        default=True, metadata={"help": "distance to the nearest periodic image; false: as published"}
    )


@dataclass
class ADAPTTrainingArguments(TrainingArguments):
    """`TrainingArguments` with defaults for force fields: constant rate and no weight decay, as published."""

    learning_rate: float = field(default=5e-5, metadata={"help": "peak learning rate"})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "learning rate schedule"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "must stay false: the collator reads rows"})


def parse_arguments(argv: list[str]) -> tuple[ADAPTConfig, RunArguments, ADAPTTrainingArguments]:
    """
    Reads `RECIPE.yaml [--field value ...]`.

    A recipe is flat: `model` (a preset of `configuration/models/` or a JSON file) or `initial_model`, any field of the
    model's configuration, of [`RunArguments`] and of [`ADAPTTrainingArguments`]. The command line wins.

    Raises:
        [`InputError`]: the recipe is missing or no mapping, has an unknown key (the nearest is named) or a bad value.
    """
    parser = HfArgumentParser(
        (RunArguments, ADAPTTrainingArguments),
        prog="train.py",
        description="Trains ADAPT from a recipe; every field of the recipe can be given on the command line.",
        epilog="example: python train.py configuration/recipes/demo.yaml --dataset DATASET --output_dir runs/demo",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("recipe", nargs="?", help="YAML file; see configuration/recipes/")
    for name in MODEL_FIELDS:
        parser.add_argument(f"--{name}", type=yaml.safe_load, default=argparse.SUPPRESS, help="model configuration")

    recipe_path = argv[0] if argv and not argv[0].startswith("-") else None
    recipe = _read_recipe(recipe_path, known={action.dest for action in parser._actions}) if recipe_path else {}
    parser.set_defaults(**recipe)
    for action in parser._actions:
        action.required = action.required and action.dest not in recipe
    namespace = parser.parse_args(argv)
    if namespace.output_dir is None:
        raise InputError("no output folder: add --output_dir RUN")

    config = _model_config(namespace)
    try:
        run = RunArguments(**{f.name: getattr(namespace, f.name) for f in fields(RunArguments)})
        names = [f.name for f in fields(ADAPTTrainingArguments) if f.init]
        training = ADAPTTrainingArguments(**{name: getattr(namespace, name) for name in names})
    except (ValueError, TypeError) as error:
        raise InputError(f"{recipe_path or 'command line'}: {error}") from error
    return config, run, training


def _read_recipe(path: str, known: set[str]) -> dict[str, Any]:
    if not Path(path).is_file():
        raise InputError(f"recipe {path} does not exist; see configuration/recipes/")
    try:
        recipe = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path} is no YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise InputError(f"{path} must be a mapping of fields to values")
    for name in recipe:
        if name not in known:
            nearest = difflib.get_close_matches(str(name), sorted(known), n=1, cutoff=0.0)[0]
            raise InputError(f"{path}: there is no field '{name}'; did you mean '{nearest}'?")
    # YAML reads 5e-5 as text; argparse converts text defaults by the type of their field.
    return recipe


def _model_config(namespace: argparse.Namespace) -> ADAPTConfig:
    overrides = {name: getattr(namespace, name) for name in MODEL_FIELDS if hasattr(namespace, name)}
    if (namespace.model is None) == (namespace.initial_model is None):
        raise InputError("name either a model (a preset or JSON file) or an initial_model (a checkpoint)")
    if namespace.initial_model is not None:
        config = load_model(namespace.initial_model)[0].config
        return _validated(type(config), config.to_dict() | overrides)
    preset = Path(namespace.model)
    if preset.suffix != ".json":
        preset = PRESETS / f"{namespace.model}.json"
    if not preset.is_file():
        names = ", ".join(sorted(path.stem for path in PRESETS.glob("*.json")))
        raise InputError(f"there is no model preset '{namespace.model}'; name a JSON file or one of: {names}")
    try:
        values = json.loads(preset.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{preset} is no JSON file: {error}") from error
    model_type = values.pop("model_type", None) if isinstance(values, dict) else None
    if model_type not in CONFIGS:
        raise InputError(f"{preset}: model_type must be one of {', '.join(CONFIGS)}, not {model_type!r}")
    return _validated(CONFIGS[model_type], values | overrides)


def _validated(config_class: type[ADAPTConfig], values: dict[str, Any]) -> ADAPTConfig:
    try:
        return config_class(**values)
    except (StrictDataclassError, ValueError) as error:
        raise InputError(f"model configuration: {str(error).splitlines()[-1].strip()}") from error
