"""What several experiments share: columns and sentences, and the two kinds of figures that they need."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from modeling_adapt.evaluation.metrics import SHELLS
from modeling_adapt.figures import BLUE, GREY, ORANGE, new_figure, save_figure

from .experiment import Row

DATA, MAE, SHARE, NEAR, FAR = "data", "force MAE (meV/Å)", "of zero force", "near the defect", "far from it"
CHANCE = 0.11  # by which errors differ between trainings that differ in nothing that matters (see `descriptors.py`)
HOPELESS = 0.9  # of the error of predicting zero; above it a model has learned next to nothing
ERRORS = {MAE: ".1f", SHARE: ".0%", NEAR: ".1f"}
COLOURS = (BLUE, ORANGE, GREY, "#3a8f5c", "#8d5aa6", "#b8493f")
Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name -> values along x and y


def grouped(rows: Sequence[Row], *headings: str) -> dict[tuple[str, ...], list[Row]]:
    """Rows that have the same cells under these headings, in the order of the table."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[heading] for heading in headings), []).append(row)
    return groups


def force_cells(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The columns `ERRORS` of a table, from the metrics of a data set or of one of its groups."""
    error = metrics["force_mae_mev_per_ang"]
    zero = metrics["zero_force_mae_mev_per_ang"]
    return {MAE: error, SHARE: error / zero if zero else None, NEAR: metrics.get("near_defect_mae_mev_per_ang")}


def far_error(metrics: Mapping[str, Any]) -> float | None:
    """Force MAE in meV/Å of the atoms in the outermost shell around the defects."""
    shell = metrics.get("by_defect_distance", {}).get(list(SHELLS)[-1])
    return None if shell is None else shell["force_mae_mev_per_ang"]


def change(before: float | None, after: float | None) -> str:
    """`after` against `before`, as in "+12 %"."""
    return "?" if not before or after is None else f"{100 * (after / before - 1):+.0f} %"


def number(value: float | None, style: str = ".1f") -> str:
    """As in a table, where there may be none."""
    return "-" if value is None else format(value, style)


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """p of the power law y = c x^p that fits best on a doubly logarithmic scale."""
    return float(np.polyfit(np.log(np.array(x, dtype=float)), np.log(np.array(y, dtype=float)), 1)[0])


def curves(
    panels: Mapping[str, Series],
    path: Path,
    x: str,
    logarithmic: bool = True,
    levels: tuple[str, Sequence[float]] | None = None,
    floor: float | None = 0.0,
) -> None:
    """
    Lines with points, in one panel below the other; a name has the same colour in all of them.

    Args:
        panels (`Mapping[str, Series]`): What stands along y, with the unit -> its lines.
        path (`Path`): Image file.
        x (`str`): What stands along x, with the unit.
        logarithmic (`bool`, defaults to `True`): On both axes.
        levels (`tuple[str, Sequence[float]]`, *optional*):
            Name of a horizontal line to hold the curves against, and its value in each panel.
        floor (`float`, *optional*, defaults to `0.0`):
            Where a linear axis along y begins; None: below the lowest value.
    """
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    figure, axes = new_figure(6.0, 1.0 + 3.0 * len(panels), rows=len(panels))
    for number, (one, (y, series)) in enumerate(zip(axes, panels.items(), strict=True)):
        for name, (along, up) in series.items():
            colour = COLOURS[names.index(name) % len(COLOURS)]
            one.plot(along, up, color=colour, linewidth=1.2, marker="o", markersize=4, label=name)
        if levels is not None:
            one.axhline(levels[1][number], color=GREY, linewidth=0.8, linestyle="--", label=levels[0])
        if logarithmic:
            one.set(xscale="log", yscale="log")
            _plain_numbers(one.xaxis)
            _plain_numbers(one.yaxis)
        elif floor is not None:
            one.set_ylim(bottom=floor)
        one.set_ylabel(y)
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel(x)
    save_figure(figure, path)


def bars(groups: Mapping[str, Mapping[str, float]], path: Path, x: str) -> None:
    """
    Horizontal bars.

    Args:
        groups (`Mapping[str, Mapping[str, float]]`):
            What stands beside each group of bars -> name of each bar -> its length.
        path (`Path`): Image file.
        x (`str`): What the length is, with the unit.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    figure, (axes,) = new_figure(6.0, 1.0 + 0.3 * sum(map(len, groups.values())))
    thickness = 0.8 / len(names)
    for number, name in enumerate(names):
        places = [place for place, group in enumerate(groups.values()) if name in group]
        lengths = [group[name] for group in groups.values() if name in group]
        offset = (number - (len(names) - 1) / 2) * thickness
        colour = COLOURS[number % len(COLOURS)]
        axes.barh([place + offset for place in places], lengths, height=0.9 * thickness, color=colour, label=name)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlabel(x)
    if len(names) > 1:
        axes.legend(frameon=False)
    save_figure(figure, path)


def _plain_numbers(axis: Axis) -> None:
    """On a logarithmic axis, 200 instead of 2 x 10^2, and no more of them than have room."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else MaxNLocator(5))
    axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_minor_formatter(NullFormatter())
