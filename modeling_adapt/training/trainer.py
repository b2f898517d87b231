"""The Hugging Face Trainer, told what an ADAPT batch is and what a checkpoint of it must survive."""

import inspect
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerState
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from ..data.load.batching import StructureDataset
from ..errors import InputError
from ..modeling_adapt import IGNORE_INDEX
from .callbacks import is_done, stopped
from .checkpoints import Checkpoints, readable_errors
from .diagnosis import Diagnosis
from .ema import ExponentialMovingAverage
from .sampling import EpochSampler, Strategy

# What a batch holds for metrics and messages; the models do not take it.
_NOT_FOR_THE_MODEL = ("nearest_defect", "rows")
_SIZE = "per_device_train_batch_size"

# The methods of `Trainer` that are overridden, and the parameters that are counted on. All of them are public.
HOOKS = {
    "train": ("resume_from_checkpoint",),
    "get_train_dataloader": (),
    "get_eval_dataloader": ("eval_dataset",),
    "training_step": ("model", "inputs"),
    "prediction_step": ("model", "inputs"),
    "compute_loss": ("model", "inputs"),
    "evaluate": ("eval_dataset", "metric_key_prefix"),
    "evaluation_loop": ("metric_key_prefix",),
    "save_model": ("output_dir",),
}


class ADAPTTrainer(Trainer):
    """
    `Trainer` for batches of [`StructureCollator`].

    Args:
        checkpoints ([`Checkpoints`]): Seals those that are written.
        ema ([`ExponentialMovingAverage`], *optional*): Evaluated and saved in place of the weights that train on.
        diagnosis ([`Diagnosis`], *optional*): Measured at every evaluation.
        atoms_per_batch (`int`, *optional*): See [`EpochSampler`]; in place of a number of structures.
        callbacks (`list[TrainerCallback]`): Further ones.
    """

    def __init__(
        self,
        *args: Any,
        checkpoints: Checkpoints,
        ema: ExponentialMovingAverage | None = None,
        diagnosis: Diagnosis | None = None,
        atoms_per_batch: int | None = None,
        callbacks: list[TrainerCallback],
        **kwargs: Any,
    ) -> None:
        self.checkpoints, self.ema, self.diagnosis = checkpoints, ema, diagnosis
        self.atoms_per_batch = atoms_per_batch
        own = [callback for callback in (checkpoints, ema, diagnosis, *callbacks) if callback is not None]
        require_hooks(own)
        super().__init__(*args, callbacks=own, **kwargs)
        if self.args.torch_compile:  # one graph for all sizes of structures, which takes minutes to compile
            self.accelerator.state.dynamo_plugin.dynamic = True
        self._validation_loader: DataLoader | None = None

    def train(self, resume_from_checkpoint: str | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As `Trainer`'s; of a checkpoint that has nothing left to train, the best model or the last is taken."""
        with self.checkpoints.whole_or_gone():
            if resume_from_checkpoint is None:
                return super().train(None, *args, **kwargs)
            if self.ema is not None:
                self.ema.checkpoint = Path(resume_from_checkpoint)
            state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, "trainer_state.json"))
            *_, state.max_steps = self.set_initial_training_values(self.args, self.get_train_dataloader())
            if not is_done(state, self.args.early_stopping_patience):
                return super().train(resume_from_checkpoint, *args, **kwargs)
            with self._no_epochs():
                output = super().train(resume_from_checkpoint, *args, **kwargs)
            self.state.max_steps, self.state.num_train_epochs = state.max_steps, state.num_train_epochs
            return output

    @contextmanager
    def _no_epochs(self) -> Iterator[None]:
        """Of a run that ended within an epoch `Trainer` would take one step more; where there is no epoch, none."""
        steps, epochs = self.args.max_steps, self.args.num_train_epochs
        self.args.max_steps, self.args.num_train_epochs = -1, 0
        try:
            yield
        finally:
            self.args.max_steps, self.args.num_train_epochs = steps, epochs

    # One step

    def compute_loss(self, model: nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        for_the_model = {name: value for name, value in inputs.items() if name not in _NOT_FOR_THE_MODEL}
        result = super().compute_loss(model, for_the_model, *args, **kwargs)
        if model.training and not bool(torch.isfinite(result[0] if isinstance(result, tuple) else result)):
            culprits = self._culprits(for_the_model, inputs["rows"].tolist())
            raise InputError(f"{stopped(self.state.global_step + 1)}: the loss is not finite {culprits}")
        return result

    def training_step(self, model: nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        if self.args.auto_find_batch_size:
            return super().training_step(model, inputs, *args, **kwargs)
        with _fitting_into_memory(inputs, _SIZE if self.atoms_per_batch is None else "atoms_per_batch"):
            return super().training_step(model, inputs, *args, **kwargs)

    def prediction_step(self, model: nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        with _fitting_into_memory(inputs, "per_device_eval_batch_size"):
            return super().prediction_step(model, inputs, *args, **kwargs)

    def _culprits(self, batch: dict[str, torch.Tensor], rows: list[int]) -> str:
        """Which structures of a batch, of these rows of the training split, have a loss that is not finite."""
        if not all(bool(torch.isfinite(weight).all()) for weight in self.model.parameters()):
            return "because the weights are not; lower learning_rate or max_grad_norm"
        bad = []
        for index, row in enumerate(rows):
            alone = {name: value[index : index + 1] for name, value in batch.items()}
            if bool((alone["labels"] != IGNORE_INDEX).any()) and not bool(torch.isfinite(self.model(**alone).loss)):
                bad.append(row)
        where = f"for row {', '.join(map(str, bad))}" if bad else f"for rows {', '.join(map(str, rows))}"
        return f"{where} of the training split; look at these structures, or lower learning_rate"

    # Data

    def get_train_dataloader(self) -> DataLoader:
        processes, batch_size = self.args.world_size, self._train_batch_size if self.atoms_per_batch is None else 1
        at_once = batch_size * processes
        # A graph takes any number of structures but one alone, which would be compiled for again.
        fills_up = (processes > 1 or self.args.torch_compile) and not self.args.dataloader_drop_last
        sampler = EpochSampler(
            self.train_dataset,
            self.args.train_sampling_strategy,
            data_seed(self.args),
            group_size=at_once * self.args.gradient_accumulation_steps,
            multiple=at_once if fills_up else 1,
            atoms_per_batch=self.atoms_per_batch,
        )
        return self._loader(sampler, batch_size)

    def get_eval_dataloader(self, eval_dataset: StructureDataset | None = None) -> DataLoader:
        if eval_dataset is None and self._validation_loader is not None:
            return self._validation_loader  # and its workers, where they persist
        batch_size = self.args.eval_batch_size
        in_groups = self.args.train_sampling_strategy == "group_by_length"
        strategy: Strategy = "group_by_length" if in_groups else "sequential"
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        loader = self._loader(EpochSampler(dataset, strategy, 0, group_size=batch_size), batch_size)
        if eval_dataset is None:
            self._validation_loader = loader
        return loader

    def _loader(self, sampler: EpochSampler, batch_size: int) -> DataLoader:
        """With every `dataloader_` field of the training arguments, which are named after those of `DataLoader`."""
        prefix = "dataloader_"
        options = {name.removeprefix(prefix): at for name, at in vars(self.args).items() if name.startswith(prefix)}
        options |= {"batch_size": batch_size, "sampler": sampler, "collate_fn": self.data_collator}
        return self.accelerator.prepare(DataLoader(sampler.dataset, **options))

    # Evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As `Trainer`'s; what it draws at random does not reach the training, which a resumed run would draw anew."""
        with torch.random.fork_rng(devices=[]):
            return super().evaluate(*args, **kwargs)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        with self._averaged():
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            if self.diagnosis is not None and metric_key_prefix == "eval":
                signs = self.diagnosis.metrics(self.model)
                output.metrics.update({f"eval_{name}": value for name, value in signs.items()})
            return output

    def test(self, rows: datasets.Dataset) -> dict[str, float]:
        """Metrics of the final model on a split that has decided nothing; their names begin with `test_`."""
        self.remove_callback(EarlyStoppingCallback)
        return self.evaluate(StructureDataset(rows, self.train_dataset.weighting), metric_key_prefix="test")

    def _averaged(self) -> AbstractContextManager[None]:
        return nullcontext() if self.ema is None else self.ema.in_model()

    # Checkpoints

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """As `Trainer`'s. While it trains, a checkpoint begins so: with the average, and the raw weights beside it."""
        if not self.is_in_train:
            with readable_errors(f"{output_dir or self.args.output_dir}: the model"):
                return super().save_model(output_dir, *args, **kwargs)
        assert output_dir is not None
        self.checkpoints.begin(Path(output_dir), self.args)
        if self.ema is not None and self.args.should_save:
            self.ema.save_raw(Path(output_dir))
        with self._averaged():
            super().save_model(output_dir, *args, **kwargs)

    def saved_weights(self) -> str:
        """Which of its weights the run has left, in words."""
        averaged = ", averaged over the steps before" if self.ema is not None else ""
        if not (self.args.load_best_model_at_end and self.state.best_model_checkpoint):
            return f"weights of step {self.state.global_step}, the last{averaged}"
        metric = self.args.metric_for_best_model.removeprefix("eval_")
        best = f"the best {metric} ({self.state.best_metric:.4g})"
        return f"weights of step {self.state.best_global_step} of {self.state.global_step}, {best}{averaged}"


def require_hooks(callbacks: list[TrainerCallback]) -> None:
    """
    Checks that `Trainer` still has what is overridden here and the events that `callbacks` wait for. One that was
    renamed would never be called, and nobody would know that the average of the weights is not what is saved.
    """
    events = {name for callback in callbacks for name in vars(type(callback)) if name.startswith("on_")}
    missing = [f"TrainerCallback.{name}" for name in sorted(events) if not hasattr(TrainerCallback, name)]
    for name, parameters in HOOKS.items():
        try:
            inspect.signature(getattr(Trainer, name)).bind_partial(**dict.fromkeys(parameters))
        except (AttributeError, TypeError):
            missing.append(f"Trainer.{name}({', '.join(parameters)})")
    if missing:
        version = transformers.__version__
        raise RuntimeError(f"transformers {version} has no {', no '.join(missing)}, which training needs")


def data_seed(training: Any) -> int:
    """The seed of the order and the augmentation of the data."""
    return training.seed if training.data_seed is None else training.data_seed


@contextmanager
def _fitting_into_memory(inputs: dict[str, torch.Tensor], field: str) -> Iterator[None]:
    """Where memory is short, the line says which `field` decides how much is needed."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError derives from it
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        structures, atoms = inputs["input_features"].shape[:2]
        remedy = f"lower {field}"
        if field != "per_device_eval_batch_size":
            remedy += " and raise gradient_accumulation_steps by the same factor, which changes nothing else"
        raise InputError(
            f"a batch of {structures} structures of up to {atoms} atoms does not fit into memory; {remedy}"
        ) from error
