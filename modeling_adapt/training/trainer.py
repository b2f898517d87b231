"""The Hugging Face Trainer, told what an ADAPT batch is and what a checkpoint of it must survive."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, Trainer
from transformers.trainer_utils import EvalLoopOutput

from ..data.load.batching import StructureDataset
from ..errors import InputError
from ..modeling_adapt import IGNORE_INDEX
from .averaging import WeightAverage
from .checkpoints import is_sealed, read_seal, readable_errors, rotate, seal_checkpoint, whole_or_gone
from .diagnosis import Diagnosis
from .sampling import EpochSampler

# What a batch holds for metrics and messages; the models do not take it.
_NOT_FOR_THE_MODEL = ("nearest_defect", "rows")


class ADAPTTrainer(Trainer):
    """
    `Trainer` for batches of [`StructureCollator`].

    Args:
        average (*optional*): evaluated and saved in place of the weights that train on.
        diagnosis (*optional*): measured at every evaluation.
        run: what a run that goes on from one of its checkpoints must share; see [`seal_checkpoint`].
    """

    def __init__(
        self,
        *args: Any,
        average: WeightAverage | None = None,
        diagnosis: Diagnosis | None = None,
        run: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.average, self.diagnosis, self.run = average, diagnosis, dict(run or {})
        if average is not None:
            average.start()  # the model is on its device only now
        for callback in (average, diagnosis):
            if callback is not None:
                self.add_callback(callback)

    # One step

    def compute_loss(self, model: nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        for_the_model = {name: value for name, value in inputs.items() if name not in _NOT_FOR_THE_MODEL}
        result = super().compute_loss(model, for_the_model, *args, **kwargs)
        if model.training and not bool(torch.isfinite(result[0] if isinstance(result, tuple) else result)):
            raise InputError(f"{self._stopped()}: the loss is not finite {self._culprits(for_the_model, inputs)}")
        return result

    def training_step(self, model: nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        try:
            return super().training_step(model, inputs, *args, **kwargs)
        except RuntimeError as error:  # torch.OutOfMemoryError derives from it
            if self.args.auto_find_batch_size or not _out_of_memory(error):
                raise
            raise InputError(_does_not_fit(inputs, "per_device_train_batch_size")) from error

    def prediction_step(self, model: nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        try:
            return super().prediction_step(model, inputs, *args, **kwargs)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            raise InputError(_does_not_fit(inputs, "per_device_eval_batch_size")) from error

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Asked before the optimiser steps: gradients that are not finite must not reach the weights."""
        norm = super()._get_grad_norm(model, grad_norm)
        scaled = self.accelerator.scaler is not None  # fp16 skips such steps and lowers its scale
        if norm is not None and not scaled and not bool(torch.isfinite(torch.as_tensor(norm))):
            raise InputError(f"{self._stopped()}: the gradient is not finite; lower learning_rate or max_grad_norm")
        return norm

    def _stopped(self) -> str:
        return f"training stopped at step {self.state.global_step + 1}; its checkpoints are as they were"

    def _culprits(self, for_the_model: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor]) -> str:
        """Which structures of a batch have a loss that is not finite."""
        if not all(bool(torch.isfinite(weight).all()) for weight in self.model.parameters()):
            return "because the weights are not; lower learning_rate or max_grad_norm"
        rows = []
        for index, row in enumerate(inputs["rows"].tolist()):
            alone = {name: value[index : index + 1] for name, value in self._prepare_inputs(for_the_model).items()}
            if bool((alone["labels"] != IGNORE_INDEX).any()) and not bool(torch.isfinite(self.model(**alone).loss)):
                rows.append(str(row))
        where = f"for row {', '.join(rows)}" if rows else f"for rows {', '.join(map(str, inputs['rows'].tolist()))}"
        return f"{where} of the training split; look at these structures, or lower learning_rate"

    # Data

    def _get_train_sampler(self, train_dataset: StructureDataset | None = None) -> Sampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        processes = self.args.world_size
        at_once = self._train_batch_size * processes
        return EpochSampler(
            dataset,
            self.args.train_sampling_strategy,
            data_seed(self.args),
            group_size=at_once * self.args.gradient_accumulation_steps,
            multiple=at_once if processes > 1 and not self.args.dataloader_drop_last else 1,
        )

    def _get_eval_sampler(self, eval_dataset: StructureDataset) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_eval_sampler(eval_dataset)
        return EpochSampler(eval_dataset, "group_by_length", 0, group_size=self.args.eval_batch_size)

    # Evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As `Trainer`'s; what it draws at random does not reach the training, which a resumed run would draw anew."""
        with torch.random.fork_rng(devices=[]):
            return super().evaluate(*args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        if not (self.is_in_train and self.average):
            return self._evaluate_and_diagnose(*args, **kwargs)
        with self.average.in_model():
            return self._evaluate_and_diagnose(*args, **kwargs)

    def _evaluate_and_diagnose(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.diagnosis is not None and metric_key_prefix == "eval":
            signs = self.diagnosis.metrics(self.model)
            output.metrics.update({f"eval_{name}": value for name, value in signs.items()})
        return output

    def test(self, rows: datasets.Dataset) -> dict[str, float]:
        """Metrics of the final model on a split that has decided nothing; their names begin with `test_`."""
        self.remove_callback(EarlyStoppingCallback)
        self._eval_dataloaders: dict[str, Any] = {}  # with persistent workers, that of the validation split is kept
        return self.evaluate(StructureDataset(rows, self.train_dataset.weighting), metric_key_prefix="test")

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As `Trainer`'s, but sealed, and older checkpoints are removed only once this one is whole."""
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)  # what a run that was killed here left behind
            with whole_or_gone(folder):
                folder.mkdir(parents=True)
                if self.average is not None:
                    self.average.save_raw(folder)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with whole_or_gone(folder):
                if self.average is None:
                    super()._save_checkpoint(model, trial)
                else:
                    with self.average.in_model():
                        super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            with whole_or_gone(folder):
                seal_checkpoint(folder, self.run)
            rotate(folder, limit, self.state.best_model_checkpoint)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        with readable_errors(f"{self.args.output_dir}: the model"):
            super().save_model(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            self.average.resume(Path(resume_from_checkpoint))

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        patience = {cb.early_stopping_patience for cb in self._early_stopping()}
        progress = super()._init_training_state(*args, **kwargs)
        if not self.state.global_step:
            return progress
        self.args.eval_on_start = False  # this is not the start
        for callback in self._early_stopping():
            callback.early_stopping_patience = max(patience)  # of this run, not of the checkpoint
            self.state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
        # The state holds paths as they were; the run may have been moved or copied.
        best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
        self.state.best_model_checkpoint = os.fspath(best) if is_sealed(best) else None
        return progress

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """A run that was cut off after its last step, or after it was stopped early, has nothing left to train."""
        counts = [(cb.early_stopping_patience_counter, cb.early_stopping_patience) for cb in self._early_stopping()]
        if self.state.global_step >= self.state.max_steps or any(count >= most for count, most in counts):
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _early_stopping(self) -> list[EarlyStoppingCallback]:
        return [found for found in self.callback_handler.callbacks if isinstance(found, EarlyStoppingCallback)]

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """The model that is left is the average; then, where one is wanted, the best checkpoint takes its place."""
        if self.average is not None:
            self.average.exchange()
        if self.state.best_model_checkpoint is not None:
            try:
                read_seal(Path(self.state.best_model_checkpoint))
            except InputError as error:
                print(f"warning: the best checkpoint cannot be used, the last model is kept: {error}", file=sys.stderr)
                self.state.best_model_checkpoint = None
        return super()._finalize_training(*args, **kwargs)


def data_seed(training: Any) -> int:
    """The seed of the order and the augmentation of the data."""
    return training.seed if training.data_seed is None else training.data_seed


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _does_not_fit(inputs: dict[str, torch.Tensor], field: str) -> str:
    structures, atoms = inputs["input_features"].shape[:2]
    remedy = f"lower {field}"
    if field == "per_device_train_batch_size":
        remedy += " and raise gradient_accumulation_steps by the same factor, which changes nothing else"
    return f"a batch of {structures} structures of up to {atoms} atoms does not fit into memory; {remedy}"
