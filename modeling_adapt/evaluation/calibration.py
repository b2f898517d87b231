"""Whether the spread of a prediction tells its error: see `simulation/prediction.py` for where the spread is from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from scipy.stats import spearmanr
from tqdm import tqdm
from transformers import PreTrainedModel

from ..data.columns import describe_row
from ..data.load.batching import StructureDataset
from ..data.structures import atoms_from_row
from ..errors import InputError
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..figures import COLUMN, GREY, MODEL, caption, drawn, logarithmic
from ..simulation.prediction import predict
from .evaluate import Evaluation
from .metrics import ForceMetrics

BINS = 12


@dataclass(frozen=True)
class Calibration:
    """
    Args:
        evaluation ([`Evaluation`]): Errors of the mean forces.
        spread, error (`np.ndarray` of shape `(A,)`):
            Of each atom in eV/Å: the spread of the members, and how far their mean is from the truth.
    """

    evaluation: Evaluation
    spread: np.ndarray
    error: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Rank correlation of spread and error, and their root mean squares in meV/Å."""
        return {
            "spread_error_spearman": float(spearmanr(self.spread, self.error).statistic),
            "spread_rms_mev_per_ang": 1000 * float(np.sqrt(np.mean(np.square(self.spread)))),
            "error_rms_mev_per_ang": 1000 * float(np.sqrt(np.mean(np.square(self.error)))),
        }

    def summary(self) -> str:
        """The same as a line to print."""
        found = self.metrics()
        return (
            f"spread of the forces on an atom: {found['spread_rms_mev_per_ang']:.1f} meV/Å, error of their mean "
            f"{found['error_rms_mev_per_ang']:.1f} meV/Å (root mean squares), rank correlation "
            f"{found['spread_error_spearman']:.2f}"
        )


def calibrate(
    models: Sequence[PreTrainedModel],
    feature_extractor: ADAPTFeatureExtractor,
    rows: datasets.Dataset,
    num_images: int = 1,
    progress: bool = True,
) -> Calibration:
    """Mean forces and spread of `models` over `num_images` symmetry images, on every row; see [`predict`].

    Raises:
        [`InputError`]: A prediction is not finite; the message names the row.
    """
    metrics, structures = ForceMetrics(), StructureDataset(rows)
    predicted, reference, spread, nearest_defect = [], [], [], []
    for index in tqdm(range(len(rows)), desc="predicting", disable=None if progress else True, leave=False):
        row, item = rows[index], structures[index]
        prediction = predict(models, feature_extractor, atoms_from_row(row), num_images)
        if prediction.forces_std is None:
            raise ValueError("one model and one image have no spread")
        if not np.isfinite(prediction.forces).all():
            raise InputError(f"{describe_row(index, row['source'])}: the models predict forces that are not finite")
        near, labels = item["nearest_defect"][None], item["forces"][None]
        kind, numbers = [row["config_type"]], item["atomic_numbers"][None]
        metrics.update(prediction.forces[None], labels, near, kind, numbers)
        nearest_defect.append(item["nearest_defect"])
        predicted.append(prediction.forces)
        reference.append(item["forces"])
        spread.append(prediction.forces_std)
    mean, truth = np.concatenate(predicted), np.concatenate(reference)
    evaluation = Evaluation(metrics.compute(), mean.ravel(), truth.ravel(), np.concatenate(nearest_defect))
    return Calibration(evaluation, np.concatenate(spread), np.linalg.norm(mean - truth, axis=1))


def calibration_plot(calibration: Calibration, path: str | Path, title: str = "") -> None:
    """
    RMS error of atoms of similar spread against their RMS spread, with bars of two standard errors; on the line, the
    spread is the error.

    Args:
        calibration ([`Calibration`]): What is drawn.
        path (`str` or `Path`): Image file.
        title (`str`, defaults to `""`): Of which models and structures.
    """
    order = np.argsort(calibration.spread)
    groups = np.array_split(order, min(BINS, len(order)))
    spread, error = (
        1000 * np.array([np.sqrt(np.mean(np.square(values[group]))) for group in groups])
        for values in (calibration.spread, calibration.error)
    )
    # Of a root mean square: that of the mean square, divided by twice the root.
    squares = [np.square(1000 * calibration.error[group]) for group in groups]
    deviation = np.array([one.std() / np.sqrt(len(one)) for one in squares]) / (2 * np.maximum(error, 1e-9))
    both = np.concatenate([spread, error])
    limits = (max(both.min(), 1e-3) / 1.5, both.max() * 1.5)
    with drawn(path, COLUMN, 3.3) as (figure, (axes,)):
        axes.plot(limits, limits, color=GREY, linewidth=0.7, zorder=0)
        axes.errorbar(spread, error, yerr=2 * deviation, **MODEL.line())
        axes.set(xlim=limits, ylim=limits, aspect="equal")
        axes.set_xlabel("spread of the forces on an atom, RMS (meV/Å)")
        axes.set_ylabel("error of their mean, RMS (meV/Å)")
        logarithmic(axes.xaxis)
        logarithmic(axes.yaxis)
        counts = sorted({len(group) for group in groups})
        each = " or ".join(f"{count:,}" for count in counts)
        caption(figure, title, f"n = {len(order):,} atoms, {each} in a point", "bars: two standard errors")
