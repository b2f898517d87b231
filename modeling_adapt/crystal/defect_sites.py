"""Point defects of a structure: what is missing, added or replaced against its host crystal."""

from typing import NamedTuple

import numpy as np
from ase import Atoms
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

from ..errors import InputError
from .contacts import contacts
from .host_crystal import LARGEST_DEFECT_SHARE, host_of
from .minimum_image import require_cell, shortest_images

# What decides which atom belongs to which site, in units of the shortest bond of the host; see `find_defects`.
_REACH = 0.95  # from a site to its atom at most; the atoms of a relaxed split interstitial are 0.75 from theirs
_OTHER_ELEMENT = 0.4  # squared; carbon may be half a bond off its silicon site before it counts as an interstitial
_CROWD, _LARGEST_CROWD = 0.5, 0.25  # squared the latter; enough where all four neighbours of a vacancy come half-way
_DRIFT = 0.1  # Å; by more than this the atoms as a whole must be off the host's origin before it is shifted
_HOST_DEFORMATION = 0.1  # largest deformation of a given host's cell into that of the structure


class DefectSite(NamedTuple):
    """One point defect.

    Args:
        kind (`str`): `v_Si` (vacancy), `Si_i` (interstitial) or `C_Si` (substitution: carbon on a silicon site).
        position (`np.ndarray` of shape `(3,)`):
            In Å. Of a vacancy the empty host site, of a substitution or an interstitial its atom, except that two
            atoms of one element that share a site (a split interstitial) are one half-way between them.
        atoms (`tuple[int, ...]`):
            Its atoms: none for a vacancy; for a split interstitial the added one, then the one it shares with.
        host_sites (`tuple[int, ...]`):
            The sites of the host that it empties, takes or shares; none for other interstitials.
    """

    kind: str
    position: np.ndarray
    atoms: tuple[int, ...]
    host_sites: tuple[int, ...]


def find_defects(atoms: Atoms, host: Atoms | None = None) -> list[DefectSite]:
    """Vacancies, then substitutions, then interstitials of a structure.

    Atoms and host sites are paired so that the sum of squared distances (minimum image) is least. An atom and a site
    that stay alone cost as much as a pair one bond length apart, which hardly any relaxation reaches: there are as few
    defects as the structure allows. A pair of different elements costs extra, so that of carbon and silicon that share
    a silicon site carbon is the interstitial, and so does a site that other atoms crowd round, so that neighbours that
    all move half-way into a vacancy leave it vacant. A single atom that moves more than half-way leaves the vacancy
    behind it.

    Args:
        atoms (`Atoms`): The structure.
        host (`Atoms`, *optional*):
            The perfect crystal in the same cell, which may be strained by a few percent and shifted by a few tenths of
            an Å; by default [`host_of`] the structure, which takes half of the time. Frames may share one.

    Raises:
        [`InputError`]: There is no host (see [`host_of`]), or more than a quarter of its sites would be defects.
    """
    host = host_of(atoms) if host is None else _in_cell_of(atoms, host)
    bond = _shortest_bond(host)
    site_of = _paired_sites(atoms, host, bond)
    drift = _drift(atoms, host, site_of)
    if np.linalg.norm(drift) > _DRIFT:
        host.positions += drift
        site_of = _paired_sites(atoms, host, bond)
    paired = np.flatnonzero(site_of >= 0)
    occupant = np.full(len(host), -1)
    occupant[site_of[paired]] = paired

    vacant = np.flatnonzero(occupant < 0)
    replaced = paired[atoms.numbers[paired] != host.numbers[site_of[paired]]]
    added = np.flatnonzero(site_of < 0)
    count = len(vacant) + len(replaced) + len(added)
    if count > LARGEST_DEFECT_SHARE * len(host):
        raise InputError(
            f"the host does not fit: {count} defects on {len(host)} sites; give the host of this structure"
        )
    return [
        *(DefectSite(f"v_{host.symbols[site]}", host.positions[site], (), (site,)) for site in vacant.tolist()),
        *(_substitution(atoms, host, atom, site_of[atom]) for atom in replaced.tolist()),
        *(_interstitial(atoms, host, atom, occupant, _REACH * bond) for atom in added.tolist()),
    ]


def _substitution(atoms: Atoms, host: Atoms, atom: int, site: int) -> DefectSite:
    kind = f"{atoms.symbols[atom]}_{host.symbols[site]}"
    return DefectSite(kind, atoms.positions[atom].copy(), (atom,), (int(site),))


def _interstitial(atoms: Atoms, host: Atoms, atom: int, occupant: np.ndarray, reach: float) -> DefectSite:
    """The defect of an atom without a site; split where the nearest site is between it and its occupant."""
    kind = f"{atoms.symbols[atom]}_i"
    place = atoms.positions[atom].copy()
    from_sites = shortest_images(place - host.positions, atoms.cell.array, atoms.pbc)
    site = int(np.linalg.norm(from_sites, axis=1).argmin())
    partner = int(occupant[site])
    if partner < 0 or np.linalg.norm(from_sites[site]) > reach:
        return DefectSite(kind, place, (atom,), ())
    apart = shortest_images(atoms.positions[[partner]] - place, atoms.cell.array, atoms.pbc)[0]
    centre = np.linalg.norm(from_sites[site] + apart / 2)
    if centre > min(np.linalg.norm(from_sites[site]), np.linalg.norm(from_sites[site] + apart)):
        return DefectSite(kind, place, (atom,), ())
    alike = atoms.numbers[atom] == atoms.numbers[partner]
    return DefectSite(kind, place + apart / 2 if alike else place, (atom, partner), (site,))


def _in_cell_of(atoms: Atoms, host: Atoms) -> Atoms:
    """A copy of the host, strained into the cell of the structure."""
    if not (len(atoms) and len(host) > 1):
        raise InputError("the host has fewer than two atoms" if len(atoms) else "the structure has no atoms")
    for one in (atoms, host):
        require_cell(one.cell.array)
    deformation = np.linalg.solve(host.cell.complete(), atoms.cell.complete()) - np.eye(3)
    if (largest := np.abs(deformation).max()) > _HOST_DEFORMATION:
        raise InputError(
            f"the cell of the host must be deformed by {largest:.0%} to become that of the structure; "
            "give the host in the same cell"
        )
    host = host.copy()
    host.set_cell(atoms.cell, scale_atoms=True)
    return host


def _shortest_bond(host: Atoms) -> float:
    """In Å. Bonds across the boundary are not needed for it: the inside of the cell has the same."""
    return float(cKDTree(host.positions).query(host.positions, k=2)[0][:, 1].min())


def _drift(atoms: Atoms, host: Atoms, site_of: np.ndarray) -> np.ndarray:
    """(3,) typical displacement in Å of atoms from their sites: what a rigid shift of all of them is."""
    paired = site_of >= 0
    if not paired.any():
        return np.zeros(3)
    vectors = atoms.positions[paired] - host.positions[site_of[paired]]
    return np.median(shortest_images(vectors, atoms.cell.array, atoms.pbc), axis=0)


def _paired_sites(atoms: Atoms, host: Atoms, bond: float) -> np.ndarray:
    """(N,) host site of each atom, -1 for atoms without; `bond` is the shortest of the host in Å.

    The pairing of least cost. Every atom and every site may also take a stand-in of its own; the stand-ins of a pair,
    free when it is formed, take each other. That makes it a sparse assignment.
    """
    atom, site, squares = _near_pairs(atoms, host, bond)
    alone = bond**2 / 2
    other_element = _OTHER_ELEMENT * bond**2 * (atoms.numbers[atom] != host.numbers[site])
    closeness = bond**2 - squares
    crowd = np.bincount(site, closeness, len(host))[site] - closeness
    cost = squares + other_element + np.minimum(_CROWD * crowd, _LARGEST_CROWD * bond**2)

    reached = squares < (_REACH * bond) ** 2
    atom, site, cost = atom[reached], site[reached], cost[reached]
    own_atom, own_site = np.arange(len(atoms)), np.arange(len(host))
    rows = np.concatenate([atom, own_atom, len(atoms) + own_site, len(atoms) + site])
    columns = np.concatenate([site, len(host) + own_atom, own_site, len(host) + atom])
    costs = np.concatenate([cost, np.full(len(atoms) + len(host), alone), np.zeros(len(cost))])
    # A constant on every entry changes no choice, and the solver wants none of them zero.
    matched = min_weight_full_bipartite_matching(coo_array((costs + 1.0, (rows, columns))).tocsr())[1][: len(atoms)]
    return np.where(matched < len(host), matched, -1)


def _near_pairs(atoms: Atoms, host: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms, host sites and squared distances in Å^2 (pairs,) of all that are near each other; each pair once."""
    both = Atoms(positions=np.vstack([host.positions, atoms.positions]), cell=atoms.cell, pbc=atoms.pbc)
    first, second, distances = contacts(both, cutoff)
    site, other = np.minimum(first, second), np.maximum(first, second)
    mixed = (site < len(host)) & (other >= len(host))
    order = np.flatnonzero(mixed)[np.argsort(distances[mixed], kind="stable")]
    order = order[np.unique(site[order] * len(both) + other[order], return_index=True)[1]]  # the nearest image
    return other[order] - len(host), site[order], distances[order] ** 2
