"""Figures of errors and of training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm

from ..figures import BLUE, GREY, ORANGE, new_figure, save_figure

BINS = 12  # of atoms, equally wide on the axis
DENSE = 5_000  # points; beyond this a cloud of dots hides its density and hexagons are drawn

# What the training curve shows: metric, its trivial baseline, name of the axis, name of the baseline.
_CURVES = (
    ("force_mae_mev_per_ang", "zero_force_mae_mev_per_ang", "force MAE (meV/Å)", "zero forces"),
    ("energy_mae_mev_per_atom", "composition_baseline_mae_mev_per_atom", "energy MAE (meV/atom)", "composition only"),
)


def parity_plot(
    predicted: np.ndarray,
    reference: np.ndarray,
    path: str | Path,
    quantity: str = "force component",
    unit: str = "eV/Å",
    caption: str = "",
) -> None:
    """
    Draws predictions against references, with the line on which they would agree.

    Args:
        predicted, reference (`np.ndarray`): In `unit`, of equal shape.
        path (`str` or `Path`): Image file; the ending decides the format.
        caption (`str`, defaults to `""`): A few words in the upper left corner, such as the error.
    """
    predicted, reference = np.ravel(predicted), np.ravel(reference)
    low, high = _limits(predicted, reference)
    figure, (axes,) = new_figure(5.0, 5.0)
    if len(reference) > DENSE:
        shades = LogNorm(vmin=0.2)  # below one, so that a single prediction far off the line is still visible
        extent = (low, high, low, high)
        cells = axes.hexbin(
            reference, predicted, gridsize=90, mincnt=1, norm=shades, cmap="Blues", extent=extent, linewidths=0.1
        )
        bar = figure.colorbar(cells, ax=axes, shrink=0.8, pad=0.02)
        bar.set_label("count")
        bar.outline.set_visible(False)
    else:
        axes.scatter(reference, predicted, s=8, color=BLUE, alpha=0.5, linewidths=0)
    axes.plot([low, high], [low, high], color=GREY, linewidth=0.8, zorder=0)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel(f"reference {quantity} ({unit})")
    axes.set_ylabel(f"predicted {quantity} ({unit})")
    axes.text(0.04, 0.96, caption, transform=axes.transAxes, va="top", linespacing=1.5)
    save_figure(figure, path)


def error_profile(
    quantity: np.ndarray,
    predicted: np.ndarray,
    reference: np.ndarray,
    path: str | Path,
    label: str,
    logarithmic: bool = False,
) -> None:
    """
    Draws the mean length of the force errors, and of the forces, which is the error of zero forces, against what is
    known of the atoms.

    Args:
        quantity (`np.ndarray` of shape `(A,)`):
            What the axis called `label` shows; atoms for which it is not finite are left out.
        predicted, reference (`np.ndarray` of shape `(A, 3)`): Forces in eV/Å.
        path (`str` or `Path`): Image file.
    """
    known = np.flatnonzero(np.isfinite(quantity))
    shown = np.log(quantity[known]) if logarithmic else quantity[known]
    bins = np.digitize(shown, np.linspace(shown.min(), shown.max(), BINS + 1)[1:-1])
    groups = [known[bins == number] for number in np.unique(bins)]
    places = [float(np.mean(quantity[group])) for group in groups]
    figure, (axes,) = new_figure(6.0, 4.0)
    for values, color, style, name in (
        (predicted - reference, BLUE, "-", "model"),
        (reference, ORANGE, "--", "zero forces"),
    ):
        sizes = 1000 * np.linalg.norm(values, axis=1)
        means = [float(sizes[group].mean()) for group in groups]
        axes.plot(places, means, color=color, linestyle=style, linewidth=1.2, marker="o", markersize=3, label=name)
    axes.set_yscale("log")
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("mean |ΔF| of an atom (meV/Å)")
    axes.legend(frameon=False)
    save_figure(figure, path)


def training_curve(log_history: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """
    Draws the training loss, and the error at every evaluation beside its trivial baseline, against the step.

    Args:
        log_history (`Sequence[Mapping[str, Any]]`):
            `trainer.state.log_history`; entries with `loss` or `eval_*`, each with its `step`.
        path (`str` or `Path`): Image file.
    """
    figure, (upper, lower) = new_figure(6.0, 5.0, rows=2)

    steps, losses = _series(log_history, "loss")
    upper.plot(steps, losses, color=BLUE, linewidth=1.2)
    upper.set_ylabel("training loss")
    if len(losses) and min(losses) > 0:
        upper.set_yscale("log")

    for metric, baseline, label, baseline_label in _CURVES:
        steps, errors = _series(log_history, f"eval_{metric}")
        if not steps:
            continue
        lower.plot(steps, errors, color=BLUE, linewidth=1.2, marker="o", markersize=3, label="model")
        _, trivial = _series(log_history, f"eval_{baseline}")
        if trivial:
            lower.axhline(trivial[-1], color=ORANGE, linewidth=1.2, linestyle="--", label=baseline_label)
        lower.set_ylabel(label)
        lower.set_ylim(bottom=0)
        lower.legend(frameon=False)
        break
    lower.set_xlabel("optimiser step")
    save_figure(figure, path)


def _series(log_history: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Steps and values; of several at a step the first, as the last ones are of the final model."""
    values: dict[int, float] = {}
    for entry in log_history:
        if key in entry:
            values.setdefault(entry["step"], entry[key])
    return list(values), list(values.values())


def _limits(*arrays: np.ndarray) -> tuple[float, float]:
    low, high = min(array.min() for array in arrays), max(array.max() for array in arrays)
    margin = 0.05 * (high - low) or 0.05
    return float(low - margin), float(high + margin)
