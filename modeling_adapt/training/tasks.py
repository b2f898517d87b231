"""What a run learns, and how the Trainer measures it: `compute_metrics`, fed batch by batch, over physical units."""

from typing import Any

from transformers import EvalPrediction

from ..configuration_adapt import ADAPTConfig, ADAPTEnergyConfig
from ..data.structures import Target
from ..evaluation.metrics import EnergyMetrics, ForceMetrics, StressMetrics
from ..reference_energies import CompositionBaseline, compositions


def target_of(config: ADAPTConfig) -> Target:
    """The labels that a model of `config` learns."""
    if not isinstance(config, ADAPTEnergyConfig):
        return "forces"
    return "energy_and_forces" if config.traits.has_gradient and config.force_weight > 0 else "energy"


def learns_stress(config: ADAPTConfig) -> bool:
    return isinstance(config, ADAPTEnergyConfig) and config.gives_stress and config.stress_weight > 0


class ForceTask:
    """Forces; labels are (`labels`, `nearest_defect`). The best model can be chosen by one of `choices`."""

    target: Target = "forces"
    label_names = ["labels", "nearest_defect"]
    headline = "force_mae_mev_per_ang"
    choices = (headline, "force_rmse_mev_per_ang", "near_defect_mae_mev_per_ang", "force_cosine")

    def __init__(self) -> None:
        self.metrics = ForceMetrics()

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, Any]:
        labels, nearest_defect = prediction.label_ids
        self.metrics.update(prediction.predictions, labels, nearest_defect)
        if not compute_result:
            return {}
        result, self.metrics = self.metrics.compute(), ForceMetrics()
        result.pop("by_config_type")
        return result


class EnergyTask:
    """Total energies; labels are (`labels`, `atomic_numbers`)."""

    target: Target = "energy"
    label_names = ["labels", "atomic_numbers"]
    headline = "energy_mae_mev_per_atom"
    choices = (headline, "energy_rmse_mev_per_atom")

    def __init__(self, baseline: CompositionBaseline) -> None:
        self.baseline = baseline
        self.metrics = EnergyMetrics()

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, Any]:
        labels, atomic_numbers = prediction.label_ids
        # Processes that had shorter structures pad with -100; 0 is padding here.
        counts = compositions(atomic_numbers.clamp(min=0).cpu())
        baseline = self.baseline.predict(counts)
        self.metrics.update(prediction.predictions, labels, counts.sum(axis=1), baseline)
        if not compute_result:
            return {}
        result, self.metrics = self.metrics.compute(), EnergyMetrics()
        result.pop("by_config_type")
        return result


class EnergyAndForcesTask:
    """Energies and their gradient; labels are (`labels`, `atomic_numbers`, `reference_forces`, `nearest_defect`)."""

    target: Target = "energy_and_forces"
    label_names = ["labels", "atomic_numbers", "reference_forces", "nearest_defect"]
    headline = "force_mae_mev_per_ang"
    choices = ForceTask.choices + EnergyTask.choices

    def __init__(self, baseline: CompositionBaseline) -> None:
        self.energy, self.forces = EnergyTask(baseline), ForceTask()

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, Any]:
        energies, forces = prediction.predictions
        labels, atomic_numbers, reference_forces, nearest_defect = prediction.label_ids
        energy = EvalPrediction(predictions=energies, label_ids=(labels, atomic_numbers))
        force = EvalPrediction(predictions=forces, label_ids=(reference_forces, nearest_defect))
        return self.energy(energy, compute_result) | self.forces(force, compute_result)


class WithStress:
    """A task of energies, and their derivative by strain beside it, whose label `reference_stress` is the last."""

    def __init__(self, task: EnergyTask | EnergyAndForcesTask) -> None:
        self.task, self.stress = task, StressMetrics()
        self.target, self.headline = task.target, task.headline
        self.label_names = [*task.label_names, "reference_stress"]
        self.choices = (*task.choices, "stress_mae_gpa")

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, Any]:
        *predicted, stress = prediction.predictions
        *labels, reference = prediction.label_ids
        self.stress.update(stress, reference)
        inner = EvalPrediction(predictions=predicted[0] if len(predicted) == 1 else predicted, label_ids=labels)
        result = self.task(inner, compute_result)
        if not compute_result:
            return {}
        found, self.stress = self.stress, StressMetrics()
        return result | ({} if found.empty else found.compute(by_config_type=False))


Task = ForceTask | EnergyTask | EnergyAndForcesTask | WithStress
