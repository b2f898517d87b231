"""What the page of `report.py` shows of a relaxation: small charts, and the start and the end for its viewer.

Charts are inline SVG: a tenth of what matplotlib writes, in the colours of the page around them.
"""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from matplotlib.colors import to_hex
from matplotlib.ticker import MaxNLocator

from ..crystal.defect_sites import DefectSite
from ..crystal.minimum_image import shortest_images
from .relaxation import DISPLACED

NEAR = 5.0  # Å; in silicon the two shells of neighbours that a defect moves most
_RADIUS = 0.55  # of the covalent radius, so that atoms behind others are seen

_WIDTH, _HEIGHT = 340, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 10, 42
_SMALLEST = 1e-4  # the least that a logarithmic axis shows; forces that are zero by symmetry are 1e-16


def chart(
    x: np.ndarray,
    y: np.ndarray,
    x_label: str,
    y_label: str,
    *,
    line: bool = True,
    logarithmic: bool = False,
    threshold: float | None = None,
) -> str:
    """
    One quantity against another.

    Args:
        x, y (`np.ndarray` of shape `(N,)`): What is not finite is left out.
        line (`bool`, defaults to `True`):
            `x` are steps, joined by a line with a dot at the last one; else dots, which differ above `threshold`.
        logarithmic (`bool`, defaults to `False`): Along y.
        threshold (`float`, *optional*): `y` of a dashed line.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if not len(x):
        return f'<p class="note">{escape(y_label)}: no finite values</p>'
    levels = np.array([] if threshold is None else [threshold])
    above = y > threshold if threshold is not None else np.zeros(len(y), dtype=bool)
    if logarithmic:
        y, levels = np.log10(np.maximum(y, _SMALLEST)), np.log10(np.maximum(levels, _SMALLEST))
    x_limits = min(0.0, float(x.min())), float(x.max()) or 1.0
    y_limits = _limits(np.append(y, levels))
    across = _LEFT + (x - x_limits[0]) / (x_limits[1] - x_limits[0]) * (_WIDTH - _LEFT - _RIGHT)
    up = _up(y, y_limits)
    points = [f"{one:.1f} {other:.1f}" for one, other in zip(across, up, strict=True)]
    if line:
        drawn = f'<path class="line" d="M{" ".join(points)}"/><path class="dots" d="M{points[-1]}h0"/>'
    else:
        drawn = _dots(points, ~above, "dots") + _dots(points, above, "dots moved")
    return "".join(
        [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(f"{y_label} against {x_label}")}">',
            *(_x_tick(tick, x_limits) for tick in _ticks(*x_limits, whole=line)),
            *(_y_tick(label, height) for label, height in _y_ticks(y_limits, logarithmic)),
            *(_level(height, threshold) for height in _up(levels, y_limits)),
            f'<path class="axes" d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>',
            drawn,
            f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}">{escape(x_label)}</text>',
            f'<text transform="translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)">{escape(y_label)}</text>',
            "</svg>",
        ]
    )


def _dots(points: list[str], chosen: np.ndarray, style: str) -> str:
    """Lines of no length with round ends, which take less text than circles."""
    marks = "".join(f"M{point}h0" for point, one in zip(points, chosen, strict=True) if one)
    return f'<path class="{style}" d="{marks}"/>' if marks else ""


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def _up(y: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return _HEIGHT - _BOTTOM - (y - limits[0]) / (limits[1] - limits[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10], integer=whole).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


def _y_ticks(limits: tuple[float, float], logarithmic: bool) -> list[tuple[str, float]]:
    """Labels and heights; of a logarithmic axis at 1, 2 and 5 of each decade as long as these are few."""
    if not logarithmic:
        ticks = _ticks(*limits)
        return list(zip(map(_label, ticks), _up(np.array(ticks), limits), strict=True))
    decades = range(int(np.floor(limits[0])), int(np.ceil(limits[1])) + 1)
    values = [step * 10.0**decade for decade in decades for step in ((1, 2, 5) if len(decades) < 4 else (1,))]
    shown = [value for value in values if limits[0] <= np.log10(value) <= limits[1]]
    return list(zip(map(_label, shown), _up(np.log10(shown), limits), strict=True))


def _label(value: float) -> str:
    return f"{round(value, 10) + 0.0:g}".replace("-", "−")


def _x_tick(value: float, limits: tuple[float, float]) -> str:
    x, foot = _LEFT + (value - limits[0]) / (limits[1] - limits[0]) * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM
    return f'<path class="axes" d="M{x:.1f} {foot}v4"/><text x="{x:.1f}" y="{foot + 16}">{_label(value)}</text>'


def _y_tick(label: str, height: float) -> str:
    return (
        f'<path class="grid" d="M{_LEFT} {height:.1f}H{_WIDTH - _RIGHT}"/>'
        f'<text class="left" x="{_LEFT - 6}" y="{height + 4:.1f}">{label}</text>'
    )


def _level(height: float, value: float | None) -> str:
    """A dashed line with its value at the start, where a relaxation is still far above it."""
    return (
        f'<path class="threshold" d="M{_LEFT} {height:.1f}H{_WIDTH - _RIGHT}"/>'
        f'<text class="value" x="{_LEFT + 6}" y="{height - 4:.1f}">{_label(value or 0.0)}</text>'
    )


def view(start: Atoms, moved: np.ndarray, distances: np.ndarray, defects: Sequence[DefectSite]) -> dict[str, Any]:
    """
    What the page draws of a relaxation: the colour and symbol of each element, how many atoms moved, whether there are
    defects and atoms far from them, and as JSON what its script draws.

    Args:
        start (`Atoms`): The structure before.
        moved (`np.ndarray` of shape `(N, 3)`): Displacements in Å.
        distances (`np.ndarray` of shape `(N,)`): To the nearest defect in Å.
        defects (`Sequence[DefectSite]`): Of the start; they are put in the middle of the view, by periodic images.
    """
    positions, sites, box = _around(start, defects)
    displaced = np.linalg.norm(moved, axis=1) > DISPLACED
    symbols = sorted(set(start.symbols))
    numbers = [int(start.numbers[list(start.symbols).index(symbol)]) for symbol in symbols]
    colours = [to_hex(jmol_colors[number]) for number in numbers]
    everything = np.vstack([positions, positions + moved, _corners(box)])
    data: dict[str, Any] = {
        "elements": [
            [colour, round(_RADIUS * covalent_radii[n], 3)] for colour, n in zip(colours, numbers, strict=True)
        ],
        "kinds": [symbols.index(symbol) for symbol in start.symbols],
        "start": _rounded(positions),
        "end": _rounded(positions + moved),
        "moved": np.flatnonzero(displaced).tolist(),
        "far": np.flatnonzero(distances > NEAR).tolist(),
        "defects": _rounded(sites),
        "cell": _rounded(box),
        "extent": round(float(np.linalg.norm(everything, axis=1).max()) + 1.0, 3),
    }
    return {
        "elements": list(zip(colours, symbols, strict=True)),
        "moved": displaced.sum(),
        "has_defects": bool(defects),
        "has_far": bool(data["far"]),
        "data": _embedded(data),
    }


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


def _embedded(data: dict[str, Any]) -> str:
    """JSON that cannot end the script element that it is in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
