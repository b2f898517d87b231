"""What a run says while it runs, and when it stops."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from tqdm import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState, TrainingArguments

from ..errors import InputError


def is_end_of_training(logs: Mapping[str, Any] | None) -> bool:
    """Whether `Trainer` logs its last line: after the last step, before it looks for the best model."""
    return logs is not None and "train_runtime" in logs


def is_done(state: TrainerState, patience: int | None) -> bool:
    """Whether a run has nothing left to train: it has taken all steps, or evaluations were in vain so many times."""
    early_stopping = state.stateful_callbacks.get(EarlyStopping.__name__, {}).get("attributes", {})
    in_vain = early_stopping.get("early_stopping_patience_counter", 0)
    return state.global_step >= state.max_steps or (patience is not None and in_vain >= patience)


class EarlyStopping(EarlyStoppingCallback):
    """Counts on after a resume, with the patience of this run and not of the checkpoint."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience = args.early_stopping_patience
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())  # a run that began without


class FiniteGradients(TrainerCallback):
    """Gradients that are not finite must not reach the weights. fp16 skips such steps and lowers its scale."""

    scaled = False

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.scaled = getattr(kwargs["optimizer"], "scaler", None) is not None
        gradients = [weight.grad for weight in kwargs["model"].parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of FSDP, where each process has a part
        self._require_finite(float(whole), state.global_step + 1)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """A norm that overflows is clipped to gradients of zero, which teach nothing: only the log tells."""
        if logs is not None and "grad_norm" in logs:
            self._require_finite(logs["grad_norm"], state.global_step)

    def _require_finite(self, norm: float, step: int) -> None:
        if not self.scaled and not math.isfinite(norm):
            raise InputError(f"{stopped(step)}: the gradient is not finite; lower learning_rate or max_grad_norm")


def stopped(step: int) -> str:
    """How the line begins that ends a training."""
    return f"training stopped at step {step}; its checkpoints are as they were"


class RunProgress(TrainerCallback):
    """
    The progress bar (none where the output is no terminal), and one line per evaluation, every error beside the
    trivial baseline that it has to beat. Losses go to `trainer_state.json` and the training curve.
    """

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            disable = True if args.disable_tqdm else None
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", disable=disable)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and metrics:
            prefix = next(iter(metrics)).partition("_")[0] + "_"
            tqdm.write(f"step {state.global_step:>6}  epoch {state.epoch or 0:>7.1f}  {describe(metrics, prefix)}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class EpochToDataset(TrainerCallback):
    """Tells the training data set its epoch. The loaders of accelerate do not, on many processes or after a resume."""

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        kwargs["train_dataloader"].dataset.set_epoch(int(state.epoch or 0))


# What is said of an evaluation: in words, the metric and how it is written, and its trivial baseline.
_SAID = (
    ("energy MAE", "energy_mae_mev_per_atom", ".2f", "composition only", "composition_baseline_mae_mev_per_atom"),
    ("stress MAE", "stress_mae_gpa", ".3f", "zero stress", "zero_stress_mae_gpa"),
    ("force MAE", "force_mae_mev_per_ang", ".1f", "zero force", "zero_force_mae_mev_per_ang"),
    ("RMSE", "force_rmse_mev_per_ang", ".1f", "", ""),
    ("near defect", "near_defect_mae_mev_per_ang", ".1f", "zero force", "zero_force_near_defect_mae_mev_per_ang"),
    ("cosine", "force_cosine", ".3f", "", ""),
)


def describe(metrics: dict[str, Any], prefix: str = "eval_") -> str:
    """The metrics of one evaluation in words; keys as in `evaluation.metrics`, with `prefix`."""
    parts = []
    for words, metric, style, trivial, baseline in _SAID:
        if prefix + metric in metrics:
            unit = {"energy MAE": " meV/atom", "stress MAE": " GPa"}.get(words, "")
            part = f"{words} {metrics[prefix + metric]:{style}}{unit}"
            if prefix + baseline in metrics:
                part += f" ({trivial} {metrics[prefix + baseline]:{style}})"
            parts.append(part)
    return "  ".join(parts) + ("  [meV/Å]" if prefix + "force_mae_mev_per_ang" in metrics else "")
