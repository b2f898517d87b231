"""The exponential moving average of the weights: what is evaluated and exported, while the raw weights train on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

RAW_WEIGHTS = "raw_model.safetensors"  # in a checkpoint, whose model.safetensors holds the average


class WeightAverage(TrainerCallback):
    """
    Average of the weights of `model` over optimiser steps: average <- decay average + (1 - decay) weights. The decay
    begins smaller, (1 + step) / (10 + step), so that the random start is soon forgotten (as in TensorFlow's
    ExponentialMovingAverage).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.average: list[torch.Tensor] = []

    def start(self) -> None:
        """Begins at the weights that the model has now, on the device where they are now."""
        self.average = [weight.detach().clone() for weight in self.model.parameters()]

    @torch.no_grad()
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        for average, weight in zip(self.average, self.model.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)

    @torch.no_grad()
    def exchange(self) -> None:
        """Swaps the weights of the model and the average."""
        for average, weight in zip(self.average, self.model.parameters(), strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """The model holds the average while the block runs."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def save_raw(self, folder: Path) -> None:
        """Writes the weights that train on into a checkpoint."""
        save_model(self.model, str(folder / RAW_WEIGHTS))

    def resume(self, folder: Path) -> None:
        """The model has loaded the average from the checkpoint `folder`; takes it, and gives the model its own."""
        self.start()
        load_model(self.model, str(folder / RAW_WEIGHTS))
