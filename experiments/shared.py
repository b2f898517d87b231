"""What several experiments share: columns and sentences, and the two kinds of figures that they need."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modeling_adapt.evaluation.metrics import SHELLS
from modeling_adapt.figures import COLUMN, GREY, PAGE, STYLES, caption, drawn, legend_below, logarithmic

from .experiment import Row

DATA, MAE, SHARE, NEAR, FAR = "data", "force MAE (meV/Å)", "of zero force", "near the defect", "far from it"
CHANCE = 0.11  # by which errors differ between trainings that differ in nothing that matters (see `descriptors.py`)
HOPELESS = 0.9  # of the error of predicting zero; above it a model has learned next to nothing
ERRORS = {MAE: ".1f", SHARE: ".0%", NEAR: ".1f"}
BY_CHANCE = f"error bars: ±{CHANCE:.0%}, by which trainings differ by chance"
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
    log_scale: bool = True,
    levels: tuple[str, Sequence[float]] | None = None,
    floor: float | None = 0.0,
    by_chance: Collection[str] = (),
    said: str = "",
) -> None:
    """
    Lines with points, in one panel below the other; a name looks alike in all of them.

    Args:
        panels (`Mapping[str, Series]`): What stands along y, with the unit -> its lines.
        path (`Path`): Image file.
        x (`str`): What stands along x, with the unit.
        log_scale (`bool`, defaults to `True`): On both axes.
        levels (`tuple[str, Sequence[float]]`, *optional*):
            Name of a horizontal line to hold the curves against, and its value in each panel.
        floor (`float`, *optional*, defaults to `0.0`):
            Where a linear axis along y begins; None: below the lowest value.
        by_chance (`Collection[str]`, defaults to `()`): The panels of errors that another seed changes by `CHANCE`.
        said (`str`, defaults to `""`): Above the panels: of how many, and what the bars are.
    """
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    with drawn(path, COLUMN, 0.8 + 1.9 * len(panels), rows=len(panels), sharex=True) as (figure, axes):
        for number, (one, (y, series)) in enumerate(zip(axes, panels.items(), strict=True)):
            for name, (along, up) in series.items():
                look = STYLES[names.index(name) % len(STYLES)]
                bars = CHANCE * np.array(up) if y in by_chance else None
                one.errorbar(along, up, yerr=bars, **look.line(), elinewidth=0.7, label=name)
            if levels is not None:
                one.axhline(levels[1][number], color=GREY, linewidth=0.7, linestyle=(0, (1, 1)), label=levels[0])
            if log_scale:
                logarithmic(one.xaxis)
                logarithmic(one.yaxis)
            elif floor is not None:
                one.set_ylim(bottom=floor)
            one.set_ylabel(y)
        axes[-1].set_xlabel(x)
        figure.align_ylabels()
        caption(figure, said)
        legend_below(figure)


def bars(
    groups: Mapping[str, Mapping[str, float]],
    path: Path,
    x: str,
    digits: str = ".0f",
    uncertainty: Callable[[float], tuple[float, float]] | None = None,
    said: str = "",
) -> None:
    """
    Horizontal bars with their lengths in numbers.

    Args:
        groups (`Mapping[str, Mapping[str, float]]`):
            What stands beside each group of bars -> name of each bar -> its length.
        path (`Path`): Image file.
        x (`str`): What the length is, with the unit.
        digits (`str`, defaults to `".0f"`): How lengths are written.
        uncertainty (`Callable[[float], tuple[float, float]]`, *optional*):
            How far a length reaches below and above itself.
        said (`str`, defaults to `""`): Above the bars: of how many, and what the uncertainty is.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    height = 1.0 + 0.16 * sum(len(group) + 0.4 for group in groups.values())
    thickness = 0.8 / len(names)
    with drawn(path, PAGE, height) as (figure, (axes,)):
        for number, (name, look) in enumerate(zip(names, STYLES, strict=False)):
            places = np.array([place for place, group in enumerate(groups.values()) if name in group], dtype=float)
            places += (number - (len(names) - 1) / 2) * thickness
            lengths = np.array([group[name] for group in groups.values() if name in group])
            axes.barh(places, lengths, height=0.9 * thickness, **look.bar(), label=name if len(names) > 1 else None)
            reach = np.array([(0.0, 0.0) if uncertainty is None else uncertainty(one) for one in lengths])
            if uncertainty is not None:
                axes.errorbar(lengths, places, xerr=reach.T, color="black", linestyle="", elinewidth=0.9)
            for place, length, (_, above) in zip(places, lengths, reach, strict=True):
                where: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "size": 6.5}
                axes.annotate(format(length, digits), (length + above, place), **where)
        axes.set_yticks(range(len(groups)), list(groups))
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.08)
        axes.set_xlabel(x)
        caption(figure, said)
        legend_below(figure)


def chance(length: float) -> tuple[float, float]:
    """How far an error of a training reaches, as another seed would tell."""
    return CHANCE * length, CHANCE * length


def of_percent(count: int) -> Callable[[float], tuple[float, float]]:
    """Function from a share of `count` in % to its 95 % interval (Wilson, J. Am. Stat. Assoc. 22, 209 (1927))."""

    def reach(share: float) -> tuple[float, float]:
        z, p = 1.96, share / 100
        middle = (p + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * np.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
        return max(0.0, share - 100 * (middle - half)), max(0.0, 100 * (middle + half) - share)

    return reach
