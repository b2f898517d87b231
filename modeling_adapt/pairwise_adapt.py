"""
The pairwise architecture of ADAPT: attention that knows the lattice.

Tokens carry no coordinates. Atoms meet through their displacements, to all periodic images within `pairwise_cutoff`,
damped by a smooth envelope that ends there; nothing else distinguishes pairs. Who is near whom comes with the batch
(see `neighbours_adapt.py`); here displacements are only measured. Atoms carry an invariant hidden state and a stream
of vectors. What is built from displacements transforms with them: the features of degree l are sums over real
spherical harmonics Y_l, coupled by Gaunt coefficients (products of order three per layer, in the manner of the atomic
cluster expansion, Drautz, Phys. Rev. B 99, 014104 (2019)). Forces read from the vectors are exactly equivariant under
rotation, reflection, permutation, translation and wrapping.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_adapt import ADAPTConfig
from .embeddings_adapt import ADAPTConstant, ADAPTEmbeddings, ADAPTExactLinear, float32_or_better
from .neighbours_adapt import SAME_PLACE, find_neighbours

DEGREES = (0, 1, 2, 3)  # of the spherical harmonics; 1 + 3 + 5 + 7 = 16 components
WIDTHS = [2 * degree + 1 for degree in DEGREES]
PRODUCT_WIDTH = sum(WIDTHS[:3])  # degrees up to 2 enter products


def spherical_harmonics(unit: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """
    Real spherical harmonics of degree 0 to 3, normalised to mean square 1 over the sphere.

    Args:
        unit (`torch.Tensor` of shape `(..., 3)`): Unit vectors.
        dim (`int`, defaults to `-1`): Where the harmonics stand in the result.

    Returns:
        `torch.Tensor` of shape `(..., 16)`: Degrees one after the other; degree 1 is sqrt(3) (x, y, z).
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
        dim=dim,
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
    The pairs of a batch, as many slots S as the atom with the most of them has.

    Args:
        index (`torch.LongTensor` of shape `(B, N, S)`): The other atom, as row of the flattened batch (B N).
        radial (`torch.Tensor` of shape `(B, N, S, num_radial_basis)`):
            Functions of the distance times the envelope, which is 1 at distance zero and 0 at the cutoff; zero in
            empty slots.
        harmonics (`torch.Tensor` of shape `(B, N, 16, S)`): Spherical harmonics of the direction to the other atom.
    """

    index: torch.Tensor
    radial: torch.Tensor
    harmonics: torch.Tensor


class ADAPTPairMeasure(nn.Module):
    """From positions and the list of neighbours to [`ADAPTPairs`], in float32 or better."""

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        self.cutoff = float(config.pairwise_cutoff)
        self.sharpness = (config.num_radial_basis - 1) / 0.75
        self.centres = ADAPTConstant(np.linspace(0.25, 1, config.num_radial_basis).tolist())

    def forward(
        self,
        positions: torch.Tensor,
        cell: torch.Tensor | None,
        neighbours: torch.Tensor,
        neighbour_shifts: torch.Tensor,
    ) -> ADAPTPairs:
        """See [`ADAPTModel.forward`] for the shapes."""
        batch_size, num_atoms, _ = positions.shape
        offsets = num_atoms * torch.arange(batch_size, device=positions.device)[:, None, None]
        index = neighbours.clamp(min=0) + offsets
        displacements = nn.functional.embedding(index, positions.reshape(-1, 3)) - positions[:, :, None]
        if cell is not None:
            shifts = neighbour_shifts.to(cell.dtype).flatten(1, 2) @ cell
            displacements = displacements + shifts.view_as(displacements)
        squares = displacements.square().sum(-1)
        valid = (neighbours >= 0) & (squares < self.cutoff**2) & (squares > SAME_PLACE**2)
        distances = torch.where(valid, squares, self.cutoff**2).sqrt()
        x = distances / self.cutoff
        envelope = (1 - x) ** 3 * (1 + 3 * x + 6 * x**2)  # twice continuously differentiable at the cutoff
        radial = torch.exp(-0.5 * (self.sharpness * (x[..., None] - self.centres(x.dtype))) ** 2) * envelope[..., None]
        return ADAPTPairs(index, radial, spherical_harmonics(displacements / distances[..., None], dim=-2))


class ADAPTPairwiseLayer(GradientCheckpointingLayer):
    """
    Attention with a radial bias per head, whose messages are spread over the spherical harmonics, then an update of
    the invariant states and of the vectors from products of what arrived.

    The weights are sigmoids, not a softmax: their sum then tells how many atoms are near, which a mean would lose.

    Args:
        updates_vectors (`bool`): False where nobody reads the vectors, as the energy does not.
    """

    def __init__(self, config: ADAPTConfig, updates_vectors: bool):
        super().__init__()
        hidden_size, channels = config.hidden_size, config.num_vector_channels
        self.hidden_size, self.channels, self.updates_vectors = hidden_size, channels, updates_vectors
        self.num_heads = config.num_attention_heads
        self.scaling = (hidden_size // self.num_heads) ** -0.5
        self.attention_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.kv_proj = nn.Linear(hidden_size, 2 * hidden_size)
        self.radial_bias = nn.Linear(config.num_radial_basis, self.num_heads, bias=False)
        self.radial_gate = nn.Linear(config.num_radial_basis, hidden_size, bias=False)
        self.mixing = nn.ModuleList(nn.Linear(hidden_size, 2 * channels, bias=False) for _ in DEGREES)
        self.coupling = ADAPTConstant(gaunt_coefficients().reshape(-1, PRODUCT_WIDTH).T.tolist())
        self.product_norm = nn.LayerNorm(8 * channels, eps=config.layer_norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size + 8 * channels, config.intermediate_size),
            nn.SiLU(),
            nn.Dropout(config.hidden_dropout_prob),
            nn.Linear(config.intermediate_size, hidden_size + (2 * channels if updates_vectors else 0)),
        )
        self.vector_mixing = nn.Linear(channels, channels, bias=False) if updates_vectors else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        vectors: torch.Tensor | None,
        index: torch.Tensor,
        radial: torch.Tensor,
        harmonics: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Invariant states (B, N, hidden_size) and vectors (B, N, 3, num_vector_channels), both updated; `None` for
        vectors that are zero, or stay so. The rest is what [`ADAPTPairs`] holds.
        """
        normed = self.attention_norm(hidden_states)
        features = self._attend(normed, index, radial, harmonics)
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
        if self.vector_mixing is None:
            return hidden_states + update, None
        update, gate, product_gate = update.split([self.hidden_size, self.channels, self.channels], dim=-1)
        change = gate[:, :, None] * left[1] + product_gate[:, :, None] * self.vector_mixing(products[1])
        return hidden_states + update, change if vectors is None else vectors + change

    def _attend(
        self, normed: torch.Tensor, index: torch.Tensor, radial: torch.Tensor, harmonics: torch.Tensor
    ) -> torch.Tensor:
        """What each atom receives from the others, (B, N, 16, hidden_size)."""
        query, other = self.q_proj(normed) * self.scaling, self.kv_proj(normed).flatten(0, 1)
        batch_size, num_atoms = index.shape[:2]
        if torch.compiler.is_compiling() or index.device.type != "cpu" or num_atoms < batch_size:
            return self._receive(other, query, index, radial, harmonics)
        # Structures one after the other: what belongs to one stays in the cache of a processor.
        structures = zip(query, index, radial, harmonics, strict=True)
        return torch.stack([self._receive(other, *structure) for structure in structures])

    def _receive(
        self,
        other: torch.Tensor,
        query: torch.Tensor,
        index: torch.Tensor,
        radial: torch.Tensor,
        harmonics: torch.Tensor,
    ) -> torch.Tensor:
        """What atoms (..., N) receive from `other`, the keys and values of all: (..., N, 16, hidden_size)."""
        key, value = nn.functional.embedding(index, other).chunk(2, dim=-1)
        logits = (query[..., None, :] * key).unflatten(-1, (self.num_heads, -1)).sum(-1)
        weights = torch.sigmoid(logits + self.radial_bias(radial))
        messages = weights[..., None] * (value * self.radial_gate(radial)).unflatten(-1, (self.num_heads, -1))
        return harmonics @ messages.flatten(-2)

    def _couple(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Products of features (B, N, 9, channels) of degree 0 to 2, coupled to degree 0, 1 and 2 again."""
        outer = (left[:, :, :, None] * right[:, :, None, :]).flatten(2, 3)
        return (self.coupling(outer.dtype) @ outer).split(WIDTHS[:3], dim=2)


def _dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Invariant product of features (B, N, 2 l + 1, channels) of the same degree: (B, N, channels)."""
    return (left * right).sum(dim=2) / math.sqrt(left.shape[2])


class ADAPTPairwise(nn.Module):
    """The trunk: embeddings of the elements, pairwise layers, and a last norm of the invariant states."""

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        self.embeddings = ADAPTEmbeddings(config, num_coordinates=0)
        self.measure = ADAPTPairMeasure(config)
        updates_vectors = config.predicts == "forces"
        self.layers = nn.ModuleList(
            ADAPTPairwiseLayer(config, updates_vectors) for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cell: torch.Tensor | None,
        atomic_numbers: torch.Tensor | None,
        neighbours: torch.Tensor | None,
        neighbour_shifts: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Invariant states (B, N, hidden_size) and, of force models, vectors (B, N, 3, num_vector_channels); see
        [`ADAPTModel.forward`].
        """
        features = float32_or_better(input_features)
        positions, descriptors = features.split([3, features.shape[-1] - 3], dim=-1)
        cell = None if cell is None else cell.to(features.dtype)
        if neighbours is None or neighbour_shifts is None:
            neighbours, neighbour_shifts = self._search(positions, attention_mask, cell)
        with torch.autocast(device_type=features.device.type, enabled=False):
            pairs = self.measure(positions, cell, neighbours, neighbour_shifts)
        hidden_states, vectors = self.embeddings(positions[..., :0], descriptors, atomic_numbers), None
        radial, harmonics = pairs.radial.to(hidden_states.dtype), pairs.harmonics.to(hidden_states.dtype)
        for layer in self.layers:
            hidden_states, vectors = layer(hidden_states, vectors, pairs.index, radial, harmonics)
        return self.norm(hidden_states), vectors

    @torch.no_grad()
    def _search(
        self, positions: torch.Tensor, attention_mask: torch.Tensor | None, cell: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """For inputs that come without neighbours: right, but on the host, and nothing that a graph could hold."""
        is_atom = positions.new_ones(positions.shape[:2]) if attention_mask is None else attention_mask
        lattice = positions.new_zeros(len(positions), 3, 3) if cell is None else cell
        arrays = [values.cpu().numpy() for values in (positions, lattice, is_atom)]
        others, shifts = find_neighbours(arrays[0], arrays[1], arrays[2], self.measure.cutoff)
        return torch.from_numpy(others).to(positions.device), torch.from_numpy(shifts).to(positions.device)


class ADAPTVectorForces(nn.Module):
    """Normalised forces (B, N, 3) from the vectors; how much of each is told by the invariant states."""

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        self.gate = nn.Sequential(
            ADAPTExactLinear(config.hidden_size, config.hidden_size),
            nn.SiLU(),
            ADAPTExactLinear(config.hidden_size, config.num_vector_channels),
        )

    def forward(self, hidden_states: torch.Tensor, vectors: torch.Tensor | None) -> torch.Tensor:
        return (self.gate(hidden_states)[:, :, None] * vectors).sum(dim=-1)


__all__ = ["ADAPTPairwise", "ADAPTVectorForces", "gaunt_coefficients", "spherical_harmonics"]
