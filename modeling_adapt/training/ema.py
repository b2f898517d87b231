"""The exponential moving average of the weights: what is evaluated and exported, while the raw weights train on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import TrainerCallback, TrainerState, TrainingArguments

from .callbacks import is_end_of_training

RAW_WEIGHTS = "raw_model.safetensors"  # in a checkpoint, whose model.safetensors holds the average


class ExponentialMovingAverage(TrainerCallback):
    """
    Average of the weights of `model` over optimiser steps: average <- decay average + (1 - decay) weights. The decay
    begins smaller, (1 + step) / (10 + step), so that the random start is soon forgotten (as in TensorFlow's
    ExponentialMovingAverage). It exists while the model trains; then the model is the average.

    Attributes:
        checkpoint (`Path`, *optional*): Folder that the training goes on from; `None` where it begins.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.checkpoint: Path | None = None
        self.average: list[torch.Tensor] = []

    def start(self) -> None:
        """Begins at the weights that the model has now, on the device where they are now."""
        self.average = [weight.detach().clone() for weight in self.model.parameters()]

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """The model has loaded the average from a checkpoint; that is taken, and the model given its own weights."""
        if self.average:  # the training begins again, with smaller batches
            return
        self.start()
        if self.checkpoint is not None:
            load_model(self.model, str(self.checkpoint / RAW_WEIGHTS))

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        for average, weight in zip(self.average, self.model.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """The model that is left is the average; where one is wanted, the best checkpoint then takes its place."""
        if is_end_of_training(logs):
            self._exchange()
            self.average = []

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self.average:
            raise RuntimeError(
                "the model that is left is not the average of the weights: this version of transformers does not log "
                "train_runtime at the end of a training; the checkpoints hold the average"
            )

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """While the block runs, the model holds the average, as it does anyway when it does not train."""
        if not self.average:
            yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for average, weight in zip(self.average, self.model.parameters(), strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def save_raw(self, folder: Path) -> None:
        """Writes the weights that train on into a checkpoint."""
        save_model(self.model, str(folder / RAW_WEIGHTS))
