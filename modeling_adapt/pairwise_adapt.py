"""
The pairwise architecture of ADAPT: attention that knows the lattice.

Tokens carry no coordinates. Atoms meet through their displacements, to all periodic images within `pairwise_cutoff`,
damped by a smooth envelope that ends there; nothing else distinguishes pairs. Who is near whom comes with the batch
(see `neighbours_adapt.py`); here displacements are only measured. Atoms carry an invariant hidden state and a stream
of features of degree 1, vectors, and where messages tell of them of degree 2. What is built from displacements
transforms with them: the features of degree l are sums over real spherical harmonics Y_l, multiplied as functions on
the sphere (products of order three per layer, in the manner of the atomic cluster expansion, Drautz, Phys. Rev. B 99,
014104 (2019)). Forces read from the vectors are exactly equivariant under rotation, reflection, permutation,
translation and wrapping.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_adapt import ADAPTConfig
from .embeddings_adapt import (
    ADAPTConstant,
    ADAPTDropout,
    ADAPTEmbeddings,
    ADAPTExactLinear,
    float32_or_better,
    without_autocast,
)
from .neighbours_adapt import SAME_PLACE, find_neighbours
from .reciprocal_adapt import ADAPTReciprocalLayer, ADAPTWaveMeasure

DEGREES = (0, 1, 2, 3)  # of the spherical harmonics; 1 + 3 + 5 + 7 = 16 components
WIDTHS = [2 * degree + 1 for degree in DEGREES]
RANGES = [(degree**2, (degree + 1) ** 2) for degree in DEGREES]  # where the components of a degree stand
PRODUCT_WIDTH = sum(WIDTHS[:3])  # degrees up to 2 enter products
ATOMS_AT_ONCE = 256  # for each thread, whose core has a cache of its own
MOST_PARTS = 32
RECOMPUTED_FROM = 2**14  # atoms, whose gradient else keeps 2 GB; it takes a third more of the time


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


@functools.lru_cache
def product_grid() -> tuple[np.ndarray, np.ndarray]:
    """
    The points at which functions on the sphere are multiplied, the 26 directions of a cube's faces, edges and corners.

    A rule of V. I. Lebedev (1976) integrates polynomials up to degree 7 exactly with them, and three functions up to
    degree 2 are of degree 6. The product at the points, brought back, is therefore the coupling of two functions by
    Gaunt coefficients, in a third of the memory.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: From features of degree 0 to 2 to their values at the points (26, 9), and from
        values to features (9, 26).
    """
    points = np.array([point for point in product((-1, 0, 1), repeat=3) if any(point)], dtype=float)
    squares = (points**2).sum(axis=1)
    weights = np.array([1 / 21, 4 / 105, 9 / 280])[squares.astype(int) - 1]
    unit = torch.from_numpy(points / np.sqrt(squares)[:, None])
    values = spherical_harmonics(unit).numpy()[:, :PRODUCT_WIDTH]
    return values, (weights[:, None] * values).T


class ADAPTPairMeasure(nn.Module):
    """From positions and the list of neighbours to what the layers read of pairs, in float32 or better."""

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        self.cutoff = float(config.pairwise_cutoff)
        self.sharpness = math.sqrt(0.5) * (config.num_radial_basis - 1) / 0.75
        centres = self.sharpness * np.linspace(0.25, 1, config.num_radial_basis)
        self.centres = ADAPTConstant(centres.tolist())

    def forward(
        self, positions: torch.Tensor, owners: torch.Tensor, index: torch.Tensor, shifts: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            positions (`torch.Tensor` of shape `(M, 3)`): Of all atoms of the batch, in Å.
            owners (`torch.Tensor` of shape `(m, 3)`): Positions of those atoms whose pairs are measured.
            index (`torch.LongTensor` of shape `(m, S)`): The other atom, its row in `positions`; -1 in empty slots.
            shifts (`torch.Tensor` of shape `(m, S, 3)`, *optional*): Of the other atom, in Å.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Functions of the distance (m, S, num_radial_basis) times the envelope,
            which is 1 at distance zero and 0 at the cutoff and in empty slots; and spherical harmonics of the
            directions (m, 16, S).
        """
        displacements = _rows(positions, index.clamp(min=0)) - owners[:, None]
        if shifts is not None:
            displacements = displacements + shifts
        squares = displacements.square().sum(-1)
        valid = (index >= 0) & (squares < self.cutoff**2) & (squares > SAME_PLACE**2)
        distances = torch.where(valid, squares, self.cutoff**2).sqrt()
        x = distances / self.cutoff
        envelope = (1 - x) ** 3 * (1 + 3 * x + 6 * x**2)  # twice continuously differentiable at the cutoff
        steps = (self.sharpness * x)[..., None] - self.centres(x.dtype)
        radial = torch.exp(-steps * steps) * envelope[..., None]
        return radial, spherical_harmonics(displacements / distances[..., None], dim=-2)


class ADAPTPairwiseLayer(GradientCheckpointingLayer):
    """
    Attention with a radial bias per head, whose messages are spread over the spherical harmonics, then an update of
    the invariant states and of the vectors from products of what arrived.

    The weights are sigmoids, not a softmax: their sum then tells how many atoms are near, which a mean would lose.

    Messages also tell of the sender's features of degree 1 to `reads`: their projections on the bond enter the value,
    and they are carried over into their degree, as PaiNN does with vectors (Schütt et al., arXiv:2102.03150).

    Args:
        config (`ADAPTConfig`): Its sizes.
        reads (`int`): The highest degree that messages tell of; 0 in the first layer, where there is none yet.
        updates (`int`): The highest degree that somebody reads behind this layer.
    """

    def __init__(self, config: ADAPTConfig, reads: int, updates: int):
        super().__init__()
        self.reads, self.updates = reads, updates
        hidden_size, channels = config.hidden_size, config.num_vector_channels
        self.hidden_size, self.channels = hidden_size, channels
        head_size = hidden_size // config.num_attention_heads
        self.scaling = head_size**-0.5
        self.attention_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.kv_proj = nn.Linear(hidden_size, 2 * hidden_size)
        self.radial_bias = nn.Linear(config.num_radial_basis, config.num_attention_heads, bias=False)
        self.radial_gate = nn.Linear(config.num_radial_basis, hidden_size, bias=False)
        # Which channels are of which head; without a graph, products with it are several times as fast as views.
        self.heads = ADAPTConstant(np.repeat(np.eye(config.num_attention_heads), head_size, axis=1).tolist())
        self.mixing = nn.ModuleList(nn.Linear(hidden_size, 2 * channels, bias=False) for _ in DEGREES)
        to_points, from_points = product_grid()
        self.to_points, self.from_points = ADAPTConstant(to_points.tolist()), ADAPTConstant(from_points.tolist())
        self.product_norm = nn.LayerNorm(8 * channels, eps=config.layer_norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size + 8 * channels, config.intermediate_size),
            nn.SiLU(),
            ADAPTDropout(config.hidden_dropout_prob),
            nn.Linear(config.intermediate_size, hidden_size + 2 * updates * channels),
        )
        self.vector_mixing = nn.Linear(channels, channels, bias=False) if updates > 0 else None
        self.tensor_mixing = nn.Linear(channels, channels, bias=False) if updates > 1 else None
        self.projection_value = self.carry_gate = None
        self.carry_mixing = nn.ModuleList(nn.Linear(channels, 2 * channels, bias=False) for _ in range(reads))
        if reads:
            self.projection_value = nn.Linear(reads * channels, hidden_size, bias=False)
            self.carry_gate = nn.Linear(config.num_radial_basis, reads * channels, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        features: torch.Tensor | None,
        index: torch.Tensor,
        radial: torch.Tensor,
        harmonics: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(B, N, hidden_size)`): Invariant states; M = B N.
            features (`torch.Tensor` of shape `(3 or 8, M, num_vector_channels)`, *optional*):
                Of degree 1, or 1 and 2; `None` where they are zero.
            index (`torch.LongTensor` of shape `(M, S)`): The other atom of each pair.
            radial (`torch.Tensor` of shape `(M, S, num_radial_basis)`): See [`ADAPTPairMeasure`].
            harmonics (`torch.Tensor` of shape `(M, 16, S)`): Likewise.

        Returns:
            `tuple[torch.Tensor, torch.Tensor | None]`: Invariant states, and features up to the degree `updates`, both
            updated.
        """
        normed = self.attention_norm(hidden_states).flatten(0, 1)
        query, other = self.q_proj(normed) * self.scaling, self.kv_proj(normed).chunk(2, dim=-1)
        if self.reads and features is not None:
            other = (*other, *features)
        parts = [self._part(other, *part) for part in in_parts(normed, query, index, radial, harmonics)]
        updates, changes = zip(*parts, strict=True)
        hidden_states = hidden_states + _joined(updates, dim=0).view_as(hidden_states)
        if not self.updates:
            return hidden_states, None
        change = _joined(changes, dim=1)
        return hidden_states, change if features is None else features[: len(change)] + change

    def _part(
        self, other: Sequence[torch.Tensor], normed: torch.Tensor, *of_atoms: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[`_update`]; in large structures what its gradient needs is computed again, in place of being kept."""
        few = self.training or torch.compiler.is_compiling() or len(other[0]) < RECOMPUTED_FROM
        if few or not torch.is_grad_enabled():
            return self._update(other, normed, *of_atoms)
        return checkpoint(self._update, other, normed, *of_atoms, use_reentrant=False, preserve_rng_state=False)

    def _update(
        self,
        other: Sequence[torch.Tensor],
        normed: torch.Tensor,
        query: torch.Tensor,
        index: torch.Tensor,
        radial: torch.Tensor,
        harmonics: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """For some atoms (m, ...) what is added to states (m, hidden_size) and to features (3 or 8, m, channels)."""
        arrived, carried = self._receive(other, query, index, radial, harmonics)
        degrees = [mix(part) for mix, part in zip(self.mixing, arrived.transpose(0, 1).split(WIDTHS), strict=True)]
        for degree, (mix, part) in enumerate(zip(self.carry_mixing, carried, strict=True), start=1):
            degrees[degree] = degrees[degree] + mix(part)
        left, right = zip(*[part.chunk(2, dim=-1) for part in degrees], strict=True)
        products = self._multiply(torch.cat(degrees[:3]))
        invariants = [
            left[0][0],
            *(_dot(left[degree], right[degree]) for degree in (1, 2, 3)),
            _dot(left[3], left[3]),
            products[0][0],
            *(_dot(products[degree], left[degree]) for degree in (1, 2)),
        ]
        update = self.mlp(torch.cat([normed, self.product_norm(torch.cat(invariants, dim=-1))], dim=-1))
        if not self.updates:
            return update, None
        update, *gates = update.split([self.hidden_size] + 2 * self.updates * [self.channels], dim=-1)
        mixing = [mix for mix in (self.vector_mixing, self.tensor_mixing) if mix is not None]
        changes = [
            gates[2 * degree - 2] * left[degree] + gates[2 * degree - 1] * mix(products[degree])
            for degree, mix in enumerate(mixing, start=1)
        ]
        return update, _joined(changes, dim=0)

    def _receive(
        self,
        other: Sequence[torch.Tensor],
        query: torch.Tensor,
        index: torch.Tensor,
        radial: torch.Tensor,
        harmonics: torch.Tensor,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """
        What some atoms receive from `other`, the keys, values and features of all: harmonics (m, 16, hidden_size), and
        for each degree that messages tell of its features (2 l + 1, m, channels), which are carried over.
        """
        # One by one: the gradients of parts of one tensor would have to be put together again.
        key, value, *components = (_rows(table, index) for table in other)
        weights = self._weights(query, key, self.radial_bias(radial))
        projections, carried = [], []
        if self.projection_value is not None and self.carry_gate is not None:
            units = harmonics.unbind(1)
            for matrix, (first, end) in zip(self.carry_gate.weight.chunk(self.reads), RANGES[1:], strict=False):
                own, gate = components[first - 1 : end - 1], nn.functional.linear(radial, matrix)
                along = zip(own, units[first:end], strict=True)
                projections.append(functools.reduce(torch.add, [part * unit[..., None] for part, unit in along]))
                carried.append(torch.stack([(gate * part).sum(dim=1) for part in own]))
            value = value + self.projection_value(torch.cat(projections, dim=-1))
        return harmonics @ (weights * (value * self.radial_gate(radial))), carried

    def _weights(self, query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Weights of pairs (m, S, hidden_size), the same for all channels of a head, from biases (m, S, heads)."""
        if torch.compiler.is_compiling():  # views, which one kernel reads; products would stand between two
            of_head = key.shape[-1] // bias.shape[-1]
            logits = (query[:, None] * key).unflatten(-1, (-1, of_head)).sum(dim=-1)
            return torch.sigmoid(logits + bias)[..., None].expand(*bias.shape, of_head).flatten(-2)
        heads = self.heads(query.dtype)
        return torch.sigmoid(key @ (query[:, None] * heads).mT + bias) @ heads

    def _multiply(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """
        Products of the two halves of features (9, m, 2 channels) of degree 0 to 2, by degree again: (1, m, channels),
        (3, m, channels) and (5, m, channels).
        """
        left, right = _linear_in_front(self.to_points(features.dtype), features).chunk(2, dim=-1)
        return _linear_in_front(self.from_points(features.dtype), left * right).split(WIDTHS[:3])


def _rows(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of a table (M, channels) by an index (m, S); the gradient of `embedding` takes five times as long here."""
    rows = index.flatten()
    if torch.compiler.is_compiling():  # the other's gradient becomes atomic additions where threads share it
        return table.gather(0, rows[:, None].expand(-1, table.shape[1])).view(*index.shape, -1)
    return table.index_select(0, rows).view(*index.shape, -1)


def _linear_in_front(matrix: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Values (n, m, channels) to (k, m, channels) by a matrix (k, n)."""
    return (matrix @ values.flatten(1)).view(len(matrix), *values.shape[1:])


def _dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Invariant product of features (2 l + 1, m, channels) of the same degree: (m, channels)."""
    return (left * right).sum(dim=0) * len(left) ** -0.5


def _joined(parts: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)


def in_parts(*of_atoms: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """
    Tensors (M, ...) that have a row for each atom, some rows at a time: what these need stays in the cache of a
    processor then, and the memory for their pairs is small. Elsewhere, and in a graph, all at once.
    """
    rows, device = of_atoms[0].shape[0], of_atoms[0].device  # `len` would fix a size that a graph leaves open
    if device.type != "cpu" or torch.compiler.is_compiling() or rows <= ATOMS_AT_ONCE:
        return iter([of_atoms])
    # The gradient of what is gathered has a row for each atom, in each part: so not more parts the more atoms.
    least = rows // MOST_PARTS if torch.is_grad_enabled() else 0
    at_once = max(ATOMS_AT_ONCE * torch.get_num_threads(), least)
    return zip(*(tensor.split(at_once) for tensor in of_atoms), strict=True)


class ADAPTPairwise(nn.Module):
    """The trunk: embeddings of the elements, pairwise layers, and a last norm of the invariant states."""

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        self.embeddings = ADAPTEmbeddings(config, num_coordinates=0)
        self.measure = ADAPTPairMeasure(config)
        last = config.num_hidden_layers - 1
        self.layers = nn.ModuleList(
            ADAPTPairwiseLayer(
                config,
                reads=config.message_degree if number > 0 else 0,
                updates=max(config.message_degree if number < last else 0, config.predicts == "forces"),
            )
            for number in range(config.num_hidden_layers)
        )
        self.waves, self.far_layers = None, None
        if config.long_range:
            self.waves = ADAPTWaveMeasure(config)
            self.far_layers = nn.ModuleList(
                ADAPTReciprocalLayer(config, layer.vector_mixing is not None) for layer in self.layers
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
        wave_numbers: torch.Tensor | None,
        charge: torch.Tensor | None,
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
            neighbours, neighbour_shifts = self.search(positions, attention_mask, cell)
        with without_autocast(features.device):
            index, radial, harmonics = self._pairs(positions, cell, neighbours, neighbour_shifts)
        hidden_states = self.embeddings(positions[..., :0], descriptors, atomic_numbers, charge)
        radial, harmonics, vectors = radial.to(hidden_states.dtype), harmonics.to(hidden_states.dtype), None
        waves = None if self.waves is None else self.waves(positions, attention_mask, cell, wave_numbers)
        for number, layer in enumerate(self.layers):
            hidden_states, vectors = layer(hidden_states, vectors, index, radial, harmonics)
            if self.far_layers is not None and waves is not None:
                hidden_states, vectors = self.far_layers[number](hidden_states, vectors, *waves)
        hidden_states = self.norm(hidden_states)
        return hidden_states, None if vectors is None else vectors.unflatten(1, positions.shape[:2]).movedim(0, 2)

    def _pairs(
        self,
        positions: torch.Tensor,
        cell: torch.Tensor | None,
        neighbours: torch.Tensor,
        neighbour_shifts: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Other atoms (M, S) as rows of the flattened batch, any in empty slots, and their [`ADAPTPairMeasure`]."""
        batch_size, num_atoms, _ = positions.shape
        offsets = num_atoms * torch.arange(batch_size, device=positions.device)[:, None, None]
        index = torch.where(neighbours >= 0, neighbours + offsets, -1).flatten(0, 1)
        positions, rows = positions.flatten(0, 1), [index]
        if cell is not None:
            rows.append((neighbour_shifts.to(cell.dtype).flatten(1, 2) @ cell).view(*index.shape, 3))
        parts = [self.measure(positions, *part, *(None,) * (cell is None)) for part in in_parts(positions, *rows)]
        radial, harmonics = (_joined(of, dim=0) for of in zip(*parts, strict=True))
        return index.clamp(min=0), radial, harmonics

    @torch.no_grad()
    def search(
        self, positions: torch.Tensor, attention_mask: torch.Tensor | None, cell: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The neighbours and their shifts for inputs that come without: right, but on the host, and nothing that a graph
        could hold.
        """
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


__all__ = ["ADAPTPairwise", "ADAPTVectorForces", "product_grid", "spherical_harmonics"]
