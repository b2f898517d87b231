"""How all figures look. Drawn on `Figure` objects, so that no global state of pyplot changes."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .files import whole_file

BLUE, ORANGE, GREY = "#1f5fa8", "#d9822b", "#8a8f98"
RESOLUTION = 200  # dots per inch


def new_figure(width: float, height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches with `rows` axes below each other, which share what is along x."""
    figure = Figure(figsize=(width, height), dpi=RESOLUTION, layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0].tolist()
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(direction="in")
    return figure, axes


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes the figure, whole or not at all; the ending of the path decides the format."""
    FigureCanvasAgg(figure)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished)
