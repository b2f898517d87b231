"""How much each atom counts in the loss: a power law of its distance to the defect (arXiv 2509.24115)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...crystal.minimum_image import shortest_images


def defect_distances(
    positions: np.ndarray, sites: np.ndarray, cell: np.ndarray, pbc: np.ndarray, minimum_image: bool = True
) -> np.ndarray:
    """Distances in Å of atoms (N, 3) to defect sites (S, 3): (N, S) float64.

    Args:
        cell, pbc (`np.ndarray`): As for [`shortest_images`].
        minimum_image (`bool`, defaults to `True`):
            Measure to the nearest periodic image; otherwise between coordinates as they are, which is what the
            published weights do.
    """
    cells, periodic = np.asarray(cell, dtype=np.float64)[None], np.asarray(pbc, dtype=bool)[None]
    return stacked_defect_distances([positions], [sites], cells, periodic, minimum_image).T


def stacked_defect_distances(
    positions: Sequence[np.ndarray],
    sites: Sequence[np.ndarray],
    cells: np.ndarray,
    pbc: np.ndarray,
    minimum_image: bool = True,
) -> np.ndarray:
    """Distances in Å within many structures at once: (T, N) float64, a row for each of the T defect sites.

    Args:
        positions (`Sequence[np.ndarray]` of shape `(N_b, 3)`):
            In Å of each of B structures. Row t is about the structure that site t belongs to, and only its first N_b
            distances mean anything.
        sites (`Sequence[np.ndarray]` of shape `(S_b, 3)`): In Å of each structure.
        cells (`np.ndarray` of shape `(B, 3, 3)`): In Å.
        pbc (`np.ndarray` of shape `(B, 3)`): Periodic directions.
        minimum_image (`bool`, defaults to `True`): As for [`defect_distances`].
    """
    owners = np.repeat(np.arange(len(sites)), [len(own) for own in sites])
    padded = np.zeros((len(positions), 3, max(map(len, positions))))  # numpy is quickest along a long last axis
    for index, atoms in enumerate(positions):
        padded[index, :, : len(atoms)] = atoms.T
    vectors = padded[owners] - np.concatenate(sites).reshape(-1, 3, 1)
    if minimum_image and len(owners):
        _to_nearest_images(vectors, owners, cells, pbc)
    return np.sqrt(np.einsum("tin,tin->tn", vectors, vectors))


def _to_nearest_images(vectors: np.ndarray, owners: np.ndarray, cells: np.ndarray, pbc: np.ndarray) -> None:
    """Replaces vectors (T, 3, N), where row t belongs to structure `owners[t]`, by their shortest periodic images."""
    lattices = np.where(pbc[:, :, None], cells, 0.0)
    metrics = lattices @ lattices.transpose(0, 2, 1)
    squares = metrics.diagonal(axis1=1, axis2=2)
    oblique = np.abs(metrics - squares[:, None] * np.eye(3)).max(axis=(1, 2)) > 1e-8 * squares.max(axis=1)

    # Orthogonal cell vectors, all structures at once: rounding is exact there. No lattice, no change.
    lattices[oblique] = 0.0
    fractional = lattices / np.where(squares > 0, squares, 1.0)[:, :, None]
    vectors -= lattices.transpose(0, 2, 1)[owners] @ np.rint(fractional[owners] @ vectors)

    for index in np.flatnonzero(oblique):
        own = vectors[owners == index].transpose(0, 2, 1)
        if own.size:
            images = shortest_images(own.reshape(-1, 3), cells[index], pbc[index])
            vectors[owners == index] = images.reshape(own.shape).transpose(0, 2, 1)


@dataclass(frozen=True)
class ImportanceWeighting:
    """Weights 1 + min(maximum, amplitude (sum_j (d_j - offset)^-inner)^outer) over the defect sites j.

    The constants were fitted to the weights of the published sample, whose formula is not public: with distances that
    are not periodic (`minimum_image=False`) they agree within 0.8 % off the defect atoms. At a site the power law
    diverges; `maximum` bounds it, at the largest weight of the sample (9.4 to 10.9 on the defect atoms of its frames).
    """

    amplitude: float = 2.54
    offset: float = 0.21  # Å
    inner_exponent: float = 1.04
    outer_exponent: float = 1.92
    maximum: float = 9.8858
    minimum_image: bool = True

    def weights(self, distances: np.ndarray) -> np.ndarray:
        """(N, S) distances in Å -> (N,) float64 weights >= 1; all ones without sites."""
        return self._bounded(self._reach(distances).sum(axis=1)) if distances.shape[1] else np.ones(len(distances))

    def stacked_weights(self, distances: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """
        (T, N) distances of [`stacked_defect_distances`] -> (B, N) float32 weights, within 1e-6 of [`weights`]. The
        sites of structure b begin at row `starts[b]`; every structure must have one.
        """
        reach = self._reach(distances.astype(np.float32))  # whose powers take half the time
        return self._bounded(np.add.reduceat(reach, starts, axis=0))

    def _reach(self, distances: np.ndarray) -> np.ndarray:
        # The bound keeps the power finite; far above `maximum` already.
        return np.maximum(distances - self.offset, 1e-3) ** -self.inner_exponent

    def _bounded(self, reach: np.ndarray) -> np.ndarray:
        return 1.0 + np.minimum(self.amplitude * reach**self.outer_exponent, self.maximum)
