"""Evaluation during training: the accumulators of `evaluation.metrics`, fed batch by batch by the Trainer."""

from typing import Any

from transformers import EvalPrediction

from ..evaluation.metrics import CompositionBaseline, EnergyMetrics, ForceMetrics, compositions


class ForceEvaluation:
    """`compute_metrics` of the Trainer for forces; labels are (`labels`, `nearest_defect`), see `label_names`."""

    label_names = ["labels", "nearest_defect"]
    headline = "force_mae_mev_per_ang"

    def __init__(self) -> None:
        self.metrics = ForceMetrics()

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, Any]:
        labels, nearest_defect = prediction.label_ids
        self.metrics.update(prediction.predictions, labels, nearest_defect)
        return self._finish() if compute_result else {}

    def _finish(self) -> dict[str, Any]:
        result = self.metrics.compute()
        result.pop("by_config_type")
        self.metrics = ForceMetrics()
        return result


class EnergyEvaluation:
    """`compute_metrics` of the Trainer for energies; labels are (`labels`, `atomic_numbers`), see `label_names`."""

    label_names = ["labels", "atomic_numbers"]
    headline = "energy_mae_mev_per_atom"

    def __init__(self, baseline: CompositionBaseline) -> None:
        self.baseline = baseline
        self.metrics = EnergyMetrics()

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, Any]:
        energies, atomic_numbers = prediction.label_ids
        # Processes that had shorter structures pad with -100; 0 is padding here.
        counts = compositions(atomic_numbers.clamp(min=0).cpu())
        self.metrics.update(
            prediction.predictions, energies, counts.sum(axis=1), baseline=self.baseline.predict(counts)
        )
        return self._finish() if compute_result else {}

    def _finish(self) -> dict[str, Any]:
        result = self.metrics.compute()
        result.pop("by_config_type")
        self.metrics = EnergyMetrics()
        return result
