"""What a training run is told, by a YAML recipe and the command line, which wins, and on what it was launched."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser, PreTrainedConfig, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..configuration.architectures_adapt import ARCHITECTURES
from ..configuration_adapt import ADAPTConfig, ADAPTEnergyConfig
from ..data.load.augmentation import augmentation_steps
from ..errors import InputError, no_such, one_line
from ..files import read_yaml
from ..loading import load_model, pinned_revision
from .options import TRAINING_OPTIONS, RunArguments

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


@dataclass
class ADAPTTrainingArguments(TrainingArguments):
    """
    `TrainingArguments` with defaults for force fields: constant rate and no weight decay, as published. A loss that is
    not finite stops the run, so it is not filtered out of the logs; early stopping counts on after a resume.
    """

    learning_rate: float = field(default=5e-5)
    lr_scheduler_type: str = field(default="constant")
    logging_nan_inf_filter: bool = field(default=False)
    restore_callback_states_from_checkpoint: bool = field(default=True)
    remove_unused_columns: bool = field(default=False, metadata={"help": "must stay false: the collator reads rows"})
    metric_for_best_model: str | None = field(default=None)
    greater_is_better: bool | None = field(default=None)
    early_stopping_patience: int | None = field(default=None)

    def __post_init__(self) -> None:
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError(f"early_stopping_patience must be at least 1, not {self.early_stopping_patience}")
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns must stay false: the collator reads all columns of a structure")
        if self.dataloader_persistent_workers and not self.dataloader_num_workers:
            raise ValueError("dataloader_persistent_workers needs dataloader_num_workers of at least 1")
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
    Reads `RECIPE.yaml [--field value ...]`, and says which fields cannot act.

    A recipe is flat: `model` (a preset of `configuration/models/` or a JSON file) or `initial_model`, any field of the
    model's configuration, of [`RunArguments`] and of [`ADAPTTrainingArguments`]. The command line wins.

    Raises:
        [`InputError`]: The recipe is missing or no mapping, has an unknown key (the nearest is named) or a bad value;
            a field on the command line cannot act because of another one there.
    """
    parser = RecipeParser((RunArguments, ADAPTTrainingArguments), prog="train.py", add_help=False, allow_abbrev=False)
    parser.add_argument("recipe", nargs="?")
    for name in MODEL_FIELDS:
        parser.add_argument(f"--{name}", type=_yaml, default=argparse.SUPPRESS)

    recipe_path = argv[0] if argv and not argv[0].startswith("-") else None
    where = recipe_path or "command line"
    actions = {action.dest: action for action in parser._actions if action.dest != "recipe"}
    recipe = _read_recipe(recipe_path, actions) if recipe_path else {}
    given = {word[2:].partition("=")[0].replace("-", "_") for word in argv if word.startswith("--")}
    recipe = _not_replaced(recipe, given)
    parser.set_defaults(**recipe)
    for action in parser._actions:
        action.required = action.required and action.dest not in recipe
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        raise InputError(no_such(unknown[0], [f"--{name}" for name in actions], "field"))
    if namespace.recipe != recipe_path:
        raise InputError(f"the recipe comes first: python train.py {namespace.recipe} ...")
    if namespace.output_dir is None:
        raise InputError("no output folder: add --output_dir RUN")
    for name, revision in (("dataset", "dataset_revision"), ("initial_model", "initial_revision")):
        if revision not in given and recipe.get(name) not in (None, getattr(namespace, name)):
            setattr(namespace, revision, None)  # it was that of another one

    _allow_processes_without_gpu()
    with _said_of(where):
        run = RunArguments(**{f.name: getattr(namespace, f.name) for f in fields(RunArguments)})
        augmentation_steps(run.augmentation, run.position_noise)  # refuses bad ones before anything is read
    config = _model_config(namespace, run)
    with _said_of(where):
        names = [f.name for f in fields(ADAPTTrainingArguments) if f.init]
        training = ADAPTTrainingArguments(**{name: getattr(namespace, name) for name in names})
    for name, least in _LEAST.items():
        if getattr(training, name) < least:
            raise InputError(f"{name} must be at least {least}, not {getattr(training, name)}")
    for name, (cause, reason) in _without_effect(config, run, training).items():
        if name in given and cause in given:
            raise InputError(f"--{name} cannot act: {reason}; leave one of the two out")
        if name in given | recipe.keys() and training.process_index == 0:
            print(f"warning: {name} cannot act: {reason}", file=sys.stderr)
    return config, run, training


@contextmanager
def _said_of(where: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {error}") from error


def _not_replaced(recipe: Mapping[str, Any], given: set[str]) -> dict[str, Any]:
    """A recipe without what the command line takes the place of: of two starts for a model, it names the one."""
    replaced: set[str] = set()
    if "initial_model" in given:
        replaced = {"model"}
    elif "model" in given:
        replaced = {"initial_model", "initial_revision", "refit_statistics", "carry_over"}
    return {name: value for name, value in recipe.items() if name not in replaced}


def _without_effect(
    config: ADAPTConfig, run: RunArguments, training: ADAPTTrainingArguments
) -> dict[str, tuple[str, str]]:
    """Fields that cannot act, and for each the field that is the cause, and the reason in words."""
    evaluated, saved, logged = (_word(getattr(training, f"{what}_strategy")) for what in ("eval", "save", "logging"))
    schedule = _word(training.lr_scheduler_type)
    chooses = training.load_best_model_at_end or saved == "best" or schedule in ("reduce_lr_on_plateau", "greedy")
    weighting = [f for f in fields(RunArguments) if f.name.startswith("weight_")]
    weights = [f.name for f in weighting if getattr(run, f.name) != f.default]
    weighs = config.force_loss.startswith("weighted")
    of_the_best = ["metric_for_best_model", "greater_is_better"]
    rules = [
        (evaluated != "steps", ["eval_steps"], "eval_strategy", f"is {evaluated}, not steps"),
        (saved != "steps", ["save_steps"], "save_strategy", f"is {saved}, not steps"),
        (saved == "no", ["save_total_limit"], "save_strategy", "is no"),
        (logged != "steps", ["logging_steps"], "logging_strategy", f"is {logged}, not steps"),
        (schedule == "constant", ["warmup_steps"], "lr_scheduler_type", "is constant, not constant_with_warmup"),
        (not chooses, of_the_best, "load_best_model_at_end", "is false"),
        (run.muon, ["optim", "optim_args"], "muon", "takes its place"),
        (run.atoms_per_batch is not None, ["per_device_train_batch_size"], "atoms_per_batch", "takes its place"),
        (not weighs, weights, "force_loss", f"is {config.force_loss}, which has no weights"),
    ]
    return {name: (cause, f"{cause} {why}") for applies, names, cause, why in rules if applies for name in names}


def _word(value: Any) -> str:
    return str(getattr(value, "value", value))


def further_options() -> dict[str, str]:
    """The training arguments that [`help_text`] does not tell of itself, and what transformers says they are."""
    told = {name for options in TRAINING_OPTIONS.values() for name in options}
    others = [f for f in fields(ADAPTTrainingArguments) if f.init and f.name not in told]
    return {f.name: " ".join(str(f.metadata.get("help", "")).split()) for f in others}


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no YAML") from error


def _read_recipe(path: str, actions: dict[str, argparse.Action]) -> dict[str, Any]:
    if not Path(path).is_file():
        raise InputError(f"recipe {path} does not exist; see configuration/recipes/")
    recipe = read_yaml(path)
    for name, value in recipe.items():
        if name not in actions:
            raise InputError(f"{path}: {no_such(str(name), actions, 'field')}")
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
    if overrides and (architecture := ARCHITECTURES.get(str(overrides.get("architecture")))) is not None:
        # With another architecture than its own, a preset brings what that one reads.
        read = architecture.fields(CONFIGS[model_type].predicts)
        values = {name: value for name, value in values.items() if name in read}
    return _validated(CONFIGS[model_type], values | (overrides or {}))


def _validated(config_class: type[ADAPTConfig], values: dict[str, Any]) -> ADAPTConfig:
    try:
        return config_class(**values)
    except (StrictDataclassError, ValueError) as error:
        raise InputError(f"model configuration: {one_line(error)}") from error


def _allow_processes_without_gpu() -> None:
    """
    Many processes on a machine without a GPU talk over gloo, which accelerate only does when told so. Without that
    each of them would train alone. To be called before anything of accelerate is made.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")


def describe_processes(training: ADAPTTrainingArguments, atoms_per_batch: int | None = None) -> str:
    """
    One line on the processes and the batch.

    Raises:
        [`InputError`]: Processes were launched together, but each would train alone.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched > 1 and training.world_size == 1:
        raise InputError(
            f"{launched} processes were launched, but each would train alone; launch with "
            "--config_file configuration/accelerate/cpu.yaml, or with a GPU for each process"
        )
    each = training.train_batch_size if atoms_per_batch is None else atoms_per_batch
    what, steps = "structures" if atoms_per_batch is None else "atoms", training.gradient_accumulation_steps
    total = each * training.world_size * steps
    line = f"training in {training.world_size} process{'es' if training.world_size > 1 else ''} on "
    line += f"{training.device.type}; {total} {what} a step"
    if total != each:
        line += f" ({each} x {training.world_size} processes x {steps} accumulated)"
    return line


def warn_of_one_process(training: ADAPTTrainingArguments) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process and does not say so."""
    if training.world_size == 1 and "ACCELERATE_MIXED_PRECISION" in os.environ and training.device.type == "cpu":
        print(
            "warning: accelerate launched ONE process. For two on CPUs: "
            "accelerate launch --config_file configuration/accelerate/cpu.yaml train.py ...",
            file=sys.stderr,
        )
