"""The picture of a card: the structure of `example.json`, and what the model says about it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.visualize.plot import Matplotlib

from ..figures import COLUMN, caption, drawn

PICTURE = "example.png"
_LONGEST = 1.6  # Å in the picture
_ARROW: dict[str, Any] = {
    "arrowstyle": "-|>",
    "color": "black",
    "linewidth": 1.0,
    "mutation_scale": 7,
    "shrinkA": 0,
    "shrinkB": 0,
}


def draw_example(example: Mapping[str, Any], path: Path) -> None:
    """
    Draws the atoms, and an arrow for each force.

    Args:
        example (`Mapping[str, Any]`): As example.json has it.
        path (`Path`): Image file.
    """
    atoms = Atoms(example["atomic_numbers"], example["positions"], cell=example["cell"], pbc=example["pbc"])
    energy = f": energy {example['energy']:.3f} eV" if "energy" in example else ""
    arrows = ""
    with drawn(path, COLUMN, 3.2) as (figure, (axes,)):
        picture = Matplotlib(atoms, axes, rotation="-75x,-20y,5z", radii=0.45)
        picture.write()
        if "forces" in example:
            forces = np.array(example["forces"])
            largest = float(np.linalg.norm(forces, axis=1).max())
            ends = atoms.positions + forces * (_LONGEST / largest if largest else 0.0)
            places = [picture.to_image_plane_positions(one)[:, :2] for one in (atoms.positions, ends)]
            for start, end in zip(*places, strict=True):
                axes.annotate("", end, start, arrowprops=_ARROW, zorder=5)
            arrows = f"arrows: forces, the longest {largest:.2f} eV/Å"
        axes.margins(0.1)
        axes.set_axis_off()
        caption(figure, f"{atoms.get_chemical_formula()}{energy}", arrows)
