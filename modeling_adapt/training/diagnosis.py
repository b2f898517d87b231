"""The three ways in which such a model fails (arXiv 2509.24115), measured at every evaluation and said when they stay.

Trivial prediction: forces near zero everywhere, which is most of the way to a low loss where most atoms hardly feel a
force. Overfitting: the training error falls while the validation error rises. Rotation: forces do not turn with the
structure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from tqdm import tqdm
from transformers import PreTrainedModel, TrainerCallback, TrainerState, TrainingArguments

from ..data.load.batching import StructureDataset
from ..evaluation.evaluate import evaluate_energy, evaluate_forces
from ..evaluation.symmetry import octahedral_error, rotation_error
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from .tasks import EnergyTask, Task

PERSISTS = 3  # evaluations in a row after which a sign is said
_TRAIN_PROBE, _ROTATION_PROBE = 32, 4  # structures
_TRIVIAL_RATIO, _TRIVIAL_ERROR = 0.2, 0.95  # of the length of the forces; of the error of the trivial baseline
_GAP, _RISE = 1.5, 1.02  # validation over training error; validation error over its best
_ROTATION = 0.2  # of the RMS force


class Diagnosis(TrainerCallback):
    """
    Measures on a few structures of the training split; [`Diagnosis.metrics`] adds to those of an evaluation

    - `train_*`: the headline error on training structures, to hold the validation error against;
    - `octahedral_error`, `rotation_error`: RMS deviation under operations of Oh (cubic cells only) and under random
      rotations that turn the cell too, over the RMS force; for an energy without forces over what the composition
      leaves of the energy per atom.
    """

    def __init__(
        self, task: Task, train_rows: datasets.Dataset, feature_extractor: ADAPTFeatureExtractor, batch_size: int
    ) -> None:
        self.task, self.feature_extractor, self.batch_size = task, feature_extractor, batch_size
        self._said: set[int] = set()
        self.rows = train_rows.select(_spread(len(train_rows), _TRAIN_PROBE))
        self.structures = StructureDataset(self.rows).__getitems__(_spread(len(self.rows), _ROTATION_PROBE))

    def metrics(self, model: PreTrainedModel) -> dict[str, float]:
        """The model is in evaluation mode; every process measures the same."""
        if isinstance(self.task, EnergyTask):
            baseline = self.task.baseline
            evaluation = evaluate_energy(
                model, self.feature_extractor, self.rows, self.batch_size, progress=False, baseline=baseline
            )
            scale = evaluation.metrics["composition_baseline_mae_mev_per_atom"] / 1000
        else:
            evaluation = evaluate_forces(model, self.feature_extractor, self.rows, self.batch_size, progress=False)
            scale = evaluation.metrics["zero_force_rmse_mev_per_ang"] / 1000
        found = {f"train_{self.task.headline}": evaluation.metrics[self.task.headline]}
        errors = {
            "octahedral_error": octahedral_error(model, self.feature_extractor, self.structures, count=6),
            "rotation_error": rotation_error(model, self.feature_extractor, self.structures, count=2),
        }
        return found | {name: error / scale for name, error in errors.items() if error is not None and scale > 0}

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and state.global_step not in self._said:  # the final evaluation is no new sign
            self._said.add(state.global_step)
            for line in findings(state.log_history, self.task.headline):
                tqdm.write(f"step {state.global_step:>6}  {line}")


def _spread(size: int, count: int) -> list[int]:
    """At most `count` of `size` rows, evenly."""
    return np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(int)).tolist()


def findings(log_history: Sequence[Mapping[str, Any]], headline: str) -> list[str]:
    """What has now been wrong for `PERSISTS` evaluations in a row, one line each with the remedy."""
    steps: dict[int, Mapping[str, Any]] = {}
    for entry in log_history:
        if f"eval_{headline}" in entry:
            steps.setdefault(entry["step"], entry)
    history, lines = list(steps.values()), []
    for sign in (_trivial, _overfitted, _not_rotated):
        said = [sign(history[: index + 1], headline) for index in range(len(history))]
        row = next((length for length, line in enumerate(reversed(said)) if line is None), len(said))
        if row == PERSISTS:
            lines.append(str(said[-1]))
    return lines


def _trivial(history: Sequence[Mapping[str, Any]], headline: str) -> str | None:
    last = history[-1]
    baseline, ratio = last.get(f"eval_{_BASELINES[headline]}"), last.get("eval_force_norm_ratio")
    too_short = (ratio or 0.0) < _TRIVIAL_RATIO
    if not (baseline is not None and too_short and last[f"eval_{headline}"] > _TRIVIAL_ERROR * baseline):
        return None
    if ratio is None:
        return (
            "trivial prediction: the energies are no better than from the composition alone; raise learning_rate, "
            "train longer, or use model: pairwise-energy"
        )
    return (
        f"trivial prediction: forces are {ratio:.0%} as long as they should be and no better "
        "than zero; raise learning_rate, use architecture: pairwise, or force_loss: weighted_l2"
    )


def _overfitted(history: Sequence[Mapping[str, Any]], headline: str) -> str | None:
    errors = [entry[f"eval_{headline}"] for entry in history]
    train = history[-1].get(f"eval_train_{headline}")
    best = int(np.argmin(errors))
    if train is None or not train <= history[best].get(f"eval_train_{headline}", train):
        return None
    if not (errors[-1] > _RISE * errors[best] and errors[-1] > _GAP * train):
        return None
    return (
        f"overfitting: the validation error is {errors[-1] / train:.1f} times the training error and rises while that "
        "falls; use more data, hidden_dropout_prob: 0.1, weight_decay: 0.01, or early_stopping_patience"
    )


def _not_rotated(history: Sequence[Mapping[str, Any]], headline: str) -> str | None:
    """In a cubic cell, its own symmetry counts: a model for one cell need not know turned ones."""
    last = history[-1]
    error = last.get("eval_octahedral_error", last.get("eval_rotation_error", 0.0))
    if not error > _ROTATION:
        return None
    return (
        f"rotation: predictions miss the symmetry of a turned structure by {error:.0%} of their size; use "
        "augmentation: [octahedral, translation] in a cubic cell, or architecture: pairwise"
    )


_BASELINES = {
    "force_mae_mev_per_ang": "zero_force_mae_mev_per_ang",
    "energy_mae_mev_per_atom": "composition_baseline_mae_mev_per_atom",
}
