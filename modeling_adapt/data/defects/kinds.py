"""What a silicon supercell may hold: point defects, pairs and clusters of them, or a strained cell or a surface."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from ase import Atoms
from ase.build import bulk

from ...crystal.minimum_image import shortest_images
from .distortion import too_close
from .point_defects import POINT_DEFECTS, SELF_INTERSTITIALS, Defect, Workpiece
from .surfaces import strained_crystal, surface

SILICON_LATTICE_CONSTANT = 5.429  # Å; zero stress of the Erhart-Albe potential, which labels the generated data
_BONDED = (2.0, 3.0)  # Å; from one lattice site to its neighbours
_CLOSE = (2.0, 4.6)  # Å; to the first three shells of neighbours
_ATTEMPTS = 100  # at a complex whose atoms are not too close; a few suffice

StructureKind = Callable[[Atoms, np.random.Generator], Defect]


def silicon_supercell(lattice_constant: float = SILICON_LATTICE_CONSTANT, repeat: int = 3) -> Atoms:
    """Perfect diamond-cubic silicon, 8 `repeat`^3 atoms; 216 by default."""
    return bulk("Si", "diamond", a=lattice_constant, cubic=True) * repeat


def perfect_crystal(kind: str, host: Atoms, rng: np.random.Generator) -> Defect:
    """The host as it is; what becomes of it is up to the distortion."""
    return Defect(host.copy(), kind)


def point_defect(kind: str, host: Atoms, rng: np.random.Generator) -> Defect:
    """One of `POINT_DEFECTS` at a random site."""
    piece = Workpiece(host)
    POINT_DEFECTS[kind](piece, int(rng.integers(len(host))), rng)
    return piece.finished(kind)


def defect_complex(
    kind: str, members: Sequence[Sequence[str]], within: tuple[float, float], host: Atoms, rng: np.random.Generator
) -> Defect:
    """Several of `POINT_DEFECTS`, each at a lattice site at a random distance from the one before.

    Args:
        members: for each defect those to choose from.
        within: least and largest distance in Å.
    """
    for _ in range(_ATTEMPTS):
        piece = Workpiece(host)
        taken: list[int] = []
        for choices in members:
            index = _site_at_distance(host, taken, within, rng) if taken else int(rng.integers(len(host)))
            POINT_DEFECTS[choices[int(rng.integers(len(choices)))]](piece, index, rng)
            taken.append(index)
        defect = piece.finished(kind)
        if not too_close(defect.atoms):
            break
    return defect  # whatever is still too close by now is too close everywhere, which the distortion reports


def random_pair(kind: str, host: Atoms, rng: np.random.Generator) -> Defect:
    """Two random point defects at a random distance up to half the cell.

    A vacancy and an interstitial are no such pair: they would annihilate.
    """
    names = list(POINT_DEFECTS)
    first = names[rng.integers(len(names))]
    partners = [name for name in names if not _annihilate(first, name)]
    return defect_complex(kind, ((first,), partners), (_CLOSE[0], host.cell.lengths().min() / 2), host, rng)


def _annihilate(*names: str) -> bool:
    return "vacancy" in names and any("interstitial" in name for name in names)


def _site_at_distance(host: Atoms, taken: Sequence[int], within: tuple[float, float], rng: np.random.Generator) -> int:
    """A random lattice site in the shell nearest to a random distance from the last one taken."""
    vectors = shortest_images(host.positions - host.positions[taken[-1]], host.cell.array, host.pbc)
    distances = np.linalg.norm(vectors, axis=1)
    distances[list(taken)] = np.inf
    off = np.abs(distances - rng.uniform(*within))
    return int(rng.choice(np.flatnonzero(off < off.min() + 0.01)))


_VACANCY, _SUBSTITUTION, _INTERSTITIAL = ("vacancy",), ("carbon_substitutional",), ("carbon_interstitial",)
_COMPLEXES: dict[str, tuple[tuple[tuple[str, ...], ...], tuple[float, float]]] = {
    "divacancy": ((_VACANCY, _VACANCY), _BONDED),
    "carbon_pair_substitutional": ((_SUBSTITUTION, _SUBSTITUTION), _CLOSE),
    "carbon_pair_interstitial": ((_SUBSTITUTION, _INTERSTITIAL), _CLOSE),
    "carbon_vacancy": ((_SUBSTITUTION, _VACANCY), _CLOSE),
    "di_interstitial": ((SELF_INTERSTITIALS,) * 2, _CLOSE),
    "tri_interstitial": ((SELF_INTERSTITIALS,) * 3, _CLOSE),
}
DEFECT_KINDS: dict[str, StructureKind] = {
    **{kind: partial(point_defect, kind) for kind in POINT_DEFECTS},
    **{kind: partial(defect_complex, kind, *recipe) for kind, recipe in _COMPLEXES.items()},
    "pair_random": partial(random_pair, "pair_random"),
}
# Structures without a point defect: what a model of defects should get right all the same.
STRUCTURE_KINDS: dict[str, StructureKind] = {
    **DEFECT_KINDS,
    "bulk": partial(perfect_crystal, "bulk"),
    "bulk_strained": strained_crystal,
    "bulk_thermal": partial(perfect_crystal, "bulk_thermal"),
    "surface": surface,
}
THERMAL_KINDS = ("bulk_thermal",)  # always molecular dynamics, never a relaxation
