"""What pages show of a relaxation, that of `report.py` and the Space: small charts, and structures for a viewer.

Templates draw charts as inline SVG: a tenth of what matplotlib writes, in the colours of the page around them.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.data.colors import jmol_colors
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.colors import to_hex
from matplotlib.ticker import MaxNLocator

from ..crystal.defect_sites import DefectSite, find_defects
from ..crystal.minimum_image import shortest_images
from ..errors import InputError
from .relaxation import DISPLACED

TEMPLATES = Path(__file__).parents[1] / "templates"
PAGES = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

NEAR = 5.0  # Å; in silicon the two shells of neighbours that a defect moves most
_RADIUS = 0.55  # of the covalent radius, so that atoms behind others are seen

FRAME = {"width": 340, "height": 220, "left": 62, "right": 326, "top": 10, "foot": 178}  # of a chart
_SMALLEST = 1e-4  # the least that a logarithmic axis shows; forces that are zero by symmetry are 1e-16


def chart(
    x: np.ndarray,
    y: np.ndarray,
    x_label: str,
    y_label: str,
    *,
    line: bool = True,
    dotted: bool = False,
    curve: tuple[np.ndarray, np.ndarray] | None = None,
    logarithmic: bool = False,
    threshold: float | None = None,
    height: float = 0.0,
) -> dict[str, Any]:
    """
    One quantity against another, as the template draws it: where in its `FRAME` points are, and ticks with their
    labels.

    Args:
        x, y (`np.ndarray` of shape `(N,)`): What is not finite is left out.
        line (`bool`, defaults to `True`):
            Points are joined by a line with a dot at the last one; else dots, which differ above `threshold`.
        dotted (`bool`, defaults to `False`): Whether a line has a dot at each of its points.
        curve (`tuple[np.ndarray, np.ndarray]`, *optional*): Of a finer line through the points, x and y.
        logarithmic (`bool`, defaults to `False`): Along y.
        threshold (`float`, *optional*): `y` of a dashed line.
        height (`float`, defaults to `0.0`): The least that the axis of y spans.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if not len(x):
        return {"y_label": y_label, "points": []}
    levels = [] if threshold is None else [threshold]
    above = np.zeros(len(y), dtype=bool) if line or threshold is None else y > threshold
    x_limits = min(0.0, float(x.min())), float(x.max()) or 1.0
    x_ticks = _ticks(*x_limits, whole=line and not (x % 1).any())
    finer_x, finer_y = (x, y) if curve is None else curve

    def placed(values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Along the axis of y."""
        return np.log10(np.maximum(values, _SMALLEST)) if logarithmic else np.array(values)

    y_limits = _limits(np.concatenate([placed(y), placed(finer_y), placed(levels)]), height)
    y_ticks = _decades(*y_limits) if logarithmic else _ticks(*y_limits)
    points = list(zip(_across(x, x_limits), _up(placed(y), y_limits), strict=True))
    still = [point for point, moved in zip(points, above, strict=True) if not moved]
    return {
        "x_label": x_label,
        "y_label": y_label,
        "points": points,
        "line": list(zip(_across(finer_x, x_limits), _up(placed(finer_y), y_limits), strict=True)) if line else [],
        "dots": still[-1:] if line and not dotted else still,
        "moved_dots": [point for point, moved in zip(points, above, strict=True) if moved],
        "x_ticks": list(zip(_across(x_ticks, x_limits), map(_label, x_ticks), strict=True)),
        "y_ticks": list(zip(_up(placed(y_ticks), y_limits), map(_label, y_ticks), strict=True)),
        "levels": list(zip(_up(placed(levels), y_limits), map(_label, levels), strict=True)),
    }


def _limits(values: np.ndarray, height: float) -> tuple[float, float]:
    low, high = float(values.min()), max(float(values.max()), float(values.min()) + height)
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def _across(x: Sequence[float] | np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    share = (np.array(x) - limits[0]) / (limits[1] - limits[0])
    return FRAME["left"] + share * (FRAME["right"] - FRAME["left"])


def _up(y: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return FRAME["foot"] - (y - limits[0]) / (limits[1] - limits[0]) * (FRAME["foot"] - FRAME["top"])


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10], integer=whole).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


def _decades(low: float, high: float) -> list[float]:
    """Ticks of an axis from 10^`low` to 10^`high`, at 1, 2 and 5 of each decade as long as these are few."""
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    values = [step * 10.0**decade for decade in decades for step in ((1, 2, 5) if len(decades) < 4 else (1,))]
    return [value for value in values if low <= np.log10(value) <= high]


def _label(value: float) -> str:
    return f"{round(value, 10) + 0.0:g}".replace("-", "−")


class Scene(NamedTuple):
    """
    What of a relaxation is known at its start.

    Args:
        start (`Atoms`): The structure before.
        defects (`Sequence[DefectSite]`): Of the start; they are put in the middle of the view, by periodic images.
        distances (`np.ndarray` of shape `(N,)`): To the nearest defect in Å; 0 without any.
        note (`str`): What is said of the defects.
    """

    start: Atoms
    defects: Sequence[DefectSite]
    distances: np.ndarray
    note: str

    @classmethod
    def of(cls, start: Atoms) -> "Scene":
        """Finds the defects of a structure, where it has a host crystal."""
        try:
            defects = find_defects(start)
            note = "There is no defect at the start, so nothing is drawn against the distance to it."
        except InputError as error:
            defects, note = [], f"Where the defect is, is not known: {error}."
        distances = np.zeros(len(start))
        if defects:
            distances = _distances(start, defects)
            kinds = Counter(defect.kind for defect in defects)
            note = "At the start: " + ", ".join(f"{n} × {kind}" if n > 1 else kind for kind, n in kinds.items()) + "."
        return cls(start, defects, distances, note)

    def view(
        self, moved: np.ndarray, doubt: np.ndarray | None = None, saddle: np.ndarray | None = None
    ) -> dict[str, Any]:
        """
        What `viewer.js` draws of it.

        Args:
            moved (`np.ndarray` of shape `(N, 3)`): Displacements from the start in Å.
            doubt (`np.ndarray` of shape `(N,)`, *optional*): Of the atoms that have moved, see [`ADAPTCalculator`].
            saddle (`np.ndarray` of shape `(N, 3)`, *optional*): Displacements at the top of a path in Å.
        """
        positions, sites, box = _around(self.start, self.defects)
        symbols = sorted(set(self.start.symbols))
        everything = np.vstack([positions, _corners(box) if len(box) else positions + moved])
        data: dict[str, Any] = {
            "elements": [_element(symbol) for symbol in symbols],
            "kinds": [symbols.index(symbol) for symbol in self.start.symbols],
            "start": _rounded(positions),
            "end": _rounded(positions + moved),
            "moved": np.flatnonzero(np.linalg.norm(moved, axis=1) > DISPLACED).tolist(),
            "far": np.flatnonzero(self.distances > NEAR).tolist(),
            "defects": _rounded(sites),
            "cell": _rounded(box),
            "extent": round(float(np.linalg.norm(everything, axis=1).max()) + 1.0, 3),
        }
        if doubt is not None:
            data["doubt"] = np.round(doubt, 2).tolist()
        if saddle is not None:
            data["saddle"] = _rounded(positions + saddle)
        return data


def progress_charts(fmax: np.ndarray, energies: np.ndarray, threshold: float | None) -> list[dict[str, Any]]:
    """
    How a relaxation went, or goes: a [`chart`] of its forces, and of its energies where there are any.

    Args:
        fmax (`np.ndarray` of shape `(S,)`): Largest force at each step in eV/Å.
        energies (`np.ndarray` of shape `(S,)`): In eV; NaN where there are none.
        threshold (`float`, *optional*): Below which it has converged, in eV/Å.
    """
    steps = np.arange(len(fmax), dtype=float)
    charts = [chart(steps, fmax, "step", "fmax (eV/Å)", logarithmic=True, threshold=threshold)]
    if np.isfinite(energies).any():
        charts.append(chart(steps, energies - energies[0], "step", "energy − start (eV)"))
    return charts


def charts_html(charts: Sequence[Mapping[str, Any]]) -> str:
    """Charts in a page that has `drawings.css`."""
    macros: Any = PAGES.get_template("drawings.html.jinja").make_module({"frame": FRAME})
    return f'<div class="charts">{"".join(f"<figure>{macros.drawn(one)}</figure>" for one in charts)}</div>'


def views_html(shown: Sequence[str] = ("start", "end")) -> str:
    """
    Views of [`Scene`] in a page that has `drawings.css` and `viewer.js`, to be filled by this: near the defect, atoms
    coloured by their displacement, if nothing else is chosen.

    Args:
        shown (`Sequence[str]`, defaults to `("start", "end")`): Which structures.
    """
    macros: Any = PAGES.get_template("drawings.html.jinja").module
    return str(macros.views(shown, f"{NEAR:g}", DISPLACED, True))


def _distances(atoms: Atoms, defects: Sequence[DefectSite]) -> np.ndarray:
    """(N,) distance of each atom to the nearest defect in Å, by the minimum image."""
    vectors = [shortest_images(atoms.positions - site.position, atoms.cell.array, atoms.pbc) for site in defects]
    return np.linalg.norm(vectors, axis=2).min(axis=0)


def _element(symbol: str) -> tuple[str, float, float, str]:
    """Its colour, the radius of its spheres and its covalent radius in Å, and what it is called."""
    number = atomic_numbers[symbol]
    radius = float(covalent_radii[number])
    return to_hex(jmol_colors[number]), round(_RADIUS * radius, 3), round(radius, 3), symbol


def _around(atoms: Atoms, defects: Sequence[DefectSite]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    What is seen, in Å around the middle of the cell, with atoms wrapped so that the defects are there.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: Positions of atoms (N, 3) and of defects (D, 3), and cell vectors
        (3, 3), none of a cell without volume.
    """
    if atoms.cell.rank < 3:
        return atoms.positions - atoms.positions.mean(axis=0), np.empty((0, 3)), np.empty((0, 3))
    middle = np.full(3, 0.5)
    if defects:
        first = defects[0].position
        others = shortest_images(np.array([site.position for site in defects]) - first, atoms.cell.array, atoms.pbc)
        middle = atoms.cell.scaled_positions(first + others.mean(axis=0))
    sites = np.reshape([site.position for site in defects], (-1, 3))
    positions, sites = (
        _wrapped(atoms.cell.scaled_positions(one) - middle, atoms.pbc) for one in (atoms.positions, sites)
    )
    return positions @ atoms.cell.array, sites @ atoms.cell.array, atoms.cell.array


def _wrapped(scaled: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Between -1/2 and 1/2, a little less, so that a plane of atoms on the face of the cell stays one."""
    return scaled - np.floor(scaled + 0.52) * pbc


def _corners(cell: np.ndarray) -> np.ndarray:
    """(8, 3) in Å, around the origin; none without a cell."""
    halves = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return halves @ cell if len(cell) else cell


def _rounded(vectors: np.ndarray) -> list[list[float]]:
    return np.round(vectors, 3).tolist()


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element that it is in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
