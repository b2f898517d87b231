"""
Draws docs/images/relaxation.png from what `relax.py` wrote: the atoms around the vacancy, the energy and the forces.

    python relax.py examples/silicon/vacancy.vasp --output silicon
    python docs/picture.py silicon/vacancy.traj.extxyz
"""

import sys
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.visualize.plot import Matplotlib
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from modeling_adapt.crystal.defect_sites import find_defects
from modeling_adapt.crystal.minimum_image import displacements
from modeling_adapt.figures import COUNTS, MODEL, OTHER, PAGE, drawn, logarithmic

PICTURE = Path(__file__).parent / "images" / "relaxation.png"
SHOWN, BOND = 5.6, 2.8  # Å


def main(trajectory: str) -> None:
    frames = ase.io.read(trajectory, ":")
    with drawn(PICTURE, PAGE, 2.5, columns=3) as (figure, (structure, energy, force)):
        colours = draw_surroundings(frames[0], frames[-1], structure)
        figure.colorbar(colours, ax=structure, label="moved by (Å)", location="left", shrink=0.8)
        energies = np.array([frame.get_potential_energy() for frame in frames])
        energy.plot(energies - energies[0], color=MODEL.colour)
        energy.set(xlabel="step", ylabel="energy above the start (eV)")
        force.plot([np.linalg.norm(frame.get_forces(), axis=1).max() for frame in frames], color=OTHER.colour)
        force.set(xlabel="step", ylabel="largest force (eV/Å)")
        logarithmic(force.yaxis)


def draw_surroundings(start: Atoms, end: Atoms, axes) -> ScalarMappable:
    """The relaxed atoms around the vacancy, which is a ring, and the scale of their colours."""
    (site,) = find_defects(start)
    moved = np.linalg.norm(displacements(start, end), axis=1)
    centred = end.copy()
    centred.translate(end.cell.sum(axis=0) / 2 - site.position)
    centred.wrap()
    offsets = centred.positions - end.cell.sum(axis=0) / 2
    near = np.linalg.norm(offsets, axis=1) < SHOWN
    scale = ScalarMappable(Normalize(0, moved.max()), COUNTS)
    shown = Atoms(end.numbers[near], offsets[near])
    picture = Matplotlib(shown, axes, rotation="-83x,-18y", radii=0.5, colors=scale.to_rgba(moved[near])[:, :3])
    places = picture.to_image_plane_positions(np.vstack([shown.positions, np.zeros((1, 3))]))[:, :2]
    for first, second in np.argwhere(np.triu(shown.get_all_distances() < BOND, 1)):
        axes.plot(*places[[first, second]].T, color="#999999", linewidth=1.5, zorder=-1)
    picture.write()
    axes.plot(*places[-1], marker="o", markersize=11, fillstyle="none", color=OTHER.colour, linestyle="none", zorder=9)
    axes.set_axis_off()
    axes.set_title(f"{start.get_chemical_formula()}, relaxed; ring: vacancy")
    return scale


if __name__ == "__main__":
    main(sys.argv[1])
