"""
Pairwise geometry of ADAPT: attention that knows the lattice.

Atoms meet through their displacements, to all periodic images, damped by a smooth envelope, so pairs beyond
`pairwise_cutoff` have weight zero and are left out of the sums; nothing else distinguishes them. Atoms carry an
invariant hidden state and a stream of vectors. What is built from displacements transforms with them: the features of
degree l are sums over real spherical harmonics Y_l, coupled by Gaunt coefficients (products of order three per layer,
in the manner of the atomic cluster expansion, Drautz, Phys. Rev. B 99, 014104 (2019)). Forces read from the vectors
are exactly equivariant under rotation, reflection, permutation, translation and wrapping.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_adapt import ADAPTConfig

DEGREES = (0, 1, 2, 3)  # of the spherical harmonics; 1 + 3 + 5 + 7 = 16 components
WIDTHS = [2 * degree + 1 for degree in DEGREES]
PRODUCT_WIDTH = sum(WIDTHS[:3])  # degrees up to 2 enter products

# So many pairs are looked at at once in the search for near ones: memory then grows linearly with the number of atoms.
_PAIRS_AT_ONCE = 2**18
# So many atoms receive their messages at once. A chunk stays in the processor's cache, which is twice as fast.
_ATOMS_AT_ONCE = 256


def spherical_harmonics(unit: torch.Tensor) -> torch.Tensor:
    """
    Real spherical harmonics of degree 0 to 3, normalised to mean square 1 over the sphere.

    Args:
        unit (`torch.Tensor` of shape `(..., 3)`): Unit vectors.

    Returns:
        `torch.Tensor` of shape `(..., 16)`, degrees one after the other; degree 1 is sqrt(3) (x, y, z).
    """
    x, y, z = unit.unbind(-1)
    x2, y2, z2 = x * x, y * y, z * z
    root = math.sqrt
    return torch.stack(
        [
            torch.ones_like(x),
            root(3) * x,
            root(3) * y,
            root(3) * z,
            root(15) * x * y,
            root(15) * y * z,
            root(5) / 2 * (3 * z2 - 1),
            root(15) * x * z,
            root(15) / 2 * (x2 - y2),
            root(35 / 8) * y * (3 * x2 - y2),
            root(105) * x * y * z,
            root(21 / 8) * y * (5 * z2 - 1),
            root(7) / 2 * (5 * z2 - 3) * z,
            root(21 / 8) * x * (5 * z2 - 1),
            root(105) / 2 * z * (x2 - y2),
            root(35 / 8) * x * (x2 - 3 * y2),
        ],
        dim=-1,
    )


@lru_cache
def gaunt_coefficients() -> np.ndarray:
    """
    Means of Y_a Y_b Y_c over the sphere for degrees 0 to 2, (9, 9, 9): how two features couple to a third.

    Integrated by a product rule (Gauss-Legendre times uniform angles) that is exact for these polynomials.
    """
    cosines, weights = np.polynomial.legendre.leggauss(8)
    angles = 2 * np.pi * np.arange(16) / 16
    z, angle = np.meshgrid(cosines, angles, indexing="ij")
    radius = np.sqrt(1 - z**2)
    unit = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1).reshape(-1, 3)
    harmonics = spherical_harmonics(torch.from_numpy(unit)).numpy()[:, :PRODUCT_WIDTH]
    weights = np.repeat(weights, len(angles)) / (2 * len(angles))
    return np.einsum("p,pa,pb,pc->abc", weights, harmonics, harmonics, harmonics)


@dataclass
class ADAPTPairs:
    """
    The pairs of a batch whose envelope is not zero, as many slots P as the atom with the most of them has.

    Args:
        index (`torch.LongTensor` of shape `(B, N, P)`): The other atom, as row of the flattened batch (B N).
        radial (`torch.Tensor` of shape `(B, N, P, num_radial_basis)`):
            Functions of the distance times the envelope, which is 1 at distance zero and 0 at the cutoff; zero in
            empty slots.
        harmonics (`torch.Tensor` of shape `(B, N, P, 16)`): Spherical harmonics of the direction to the other atom.
    """

    index: torch.Tensor
    radial: torch.Tensor
    harmonics: torch.Tensor

    def to(self, dtype: torch.dtype) -> "ADAPTPairs":
        """The same pairs in the floating-point type of the layers that read them."""
        return ADAPTPairs(self.index, self.radial.to(dtype), self.harmonics.to(dtype))


class ADAPTPairwiseGeometry(nn.Module):
    """Displacements to all periodic images within the cutoff, in float32 or better; tokens see no coordinates."""

    num_features = 0

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        self.cutoff = float(config.pairwise_cutoff)
        self.num_radial_basis = config.num_radial_basis

    def forward(
        self, positions: torch.Tensor, cell: torch.Tensor | None, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, ADAPTPairs]:
        displacements, valid, index = self._displacements(positions, cell, attention_mask)
        distances = torch.where(valid, displacements.square().sum(-1), 1.0).sqrt()
        x = torch.where(valid, distances / self.cutoff, 1.0)
        envelope = (1 - x) ** 3 * (1 + 3 * x + 6 * x**2)  # twice continuously differentiable at the cutoff
        centres = torch.linspace(0.25, 1, self.num_radial_basis, device=x.device, dtype=x.dtype)
        sharpness = (self.num_radial_basis - 1) / 0.75
        radial = torch.exp(-0.5 * (sharpness * (x[..., None] - centres)) ** 2) * envelope[..., None]
        harmonics = spherical_harmonics(displacements / distances[..., None]) * valid[..., None]
        return positions[..., :0], ADAPTPairs(index, radial, harmonics)

    def _displacements(
        self, positions: torch.Tensor, cell: torch.Tensor | None, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Displacements (B, N, P, 3) in Å to all images within the cutoff, zero in empty slots; which slots (B, N, P)
        hold one; and of which atom (B, N, P), as row of the flattened batch.
        """
        valid, index, cell_shifts = self._images_within_cutoff(positions, cell, attention_mask)
        displacements = nn.functional.embedding(index, positions.flatten(0, 1)) - positions[:, :, None]
        if cell is not None:
            displacements = displacements + torch.einsum("bijk,bkl->bijl", cell_shifts, cell)
        return torch.where(valid[..., None], displacements, 0.0), valid, index

    @torch.no_grad()
    def _images_within_cutoff(
        self, positions: torch.Tensor, cell: torch.Tensor | None, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Which slots (B, N, P) hold an image within the cutoff, of which atom (B, N, P), and by how many lattice vectors
        (B, N, P, 3) that image is shifted.

        Cells are tiled until half of their thickness exceeds the cutoff; within it, rounding the fractional
        displacement in the tiled cell finds every image, whatever the shape of the cell. A batch tiles all its cells
        as its thinnest needs, so batches of like cells are faster. Atoms at the same place (below 0.001 Å) do not
        meet: their direction is undefined.
        """
        batch_size, num_atoms, _ = positions.shape
        if attention_mask is None:
            attention_mask = positions.new_ones(batch_size, num_atoms)
        if cell is None:
            cell = positions.new_zeros(batch_size, 3, 3)
        inverse = torch.linalg.pinv(cell)  # zero columns along directions that are not periodic
        tiles = torch.ceil(2 * self.cutoff * inverse.norm(dim=1) - 1e-6).clamp(min=1).amax(dim=0)
        shifts = torch.cartesian_prod(
            *[torch.arange(int(count), device=cell.device, dtype=cell.dtype) for count in tiles]
        ).reshape(-1, 3)
        # Along a direction that is not periodic the cell has no vector, and a shift would count the same atom again.
        is_image = ((shifts == 0) | cell.any(dim=-1)[:, None, :]).all(dim=-1)
        counts = (attention_mask.bool()[:, :, None] & is_image[:, None, :]).flatten(1)[:, None, :]
        offsets = num_atoms * torch.arange(batch_size, device=positions.device)[:, None, None]

        parts = []
        for queries in positions.split(max(1, _PAIRS_AT_ONCE // (batch_size * num_atoms * len(shifts))), dim=1):
            displacements = positions[:, None, :, :] - queries[:, :, None, :]
            fractional = torch.einsum("bijk,bkl->bijl", displacements, inverse)[..., None, :] + shifts
            cell_shifts = (shifts - tiles * torch.round(fractional / tiles)).flatten(2, 3)
            images = displacements.repeat_interleave(len(shifts), dim=2)
            squares = (images + torch.einsum("bijk,bkl->bijl", cell_shifts, cell)).square().sum(-1)
            squares = torch.where((squares < self.cutoff**2) & (squares > 1e-6) & counts, squares, torch.inf)
            slots = max(1, int(squares.isfinite().sum(dim=-1).max()))
            squares, index = squares.topk(min(slots, squares.shape[-1]), dim=-1, largest=False)
            cell_shifts = cell_shifts.gather(2, index[..., None].expand(*index.shape, 3))
            parts.append((squares.isfinite(), index // len(shifts) + offsets, cell_shifts))
        return tuple(_concatenate(part) for part in zip(*parts, strict=True))  # type: ignore[return-value]


def _concatenate(chunks: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Chunks of queries (B, n, P, ...) with different numbers of slots, as one tensor with the largest."""
    slots = max(chunk.shape[2] for chunk in chunks)
    padded = []
    for chunk in chunks:
        padding = [0, 0] * (chunk.ndim - 3) + [0, slots - chunk.shape[2]]
        padded.append(nn.functional.pad(chunk, padding))
    return torch.cat(padded, dim=1)


class ADAPTPairwiseLayer(GradientCheckpointingLayer):
    """
    Attention with a radial bias per head, whose messages are spread over the spherical harmonics, then an update of
    the invariant states and of the vectors from products of what arrived.

    The weights are sigmoids, not a softmax: their sum then tells how many atoms are near, which a mean would lose.
    """

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        hidden_size, channels = config.hidden_size, config.num_vector_channels
        self.hidden_size, self.channels = hidden_size, channels
        self.num_heads = config.num_attention_heads
        self.scaling = (hidden_size // self.num_heads) ** -0.5
        self.attention_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.kv_proj = nn.Linear(hidden_size, 2 * hidden_size)
        self.radial_bias = nn.Linear(config.num_radial_basis, self.num_heads, bias=False)
        self.radial_gate = nn.Linear(config.num_radial_basis, hidden_size, bias=False)
        self.mixing = nn.ModuleList(nn.Linear(hidden_size, 2 * channels, bias=False) for _ in DEGREES)
        self.product_norm = nn.LayerNorm(8 * channels, eps=config.layer_norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size + 8 * channels, config.intermediate_size),
            nn.SiLU(),
            nn.Dropout(config.hidden_dropout_prob),
            nn.Linear(config.intermediate_size, hidden_size + 2 * channels),
        )
        self.vector_mixing = nn.Linear(channels, channels, bias=False)

    def forward(
        self, hidden_states: torch.Tensor, vectors: torch.Tensor, pairs: ADAPTPairs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Invariant states (B, N, hidden_size) and vectors (B, N, 3, num_vector_channels), both updated."""
        normed = self.attention_norm(hidden_states)
        features = self._attend(normed, pairs)
        degrees = [mix(part) for mix, part in zip(self.mixing, features.split(WIDTHS, dim=2), strict=True)]
        left, right = zip(*[part.chunk(2, dim=-1) for part in degrees], strict=True)
        products = self._couple(torch.cat(left[:3], dim=2), torch.cat(right[:3], dim=2))
        invariants = [
            left[0].squeeze(2),
            *(_dot(left[degree], right[degree]) for degree in (1, 2, 3)),
            _dot(left[3], left[3]),
            products[0].squeeze(2),
            *(_dot(products[degree], left[degree]) for degree in (1, 2)),
        ]
        update = self.mlp(torch.cat([normed, self.product_norm(torch.cat(invariants, dim=-1))], dim=-1))
        update, gate, product_gate = update.split([self.hidden_size, self.channels, self.channels], dim=-1)
        vectors = vectors + gate[:, :, None] * left[1] + product_gate[:, :, None] * self.vector_mixing(products[1])
        return hidden_states + update, vectors

    def _attend(self, normed: torch.Tensor, pairs: ADAPTPairs) -> torch.Tensor:
        """What each atom receives from the others, (B, N, 16, hidden_size)."""
        query, other = self.q_proj(normed).flatten(0, 1), self.kv_proj(normed).flatten(0, 1)
        atoms = (query, *(part.flatten(0, 1) for part in (pairs.index, pairs.radial, pairs.harmonics)))
        chunks = zip(*(part.split(_ATOMS_AT_ONCE) for part in atoms), strict=True)
        received = [self._messages(other, *chunk) for chunk in chunks]
        return torch.cat(received).unflatten(0, normed.shape[:2])

    def _messages(
        self,
        other: torch.Tensor,
        query: torch.Tensor,
        index: torch.Tensor,
        radial: torch.Tensor,
        harmonics: torch.Tensor,
    ) -> torch.Tensor:
        """What n atoms receive from `other`, the keys and values of all: (n, 16, hidden_size)."""
        key, value = nn.functional.embedding(index, other).chunk(2, dim=-1)
        logits = (query[:, None] * key).unflatten(-1, (self.num_heads, -1)).sum(-1) * self.scaling
        weights = torch.sigmoid(logits + self.radial_bias(radial))
        messages = weights[..., None] * (value * self.radial_gate(radial)).unflatten(-1, (self.num_heads, -1))
        return harmonics.transpose(-1, -2) @ messages.flatten(-2)

    def _couple(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Products of features (B, N, 9, channels) of degree 0 to 2, coupled to degree 0, 1 and 2 again."""
        outer = (left[:, :, :, None] * right[:, :, None, :]).flatten(2, 3)
        coupling = torch.as_tensor(gaunt_coefficients(), dtype=outer.dtype, device=outer.device)
        return (coupling.flatten(0, 1).T @ outer).split(WIDTHS[:3], dim=2)


def _dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Invariant product of features (B, N, 2 l + 1, channels) of the same degree: (B, N, channels)."""
    return (left * right).sum(dim=2) / math.sqrt(left.shape[2])


class ADAPTVectorHead(nn.Module):
    """Reads normalised forces (B, N, 3) from the vectors; how much of each is told by the invariant states."""

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.SiLU(),
            nn.Linear(config.hidden_size, config.num_vector_channels),
        )

    def forward(self, hidden_states: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return (self.gate(hidden_states)[:, :, None] * vectors).sum(dim=-1)


__all__ = ["ADAPTPairs", "ADAPTPairwiseGeometry", "ADAPTPairwiseLayer", "ADAPTVectorHead"]
