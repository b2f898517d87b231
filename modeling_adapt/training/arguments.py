"""What a training run can be told, and where it comes from: a YAML recipe, overridden by the command line."""

import argparse
import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser, PreTrainedConfig, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..configuration_adapt import ADAPTConfig, ADAPTEnergyConfig
from ..data.load.augmentation import STEPS, augmentation_steps
from ..errors import InputError, one_line
from ..loading import load_model, pinned_revision

PRESETS = Path(__file__).parents[1] / "configuration" / "models"
CONFIGS: dict[str, type[ADAPTConfig]] = {config.model_type: config for config in (ADAPTConfig, ADAPTEnergyConfig)}

HEADLINE = "headline"  # stands for the first metric of the task, which is known when the model is

# What torch would refuse with a traceback, after the output folder is made.
_LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
}

# Fields that training fits; neither a recipe nor a preset sets them.
FITTED_FIELDS = {
    *("feature_mean", "feature_std", "force_mean", "force_std", "energy_mean", "energy_std"),
    *("element_energies", "training_domain"),
}
# Fields in which a checkpoint says what it is; nobody sets them either.
RECORDED_FIELDS = {"format_version", "units", "adapt_version"}
MODEL_FIELDS = [
    field.name
    for field in fields(ADAPTEnergyConfig)
    if field.name not in {base.name for base in fields(PreTrainedConfig)} | FITTED_FIELDS | RECORDED_FIELDS
]
MODEL_HELP = "of the model (default: of its preset); configuration/configuration_adapt.py describes it"


@dataclass
class RunArguments:
    """The model, the data set, how its atoms are weighted and its structures augmented. Distances in Å."""

    dataset: str = field(metadata={"help": "folder or Hub id of a structure data set"})
    model: str | None = field(default=None, metadata={"help": "preset or JSON file; see configuration/models/"})
    initial_model: str | None = field(
        default=None,
        metadata={"help": "checkpoint or Hub id to go on from: its model, weights and statistics are kept"},
    )
    initial_revision: str | None = field(
        default=None,
        metadata={"help": "branch, tag or commit of an initial_model on the Hub; a run keeps the commit"},
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "branch, tag or commit of a dataset on the Hub; a run keeps the commit"}
    )
    refit_statistics: bool = field(
        default=False, metadata={"help": "with initial_model: fit the normalisation statistics on the new data"}
    )
    train_split: str = field(default="train", metadata={"help": "split to train on"})
    validation_split: str | None = field(
        default="validation", metadata={"help": "split to evaluate on; null trains without evaluation"}
    )
    test_split: str | None = field(
        default=None, metadata={"help": "split on which the final model is tested, once; it decides nothing"}
    )
    train_subset: float = field(
        default=100, metadata={"help": "percent of the train split: one of its nested subsets 1, 3, 10, 30, 100"}
    )
    weight_amplitude: float = field(default=2.54, metadata={"help": "importance weights: amplitude"})
    weight_offset: float = field(default=0.21, metadata={"help": "importance weights: offset of the distance in Å"})
    weight_inner_exponent: float = field(default=1.04, metadata={"help": "importance weights: exponent of a distance"})
    weight_outer_exponent: float = field(default=1.92, metadata={"help": "importance weights: exponent of the sum"})
    weight_maximum: float = field(default=9.8858, metadata={"help": "importance weights: largest excess over 1"})
    weight_minimum_image: bool = field(
        default=True, metadata={"help": "distance to the nearest periodic image; false: as published"}
    )
    augmentation: list[str] = field(
        default_factory=list,
        metadata={"help": f"steps applied to the training split, in order: {', '.join(STEPS)}"},
    )
    position_noise: float = field(
        default=0.0, metadata={"help": "augmentation: standard deviation in Å of noise on the training positions"}
    )

    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "average of the weights that is evaluated and saved: share kept per step, as 0.999; 0: none"
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "stop after so many evaluations in a row that do not improve metric_for_best_model"},
    )

    def __post_init__(self) -> None:
        # Null in a recipe, "null" on the command line.
        for name in ("validation_split", "test_split", "initial_revision", "dataset_revision"):
            if getattr(self, name) in ("null", "none", ""):
                setattr(self, name, None)
        if self.initial_revision is not None and self.initial_model is None:
            raise ValueError("initial_revision goes with initial_model, and there is none")
        if self.refit_statistics and self.initial_model is None:
            raise ValueError("refit_statistics goes with initial_model; a new model is always fitted")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be at least 0 and less than 1, not {self.ema_decay}")
        self.ema_decay = self.ema_decay or None  # an average that keeps nothing is the weights themselves
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError(f"early_stopping_patience must be at least 1, not {self.early_stopping_patience}")
        if not isinstance(self.augmentation, list):  # YAML: one name, or null
            self.augmentation = [self.augmentation] if self.augmentation is not None else []
        augmentation_steps(self.augmentation, self.position_noise)  # refuses bad ones before anything is read


@dataclass
class ADAPTTrainingArguments(TrainingArguments):
    """
    `TrainingArguments` with defaults for force fields: constant rate and no weight decay, as published. A loss that is
    not finite stops the run, so it is not filtered out of the logs; early stopping counts on after a resume.
    """

    learning_rate: float = field(default=5e-5, metadata={"help": "peak learning rate"})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "learning rate schedule"})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "a loss that is not finite stops the run"})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "early stopping counts on after a resume"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "must stay false: the collator reads rows"})

    metric_for_best_model: str | None = field(
        default=None, metadata={"help": "what chooses the best model (default: MAE of the forces, or of the energy)"}
    )
    greater_is_better: bool | None = field(default=None, metadata={"help": "default: only of a cosine"})

    def __post_init__(self) -> None:
        if self.bf16 and not torch.cuda.is_available():
            self.use_cpu = True  # transformers asks for that where there is no GPU
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model = HEADLINE
        # transformers takes every metric but the loss for one that should be large; ours are errors.
        if self.metric_for_best_model and self.greater_is_better is None:
            self.greater_is_better = self.metric_for_best_model.endswith("force_cosine")
        super().__post_init__()


class RecipeParser(HfArgumentParser):
    """Its errors are the one line of every bad input: the usage of two hundred options would bury it."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def parse_arguments(argv: list[str]) -> tuple[ADAPTConfig, RunArguments, ADAPTTrainingArguments]:
    """
    Reads `RECIPE.yaml [--field value ...]`.

    A recipe is flat: `model` (a preset of `configuration/models/` or a JSON file) or `initial_model`, any field of the
    model's configuration, of [`RunArguments`] and of [`ADAPTTrainingArguments`]. The command line wins.

    Raises:
        [`InputError`]: the recipe is missing or no mapping, has an unknown key (the nearest is named) or a bad value.
    """
    parser = RecipeParser(
        (RunArguments, ADAPTTrainingArguments),
        prog="train.py",
        description="Trains ADAPT from a recipe; every field of the recipe can be given on the command line.",
        epilog="example: python train.py configuration/recipes/demo.yaml --dataset DATASET --output_dir runs/demo",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("recipe", nargs="?", help="YAML file; see configuration/recipes/")
    for name in MODEL_FIELDS:
        parser.add_argument(f"--{name}", type=_yaml, default=argparse.SUPPRESS, help=MODEL_HELP)

    recipe_path = argv[0] if argv and not argv[0].startswith("-") else None
    actions = {action.dest: action for action in parser._actions if action.dest not in ("help", "recipe")}
    recipe = _read_recipe(recipe_path, actions) if recipe_path else {}
    parser.set_defaults(**recipe)
    for action in parser._actions:
        action.required = action.required and action.dest not in recipe
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        raise InputError(_no_such_field(unknown[0], [f"--{name}" for name in actions]))
    if namespace.recipe != recipe_path:
        raise InputError(f"the recipe comes first: python train.py {namespace.recipe} ...")
    if namespace.output_dir is None:
        raise InputError("no output folder: add --output_dir RUN")

    try:
        run = RunArguments(**{f.name: getattr(namespace, f.name) for f in fields(RunArguments)})
    except (ValueError, TypeError) as error:
        raise InputError(f"{recipe_path or 'command line'}: {error}") from error
    config = _model_config(namespace, run)
    try:
        names = [f.name for f in fields(ADAPTTrainingArguments) if f.init]
        training = ADAPTTrainingArguments(**{name: getattr(namespace, name) for name in names})
    except (ValueError, TypeError) as error:
        raise InputError(f"{recipe_path or 'command line'}: {error}") from error
    for name, least in _LEAST.items():
        if getattr(training, name) < least:
            raise InputError(f"{name} must be at least {least}, not {getattr(training, name)}")
    return config, run, training


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no YAML") from error


def _no_such_field(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]
    return f"there is no field '{name}'; did you mean '{nearest}'?"


def _read_recipe(path: str, actions: dict[str, argparse.Action]) -> dict[str, Any]:
    if not Path(path).is_file():
        raise InputError(f"recipe {path} does not exist; see configuration/recipes/")
    try:
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise InputError(f"{path} must be a mapping of fields to values")
    for name, value in recipe.items():
        if name not in actions:
            raise InputError(f"{path}: {_no_such_field(str(name), actions)}")
        if name in MODEL_FIELDS:
            continue
        plain = actions[name].type in (int, float, string_to_bool)
        if plain and (isinstance(value, list | dict) or value is None and actions[name].default is not None):
            raise InputError(f"{path}: {name} cannot be {value!r}")
        # YAML reads 5e-5 as text and 5 as a number, whatever the field is; argparse converts text by the field's type.
        if isinstance(value, int | float) and not isinstance(actions[name].default, list):
            recipe[name] = str(value)
    return recipe


def _model_config(namespace: argparse.Namespace, run: RunArguments) -> ADAPTConfig:
    """Of the preset or the checkpoint, which is pinned: its weights are loaded later."""
    overrides = {name: getattr(namespace, name) for name in MODEL_FIELDS if hasattr(namespace, name)}
    if (run.model is None) == (run.initial_model is None):
        raise InputError("name either a model (a preset or JSON file) or an initial_model (a checkpoint)")
    if run.model is not None:
        return preset_config(run.model, overrides)
    assert run.initial_model is not None
    run.initial_revision = pinned_revision(run.initial_model, run.initial_revision)
    config = load_model(run.initial_model, revision=run.initial_revision)[0].config
    return _validated(type(config), config.to_dict() | overrides)


def preset_config(name: str, overrides: dict[str, Any] | None = None) -> ADAPTConfig:
    """The configuration of a preset of `configuration/models/` or of a JSON file, with some fields changed."""
    preset = Path(name)
    if preset.suffix != ".json":
        preset = PRESETS / f"{name}.json"
    if not preset.is_file():
        names = ", ".join(sorted(path.stem for path in PRESETS.glob("*.json")))
        raise InputError(f"there is no model preset '{name}'; name a JSON file or one of: {names}")
    try:
        values = json.loads(preset.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text at all
        raise InputError(f"{preset} is no JSON file: {error}") from error
    model_type = values.pop("model_type", None) if isinstance(values, dict) else None
    if not isinstance(model_type, str) or model_type not in CONFIGS:
        raise InputError(f"{preset}: model_type must be one of {', '.join(CONFIGS)}, not {model_type!r}")
    return _validated(CONFIGS[model_type], values | (overrides or {}))


def _validated(config_class: type[ADAPTConfig], values: dict[str, Any]) -> ADAPTConfig:
    try:
        return config_class(**values)
    except (StrictDataclassError, ValueError) as error:
        raise InputError(f"model configuration: {one_line(error)}") from error
