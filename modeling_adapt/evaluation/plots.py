"""Figures of errors and of training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import NullFormatter

from ..figures import COLUMN, COUNTS, GREY, MODEL, OTHER, STYLES, Style, caption, drawn, legend_below, logarithmic

BINS = 12  # of atoms, equally wide on the axis
DENSE = 5_000  # points; beyond this a cloud of dots hides its density and hexagons are drawn


class Quantity(NamedTuple):
    """What a parity plot is of: its name, what is counted, its unit, and the unit, scale and digits of its errors."""

    name: str
    counted: str
    unit: str
    error_unit: str
    scale: float
    digits: str


FORCES = Quantity("force component", "force components", "eV/Å", "meV/Å", 1000, ".1f")
ENERGIES = Quantity("energy", "structures", "eV/atom", "meV/atom", 1000, ".2f")
STRESSES = Quantity("stress component", "stress components", "GPa", "GPa", 1, ".3f")

# What the training curve shows: name of an axis -> metric, what it is of, and how it is drawn. The second one of
# forces is measured on as many structures that were trained on.
_CURVES = {
    "force MAE (meV/Å)": (
        ("force_mae_mev_per_ang", "validation", MODEL),
        ("train_force_mae_mev_per_ang", "structures trained on", STYLES[2]),
        ("zero_force_mae_mev_per_ang", "zero forces", OTHER),
    ),
    "energy MAE (meV/atom)": (
        ("energy_mae_mev_per_atom", "validation", MODEL),
        ("composition_baseline_mae_mev_per_atom", "composition only", STYLES[3]),
    ),
    "stress MAE (GPa)": (
        ("stress_mae_gpa", "validation", MODEL),
        ("zero_stress_mae_gpa", "zero stress", STYLES[4]),
    ),
}
_STAR: dict[str, Any] = {"marker": "*", "markersize": 9, "color": "black", "linestyle": "", "zorder": 3}


def parity_plot(
    predicted: np.ndarray,
    reference: np.ndarray,
    path: str | Path,
    quantity: Quantity = FORCES,
    title: str = "",
    baseline: str = "",
) -> None:
    """
    Draws predictions against references, with the line on which they would agree, and below that their differences,
    with dotted lines at the root mean square. Above stand the number of points, MAE and RMSE.

    Args:
        predicted, reference (`np.ndarray`): In the unit of `quantity`, of equal shape.
        path (`str` or `Path`): Image file; the ending decides the format.
        quantity (`Quantity`, defaults to `FORCES`): What they are.
        title (`str`, defaults to `""`): Of which model and structures.
        baseline (`str`, defaults to `""`): A few words beside the errors, such as what predicting zero has.
    """
    predicted, reference = np.ravel(predicted).astype(float), np.ravel(reference).astype(float)
    errors = quantity.scale * (predicted - reference)
    mae, rmse = np.abs(errors).mean(), np.sqrt(np.square(errors).mean())
    limits = _limits(reference, predicted)
    with drawn(path, COLUMN, 4.5, rows=2, sharex=True, height_ratios=(2.2, 1)) as (figure, (upper, lower)):
        upper.plot(limits, limits, color=GREY, linewidth=0.7, zorder=0)
        lower.axhline(0, color=GREY, linewidth=0.7, zorder=0)
        for level in (-rmse, rmse):
            lower.axhline(level, color=GREY, linewidth=0.7, linestyle=":")
        clouds = [_cloud(upper, reference, predicted, 60), _cloud(lower, reference, errors, (60, 14))]
        if all(clouds):
            most = max(cloud.get_array().max() for cloud in clouds)
            for cloud in clouds:
                cloud.set_norm(LogNorm(1, max(2, most)))
            bar = figure.colorbar(clouds[0], ax=[upper, lower], shrink=0.6, pad=0.02, aspect=30, format="{x:,g}")
            bar.set_label(f"{quantity.counted} in a hexagon")
            bar.ax.yaxis.set_minor_formatter(NullFormatter())
            bar.outline.set_visible(False)
        upper.set(xlim=limits, ylim=limits)
        upper.set_ylabel(f"predicted ({quantity.unit})")
        lower.set_ylabel(f"difference ({quantity.error_unit})")
        lower.set_xlabel(f"reference {quantity.name} ({quantity.unit})")
        figure.align_ylabels()
        found = f"MAE {mae:{quantity.digits}}, RMSE {rmse:{quantity.digits}} {quantity.error_unit} (dotted)"
        caption(figure, title, f"n = {len(errors):,} {quantity.counted}", found, baseline)


def error_profile(
    quantity: np.ndarray,
    predicted: np.ndarray,
    reference: np.ndarray,
    path: str | Path,
    label: str,
    log_scale: bool = False,
    title: str = "",
) -> None:
    """
    Draws the mean length of the force errors, and of the forces, which is the error of zero forces, against what is
    known of the atoms. Bars reach over the middle half of the atoms; how many these are stands below.

    Args:
        quantity (`np.ndarray` of shape `(A,)`):
            What the axis called `label` shows; atoms for which it is not finite are left out.
        predicted, reference (`np.ndarray` of shape `(A, 3)`): Forces in eV/Å.
        path (`str` or `Path`): Image file.
        label (`str`): Of the axis of `quantity`, with its unit.
        log_scale (`bool`, defaults to `False`): Of that axis.
        title (`str`, defaults to `""`): Of which model and structures.
    """
    known = np.flatnonzero(np.isfinite(quantity))
    shown = np.log(quantity[known]) if log_scale else quantity[known]
    edges = np.linspace(shown.min(), shown.max() + 1e-9, BINS + 1)
    bins = np.digitize(shown, edges[1:-1])
    groups = [known[bins == number] for number in np.unique(bins)]
    places = np.array([np.mean(quantity[group]) for group in groups])
    with drawn(path, COLUMN, 3.6, rows=2, sharex=True, height_ratios=(3, 1)) as (figure, (upper, lower)):
        for values, look, name in ((predicted - reference, MODEL, "model"), (reference, OTHER, "zero forces")):
            _bars_of_halves(
                upper, places, [1000 * np.linalg.norm(values[group], axis=1) for group in groups], look, name
            )
        widths = np.exp(edges) if log_scale else edges
        lower.stairs(np.bincount(bins, minlength=BINS), widths, color=GREY, fill=True)
        upper.set_ylabel("error |ΔF| of an atom (meV/Å)")
        lower.set_ylabel("atoms")
        lower.set_xlabel(label)
        logarithmic(upper.yaxis)
        lower.set_ylim(0.5, 2 * np.bincount(bins).max())
        logarithmic(lower.yaxis, steps=(1,))
        if log_scale:
            logarithmic(lower.xaxis)
        figure.align_ylabels()
        caption(figure, title, f"n = {len(known):,} atoms: mean, and range of the middle half")
        legend_below(figure)


def training_curve(log_history: Sequence[Mapping[str, Any]], path: str | Path, chosen: int | None = None) -> None:
    """
    Draws the training loss, and the errors at every evaluation beside their trivial baselines, against the step.

    Args:
        log_history (`Sequence[Mapping[str, Any]]`):
            `trainer.state.log_history`; entries with `loss` or `eval_*`, each with its `step`.
        path (`str` or `Path`): Image file.
        chosen (`int`, *optional*): Step of the checkpoint that was taken for the best one, which is marked.
    """
    measured = {label: lines for label, lines in _CURVES.items() if _series(log_history, f"eval_{lines[0][0]}")[0]}
    height = 1.1 + 1.5 * (1 + len(measured))
    with drawn(path, COLUMN, height, rows=1 + len(measured), sharex=True) as (figure, (first, *others)):
        steps, losses = _series(log_history, "loss")
        first.plot(steps, losses, **MODEL.line() | {"marker": ""})
        first.set_ylabel("training loss")
        for axes, (label, lines) in zip(others, measured.items(), strict=True):
            for metric, name, look in lines:
                steps, errors = _series(log_history, f"eval_{metric}")
                if steps:
                    axes.plot(steps, errors, **look.line(), label=name)
                if chosen in steps and look is MODEL:
                    axes.plot(chosen, errors[steps.index(chosen)], **_STAR, label="chosen checkpoint")
            axes.set_ylabel(label)
        for axes in figure.axes:
            if axes.dataLim.ymin > 0:  # which is -inf without data
                logarithmic(axes.yaxis)
        figure.axes[-1].set_xlabel("optimiser step")
        figure.align_ylabels()
        structures = _series(log_history, "eval_num_structures")[1]
        counted = f"validation: n = {structures[-1]:,} structures" if structures else ""
        caption(figure, f"training of {Path(path).absolute().parent.name}", counted)
        legend_below(figure)


def _cloud(axes: Axes, x: np.ndarray, y: np.ndarray, cells: Any) -> Any:
    """Dots; of many of them how many there are in each hexagon, which is returned."""
    if len(x) > DENSE:
        return axes.hexbin(x, y, gridsize=cells, mincnt=1, norm=LogNorm(), cmap=COUNTS, linewidths=0.1)
    axes.scatter(x, y, s=7, color=MODEL.colour, alpha=0.6, linewidths=0)
    return None


def _bars_of_halves(axes: Axes, places: np.ndarray, groups: Sequence[np.ndarray], look: Style, name: str) -> None:
    """Means, with bars from the first to the third quartile."""
    means = np.array([group.mean() for group in groups])
    quartiles = np.array([np.percentile(group, (25, 75)) for group in groups]).T
    reach = np.maximum(0, np.stack([means - quartiles[0], quartiles[1] - means]))
    axes.errorbar(places, means, yerr=reach, **look.line(), elinewidth=0.7, label=name)


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
