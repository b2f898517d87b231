"""The neighbourhood that matscipy's many-body potentials search, without what forces do not need."""

import numpy as np
from ase import Atoms
from matscipy.neighbours import CutoffNeighbourhood, first_neighbours, triplet_list


class TripletNeighbourhood(CutoffNeighbourhood):
    """Finds triplets of atoms i, j, k without looking for the pair j, k in the list of pairs.

    Only second derivatives need that pair, and its search, a loop in Python, takes more than half of the time of an
    evaluation of forces. All else is as in the parent, to the bit.
    """

    def get_triplets(
        self,
        atoms: Atoms,
        quantities: str,
        neighbours: list[np.ndarray] | None = None,
        cutoff: float | None = None,
    ) -> list[np.ndarray]:
        """`quantities` of all triplets as the parent gives them; those with `k` come from the parent itself."""
        if "k" in quantities:
            return super().get_triplets(atoms, quantities, neighbours, cutoff)
        cutoff = self.cutoff if cutoff is None else cutoff
        i_p, _, distances, vectors = neighbours or self.get_pairs(atoms, "ijdD", cutoff)
        ij, ik = triplet_list(first_neighbours(len(atoms), i_p), distances, cutoff)
        triangles = np.stack((vectors[ij], vectors[ik], vectors[ik] - vectors[ij]), axis=1)
        sides = np.linalg.norm(triangles, axis=-1)
        return self.make_result(quantities, np.stack((ij, ik), axis=1), triangles, sides, None, "ijdD")
