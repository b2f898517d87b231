"""The two kinds of figures that experiments need."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from modeling_adapt.figures import BLUE, GREY, ORANGE, new_figure, save_figure

COLOURS = (BLUE, ORANGE, GREY, "#3a8f5c", "#8d5aa6", "#b8493f")


Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name -> values along x and y


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
        panels: what stands along y, with the unit -> its lines.
        path: image file.
        x: what stands along x, with the unit.
        logarithmic: on both axes.
        levels (*optional*): name of a horizontal line to hold the curves against, and its value in each panel.
        floor (*optional*): where a linear axis along y begins; None: below the lowest value.
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
        groups: what stands beside each group of bars -> name of each bar -> its length.
        path: image file.
        x: what the length is, with the unit.
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
