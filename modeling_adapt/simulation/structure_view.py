"""The start and the end of a relaxation for the viewer in the page of `report.py`."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from matplotlib.colors import to_hex

from ..crystal.defect_sites import DefectSite
from ..crystal.minimum_image import shortest_images
from .relaxation import DISPLACED

NEAR = 5.0  # Å; in silicon the two shells of neighbours that a defect moves most
_RADIUS = 0.55  # of the covalent radius, so that atoms behind others are seen


def view(start: Atoms, moved: np.ndarray, distances: np.ndarray, defects: Sequence[DefectSite]) -> str:
    """
    Two canvases and the data that the script of the page draws on them.

    Args:
        start: the structure before.
        moved: (N, 3) displacements in Å.
        distances: (N,) to the nearest defect in Å.
        defects: of the start; they are put in the middle of the view, by periodic images.
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
    drawn = zip(colours, symbols, strict=True)
    legend = [f'<i style="background:{colour}"></i>{symbol}' for colour, symbol in drawn]
    legend.append(f'<i class="ring"></i>moved by more than {DISPLACED} Å ({displaced.sum()} atoms)')
    notes = ["Drag to rotate, scroll to zoom."]
    if defects:
        legend.append('<i class="site"></i>defect at the start')
        notes.append("Atoms are wrapped so that the defect is in the middle.")
    if data["far"]:
        legend.append(f'<label><input type="checkbox"> only near the defect (within {NEAR:g} Å)</label>')
    return (
        f'<div class="views">{_canvas("start")}{_canvas("end")}</div>'
        f'<p class="legend">{"".join(legend)}</p><p class="note">{" ".join(notes)}</p>'
        f'<script type="application/json">{_embedded(data)}</script>'
    )


def _canvas(name: str) -> str:
    return f'<figure><canvas tabindex="0" aria-label="{name}"></canvas><figcaption>{name}</figcaption></figure>'


def _around(atoms: Atoms, defects: Sequence[DefectSite]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    What is seen, in Å around the middle of the cell, with atoms wrapped so that the defects are there.

    Returns:
        Positions of atoms (N, 3) and of defects (D, 3), and cell vectors (3, 3), none of a cell without volume.
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
