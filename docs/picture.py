"""
Draws docs/images/relaxation.png from what `relax.py` wrote: where the atoms went, and how energy and forces followed.

    python relax.py examples/silicon/vacancy.vasp --output silicon
    python docs/picture.py silicon/vacancy.traj.extxyz
"""

import sys
from pathlib import Path

import ase.io
import numpy as np
from ase.visualize.plot import Matplotlib

from modeling_adapt.crystal.minimum_image import displacements
from modeling_adapt.figures import COUNTS, MODEL, OTHER, PAGE, caption, drawn, logarithmic

PICTURE = Path(__file__).parent / "images" / "relaxation.png"
EXAGGERATED = 5.0


def main(trajectory: str) -> None:
    frames = ase.io.read(trajectory, ":")
    start = frames[0]
    moved = displacements(start, frames[-1])
    lengths = np.linalg.norm(moved, axis=1)
    with drawn(PICTURE, PAGE, 2.6, columns=3) as (figure, (structure, energy, force)):
        colours = COUNTS(lengths / lengths.max())
        picture = Matplotlib(start, structure, rotation="-80x,-12y,2z", radii=0.42, colors=colours[:, :3])
        picture.write()
        ends = start.positions + EXAGGERATED * moved
        places = [picture.to_image_plane_positions(one)[:, :2] for one in (start.positions, ends)]
        for begin, end, length in zip(*places, lengths, strict=True):
            if length > 0.5 * lengths.max():
                structure.annotate("", end, begin, arrowprops={"arrowstyle": "-|>", "mutation_scale": 7}, zorder=5)
        structure.set_axis_off()
        structure.set_title(f"{start.get_chemical_formula()}: arrows {EXAGGERATED:g} times the way")

        energies = np.array([frame.get_potential_energy() for frame in frames])
        energy.plot(energies - energies[0], color=MODEL.colour)
        energy.set(xlabel="step", ylabel="energy above the start (eV)")
        force.plot([np.linalg.norm(frame.get_forces(), axis=1).max() for frame in frames], color=OTHER.colour)
        force.set(xlabel="step", ylabel="largest force (eV/Å)", yscale="log")
        logarithmic(force.yaxis)
        caption(figure, f"darker atoms moved farther, at most {lengths.max():.2f} Å")


if __name__ == "__main__":
    main(sys.argv[1])
