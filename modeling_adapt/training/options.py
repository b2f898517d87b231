"""
What a training run can be told, in groups and words, for `train.py --help`.

Nothing here imports torch or transformers, so that help comes at once. The fields of the model and of
[`ADAPTTrainingArguments`] are defined elsewhere; a test holds what is said of them against that.
"""

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, NamedTuple

USAGE = "train.py RECIPE.yaml --dataset DATASET --output_dir RUN [--FIELD VALUE ...]"
DESCRIPTION = """\
Trains ADAPT from a recipe (see configuration/recipes/), in one process or, with accelerate launch, in
many. Every field can stand in the recipe or on the command line, which wins. A run that was cut off goes
on when the same command is given again with --resume_from_checkpoint true."""
EXAMPLE = """\
All other fields of transformers.TrainingArguments are taken as well; --help-all tells them too. A field that
cannot act because of another one is an error where both are on the command line, and a warning otherwise.

example:
  python train.py configuration/recipes/demo.yaml --dataset DATASET --output_dir runs/demo"""

_ABOUT = {"model": "Defaults are those of the preset; configuration/configuration_adapt.py says more of each field."}
AUGMENTATIONS = ("octahedral", "rotation", "inversion", "translation")


def _field(help: str, default: Any = MISSING, **how: Any) -> Any:
    return field(default=default, metadata={"help": help}, **how)


@dataclass
class RunArguments:
    """The model, the data set, how its atoms are weighted and its structures augmented. Distances in Å."""

    dataset: str = _field("folder or Hub id of a structure data set")
    dataset_revision: str | None = _field(
        "branch, tag or commit of a dataset on the Hub; a run keeps the commit", None
    )
    train_split: str = _field("split to train on", "train")
    validation_split: str | None = _field("split to evaluate on; null trains without evaluation", "validation")
    test_split: str | None = _field("split on which the final model is tested, once; it decides nothing", None)
    train_subset: float = _field("percent of the train split: one of its nested subsets 1, 3, 10, 30, 100", 100)
    charge: str | None = _field(
        "train on structures of this charge alone, such as 0, or on any; by default charges may not be mixed", None
    )
    model: str | None = _field("preset of configuration/models/, or a JSON file like these", None)
    initial_model: str | None = _field(
        "checkpoint or Hub id to go on from: its model, weights and statistics are kept", None
    )
    initial_revision: str | None = _field(
        "branch, tag or commit of an initial_model on the Hub; a run keeps the commit", None
    )
    refit_statistics: bool = _field("with initial_model: fit the normalisation statistics on the new data", False)
    carry_over: bool = _field(
        "with refit_statistics: begin with lengths and energies of initial_model that fit the new data", False
    )
    weight_amplitude: float = _field("importance weights: amplitude", 2.54)
    weight_offset: float = _field("importance weights: offset of the distance in Å", 0.21)
    weight_inner_exponent: float = _field("importance weights: exponent of a distance", 1.04)
    weight_outer_exponent: float = _field("importance weights: exponent of the sum", 1.92)
    weight_maximum: float = _field("importance weights: largest excess over 1", 9.8858)
    weight_minimum_image: bool = _field("distance to the nearest periodic image; false: as published", True)
    augmentation: list[str] = _field(
        f"steps applied to the training split, in order: {', '.join(AUGMENTATIONS)}",
        default_factory=list,
    )
    position_noise: float = _field("standard deviation in Å of noise on the training positions", 0.0)
    atoms_per_batch: int | None = _field(
        "atoms of a batch of structures of similar size, in place of per_device_train_batch_size", None
    )
    muon: bool = _field("Muon for the matrices of the layers, AdamW for all else, in place of optim", False)
    ema_decay: float | None = _field(
        "average of the weights that is evaluated and saved: share kept per step, as 0.999; 0: none",
        None,
    )
    answers: str | None = _field(
        "host whose quick answers an energy model is asked at the end, as silicon or a YAML file", None
    )

    def __post_init__(self) -> None:
        # Null in a recipe, "null" on the command line.
        for name in ("validation_split", "test_split", "initial_revision", "dataset_revision", "answers"):
            if getattr(self, name) in ("null", "none", ""):
                setattr(self, name, None)
        if self.charge is not None:
            self.charge = read_charge(str(self.charge))
        if self.initial_revision is not None and self.initial_model is None:
            raise ValueError("initial_revision goes with initial_model, and there is none")
        if self.refit_statistics and self.initial_model is None:
            raise ValueError("refit_statistics goes with initial_model; a new model is always fitted")
        if self.carry_over and not self.refit_statistics:
            raise ValueError("carry_over goes with refit_statistics; statistics that are kept fit the old lengths")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be at least 0 and less than 1, not {self.ema_decay}")
        if self.atoms_per_batch is not None and self.atoms_per_batch < 1:
            raise ValueError(f"atoms_per_batch must be at least 1, not {self.atoms_per_batch}")
        self.ema_decay = self.ema_decay or None  # an average that keeps nothing is the weights themselves
        if not isinstance(self.augmentation, list):  # YAML: one name, or null
            self.augmentation = [self.augmentation] if self.augmentation is not None else []


def read_charge(text: str) -> str | None:
    """A number as text, or any."""
    if text in ("null", "none", ""):
        return None
    try:
        return text if text == "any" else f"{float(text):g}"
    except ValueError:
        raise ValueError(f"charge must be a number, such as 0 or -1, or any, not {text}") from None


# The groups of these fields, by the first of each.
_GROUPS = {
    "dataset": "data",
    "model": "model",
    "weight_amplitude": "loss and weights",
    "augmentation": "augmentation",
    "atoms_per_batch": "optimisation",
    "answers": "evaluation and checkpoints",
}


class Option(NamedTuple):
    """What is said of a field that is defined elsewhere: in words, its default, and what can be chosen, if not all."""

    help: str
    default: Any = None
    choices: tuple[str, ...] = ()


# Of the configuration of the model; None as default: that of the preset.
MODEL_OPTIONS = {
    "architecture": Option(
        "network; mlp: of energies alone, as published", choices=("cartesian", "fourier", "pairwise", "mlp")
    ),
    "hidden_size": Option("width of the tokens"),
    "num_hidden_layers": Option("layers"),
    "num_attention_heads": Option("heads of the attention"),
    "intermediate_size": Option("width of the feed-forward layers"),
    "hidden_act": Option("activation function, as relu, gelu or silu"),
    "hidden_dropout_prob": Option("dropout"),
    "attention_probs_dropout_prob": Option("dropout of the attention"),
    "layer_norm_eps": Option("epsilon of the layer norms"),
    "norm_position": Option("layer norm after or before each sub-layer", choices=("post", "pre")),
    "embedding_sizes": Option("widths of the token embedding, as [128, 256]"),
    "descriptors": Option("names of those that are read; null: all nine"),
    "element_embedding_size": Option("width of a learned vector per element; 0: none"),
    "reads_charge": Option("the total charge of structures is an input"),
    "fourier_wave_numbers": Option("of fourier: waves per lattice vector, as [1, 2, 3]"),
    "pairwise_cutoff": Option("of pairwise: distance in Å where a pair ends"),
    "num_radial_basis": Option("of pairwise: functions of the distance"),
    "num_vector_channels": Option("of pairwise: width of the vector stream"),
    "message_degree": Option("of pairwise: messages also tell of their sender's vectors (1) and tensors (2)"),
    "long_range": Option("of pairwise: all atoms and their images meet, by waves of the lattice"),
    "long_range_cutoff": Option("of long_range: its shortest waves in 1/Å"),
    "long_range_channels": Option("of long_range: latent charges of each atom"),
    "attention_radius": Option("atoms attend to atoms within this distance in Å; null: to all"),
    "remove_net_force": Option("subtract the mean force"),
    "rescale_factor": Option("of the normalisation"),
    "normalization_eps": Option("of the normalisation"),
    "max_atoms": Option("of mlp: atoms that it takes"),
    "energy_hidden_sizes": Option("of mlp: widths of its blocks"),
    "energy_dropout_prob": Option("of mlp: dropout of its blocks"),
}
LOSS_OPTIONS = {
    "force_loss": Option("loss of the forces", choices=("weighted_l2", "l2", "weighted_mse", "mse")),
    "energy_loss": Option("loss of the energy", choices=("mse", "mae")),
    "force_weight": Option("weight of the forces in the loss of an energy"),
    "stress_weight": Option("weight of the stress in the loss of an energy; 0: it is not learned"),
}

# Of the training arguments; which of them is here decides nothing but what --help tells.
TRAINING_OPTIONS: dict[str, dict[str, Option]] = {
    "optimisation": {
        "num_train_epochs": Option("passes over the training split", 3.0),
        "max_steps": Option("optimiser steps, in place of num_train_epochs", -1),
        "per_device_train_batch_size": Option("structures of a batch, in each process", 8),
        "gradient_accumulation_steps": Option("batches whose gradients make one step", 1),
        "learning_rate": Option("peak learning rate", 5e-5),
        "lr_scheduler_type": Option("schedule, as constant, constant_with_warmup, cosine, linear", "constant"),
        "warmup_steps": Option("steps until the peak, unless constant; below 1: share of all", 0),
        "optim": Option("optimiser, as adamw_torch or sgd", "adamw_torch_fused"),
        "weight_decay": Option("of AdamW", 0.0),
        "adam_beta1": Option("of AdamW", 0.9),
        "adam_beta2": Option("of AdamW", 0.999),
        "max_grad_norm": Option("length to which gradients are clipped; 0: not", 1.0),
        "train_sampling_strategy": Option(
            "order of an epoch; by length pads least", "random", ("random", "sequential", "group_by_length")
        ),
        "seed": Option("of the first weights, dropout and, without data_seed, the data", 42),
        "data_seed": Option("of the order and the augmentation of the data"),
    },
    "evaluation and checkpoints": {
        "output_dir": Option("folder of the run; the model is in it"),
        "resume_from_checkpoint": Option("true: go on from the newest whole checkpoint; or its folder"),
        "eval_strategy": Option("when the validation split is evaluated", "no", ("no", "steps", "epoch")),
        "eval_steps": Option("with steps: so many apart; below 1: share of all (default: logging_steps)"),
        "per_device_eval_batch_size": Option("structures of a batch of an evaluation", 8),
        "save_strategy": Option("when a checkpoint is written", "steps", ("no", "steps", "epoch", "best")),
        "save_steps": Option("with steps: so many apart; below 1: share of all", 500),
        "save_total_limit": Option("checkpoints that are kept, the best among them"),
        "load_best_model_at_end": Option("end with the best checkpoint, not the last", False),
        "metric_for_best_model": Option("what chooses it (default: MAE of the forces, or of the energy)"),
        "greater_is_better": Option("of that metric (default: only of a cosine)"),
        "early_stopping_patience": Option("stop after so many evaluations in a row without a better one"),
        "logging_steps": Option("steps between losses in metrics.csv", 500),
        "report_to": Option("trackers, such as tensorboard or wandb", "none"),
    },
    "hardware": {
        "bf16": Option("bfloat16 mixed precision", False),
        "tf32": Option("TensorFloat-32 of NVIDIA GPUs"),
        "use_cpu": Option("train on the CPU although there is a GPU", False),
        "torch_compile": Option("compile the model", False),
        "dataloader_num_workers": Option("processes that read ahead, of each process", 0),
        "dataloader_persistent_workers": Option("keep them from epoch to epoch", False),
        "ddp_timeout": Option("seconds that processes wait for each other", 1800),
    },
}


def help_text(further: Mapping[str, str] | None = None) -> str:
    """What `--help` says; `further` fields, and what they are, make a group at the end."""
    groups: dict[str, dict[str, Option]] = {}
    title = ""
    for own in fields(RunArguments):
        title = _GROUPS.get(own.name, title)
        default = None if own.default is MISSING else own.default
        groups.setdefault(title, {})[own.name] = Option(own.metadata["help"], default)
    groups["model"] |= MODEL_OPTIONS
    groups["loss and weights"] = LOSS_OPTIONS | groups["loss and weights"]
    for title, options in TRAINING_OPTIONS.items():
        groups[title] = options | groups.get(title, {})
    if further:
        groups["further fields of transformers.TrainingArguments"] = {n: Option(text) for n, text in further.items()}

    width = min(max(shutil.get_terminal_size().columns, 100), 130)
    parser = argparse.ArgumentParser(
        usage=USAGE,
        description=DESCRIPTION,
        epilog=EXAMPLE,
        add_help=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=width),
    )
    for title, options in groups.items():
        group = parser.add_argument_group(title, _ABOUT.get(title))
        for name, option in options.items():
            group.add_argument(f"--{name}", metavar="", help=_words(option).replace("%", "%%"))
    return parser.format_help()


def _words(option: Option) -> str:
    text = f"{option.help}; one of {', '.join(option.choices)}" if option.choices else option.help
    if option.default is None:
        return text
    default = str(option.default).lower() if isinstance(option.default, bool) else option.default
    return f"{text} (default: {default})"
