"""
What keeps atoms apart that come nearer than the data show: the screened repulsion of their nuclei.

Between 1 and 1000 eV it is that of two neutral atoms, whatever is around them, and known: the universal potential of
Ziegler, Biersack and Littmark (The Stopping and Range of Ions in Solids, Pergamon 1985), within about a tenth for
most pairs. A network has seen no such pair, and what it says of one is arbitrary, often attraction.

Bonds are left to the network: a switch, twice continuously differentiable, takes the potential to zero below them, at
a share of the sum of the covalent radii (Cordero et al., as in `elements_adapt.py`). What learns with it learns what
is missing; into a network that learned without it, and met no pair nearer than that, it may be put afterwards.
"""

import torch
from torch import nn

from .configuration_adapt import ADAPTEnergyConfig
from .elements_adapt import DESCRIPTOR_NAMES, DESCRIPTORS
from .embeddings_adapt import ADAPTConstant, float32_or_better
from .neighbours_adapt import SAME_PLACE

COULOMB = 14.399645  # e² / (4π ε0) in eV Å
SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
SCREENING_LENGTH = 0.46850  # Å
SCREENING_POWER = 0.23
FULL = 0.85  # of the distance where the switch ends: from there inwards the potential is whole


class ADAPTRepulsion(nn.Module):
    """Half of the repulsion of each pair for each of its atoms, in float32 or better."""

    def __init__(self, config: ADAPTEnergyConfig):
        super().__init__()
        self.share, self.cutoff = float(config.short_range_repulsion), float(config.pairwise_cutoff)
        self.radii = ADAPTConstant((DESCRIPTORS[:, DESCRIPTOR_NAMES.index("covalent_radius_pm")] / 100).tolist())

    def forward(
        self,
        positions: torch.Tensor,
        cell: torch.Tensor | None,
        atomic_numbers: torch.Tensor,
        neighbours: torch.Tensor,
        neighbour_shifts: torch.Tensor,
    ) -> torch.Tensor:
        """Energies (B, N) in eV; 0 on padding. See [`ADAPTModel.forward`] for the shapes."""
        positions = float32_or_better(positions)
        radii = nn.functional.embedding(atomic_numbers, self.radii(positions.dtype)[:, None])
        own = torch.cat([positions, radii, atomic_numbers[..., None].to(positions.dtype)], dim=-1)[:, :, None]
        rows = neighbours.clamp(min=0).flatten(1)[..., None].expand(-1, -1, own.shape[-1])
        other = own[:, :, 0].gather(1, rows).view(*neighbours.shape, -1)
        displacements = (other - own)[..., :3]
        if cell is not None:  # sums, not products of matrices, which may be rounded to TF32
            shifts = neighbour_shifts.to(positions.dtype)[..., None]
            displacements = displacements + (shifts * cell.to(positions.dtype)[:, None, None]).sum(dim=-2)
        squares = displacements.square().sum(dim=-1)
        ends = (self.share * (own + other)[..., 3]).clamp(min=SAME_PLACE, max=self.cutoff)
        near = (neighbours >= 0) & (squares < ends**2) & (squares > SAME_PLACE**2)
        distances = torch.where(near, squares, ends**2).sqrt()
        pairs = screened(distances, own[..., 4], other[..., 4]) * switched(distances / ends)
        return (pairs * near).sum(dim=-1) / 2


def screened(distances: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The potential of Ziegler, Biersack and Littmark in eV of nuclei at `distances` in Å."""
    x = distances * (first**SCREENING_POWER + second**SCREENING_POWER) / SCREENING_LENGTH
    screening = sum(share * torch.exp(-rate * x) for share, rate in SCREENING)
    return COULOMB * first * second / distances * screening


def switched(x: torch.Tensor) -> torch.Tensor:
    """From 1 up to `FULL` to 0 from 1 on, with two continuous derivatives."""
    x = ((1 - x) / (1 - FULL)).clamp(0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


__all__ = ["ADAPTRepulsion", "screened", "switched"]
