"""
How all figures look: as wide as a column or a page of a journal, and readable in grey. What colour tells apart, a
marker and a dash, or a hatch, tell apart too; legends and captions stand outside of the axes and cover nothing.
"""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from .files import whole_file

COLUMN, PAGE = 3.4, 7.0  # inches
_LETTERS = 17  # in an inch of text

GREY = "#767b84"  # of what others are held against
COUNTS = LinearSegmentedColormap.from_list("counts", ["#b9cfe8", "#1b4f8f", "#0b1f3a"])  # darker is more, in grey too


class Style(NamedTuple):
    """How one of several lines or bars is drawn."""

    colour: str
    marker: str
    dash: Any
    hatch: str

    def line(self) -> dict[str, Any]:
        """Arguments of `Axes.plot` and `Axes.errorbar`."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash}

    def bar(self) -> dict[str, Any]:
        """Arguments of `Axes.barh`, its edges those of the hatch."""
        return {"color": self.colour, "hatch": self.hatch, "edgecolor": "white", "linewidth": 0}


STYLES = (
    Style("#3070b8", "o", "-", ""),
    Style("#e08b2d", "s", "--", "/////"),
    Style("#7f8f3a", "^", "-.", "....."),
    Style("#a23b72", "D", ":", "xxxxx"),
    Style("#58a8b8", "v", (0, (5, 1, 1, 1, 1, 1)), "\\\\\\\\\\"),
    Style("#3a3f47", "P", (0, (6, 2)), "+++++"),
)
MODEL, OTHER = STYLES[:2]

# As of no other style sheet: a `matplotlibrc` of the user changes nothing.
_LOOK = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "figure.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 3,
    "axes.linewidth": 0.7,
    "axes.ymargin": 0.08,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "errorbar.capsize": 2,
    "hatch.linewidth": 0.7,
    "savefig.dpi": 300,
}


@contextmanager
def drawn(
    path: str | Path, width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any
) -> Iterator[tuple[Figure, list[Axes]]]:
    """
    A figure in the style of all of them, which is written when the block ends, whole or not at all.

    ```python
    >>> with drawn("figure.png", COLUMN, 2.6) as (figure, (axes,)):
    ...     axes.plot([0, 1], [0, 1], **MODEL.line())
    ```

    Args:
        path (`str` or `Path`): Image file; the ending decides the format.
        width, height (`float`): In inches; `COLUMN` and `PAGE` are widths.
        rows, columns (`int`, defaults to `1`): Of axes, which come row by row.
        grid (`Any`): What else `Figure.subplots` takes, such as `sharex`.
    """
    with style.context(["default", _LOOK]):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **grid)
        yield figure, axes.ravel().tolist()
        save_figure(figure, path)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes the figure, whole or not at all."""
    FigureCanvasAgg(figure)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished)


def caption(figure: Figure, *lines: str) -> None:
    """What is shown, above all axes; lines that are wider than the figure are broken, and empty ones left out."""
    letters = int(_LETTERS * figure.get_figwidth())
    text = "\n".join(textwrap.fill(line, letters) for line in lines if line)
    figure.suptitle(text, x=0.01, horizontalalignment="left", linespacing=1.3)


def legend_below(figure: Figure) -> None:
    """One legend for all axes, below them; a name that several have stands there once."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        widest = max(map(len, handles)) + 8  # of the sample of its line
        fitting = max(1, int(1.15 * _LETTERS * figure.get_figwidth() / widest))  # its letters are smaller
        columns = min(len(handles), fitting)
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns)


def logarithmic(axis: Axis, steps: Sequence[int] = (1, 2, 5)) -> None:
    """
    Makes an axis that has all its data logarithmic, with 200 on it instead of 2 x 10^2.

    Args:
        axis (`Axis`): Of positive data.
        steps (`Sequence[int]`, defaults to `(1, 2, 5)`): What stands there of a decade, where there are few decades.
    """
    axes = axis.axes
    scale = axes.set_xscale if axis is axes.xaxis else axes.set_yscale
    scale("log")
    low, high = axis.get_view_interval()
    span = high / low
    axis.set_major_locator(LogLocator(subs=steps if span < 2e3 else (1,)) if span > 5 else MaxNLocator(4))
    axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_minor_formatter(NullFormatter())
