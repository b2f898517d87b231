"""
The far field of a crystal: what all atoms and all of their images do to one another beyond the cutoff of pairs.

Atoms carry latent charges, several to an atom, read from their invariant states. Their structure factors over the
wave vectors G of the lattice give a potential at each atom and its field, with weights over |G| that are learned: a
mixture of Gaussian charges under Coulomb's 1/G², as in Ewald's sum and in latent Ewald summation (Cheng,
arXiv:2408.15165). It is attention over all atoms and all images in its linear form: keys and values are summed once
for each wave, and read by every query. The wave G = 0 is left out, as if a uniform background made each kind of charge
neutral.

The waves are those of the lattice, not of one of its cells, and their weights end smoothly at the cutoff, so the
result is exact under rotation, reflection, translation, permutation, wrapping, another choice of the cell and its
doubling, and smooth under strain. The time of this sum grows with the square of the number of atoms; where a mesh
takes less (`mesh_adapt.py`), all of it goes through that and holds to 1e-4.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_adapt import ADAPTConfig
from .embeddings_adapt import ADAPTConstant, ADAPTDropout, ADAPTExactLinear, without_autocast
from .mesh_adapt import mesh_sizes, through_mesh
from .neighbours_adapt import find_wave_numbers

WIDTHS = (1.0, 2.0, 4.0, 8.0)  # of the Gaussian charges, in units of 1 / cutoff
PHASES_AT_ONCE = 2**20  # of all atoms; in the cache of a processor
PHASES_AT_ONCE_ON_A_GPU = 2**25
# What an atom and a point of a mesh take of a processor, in phases of the direct sum.
PHASES_OF_AN_ATOM = 1200
PHASES_OF_A_POINT = 14


class Waves(NamedTuple):
    """
    Plane waves of the lattices of a batch, half of them, as G and -G say the same.

    Args:
        fractions (`torch.Tensor` of shape `(B, N, 3)`): Fractional coordinates of the atoms.
        is_atom (`torch.Tensor` of shape `(B, N, 1)`): 0 on padding.
        numbers (`torch.Tensor` of shape `(B, K, 3)`): Waves per lattice vector.
        vectors (`torch.Tensor` of shape `(B, K, 3)`): G in 1/Å.
        reciprocal (`torch.Tensor` of shape `(B, 3, 3)`): Gradients of the fractional coordinates, as rows.
        weights (`torch.Tensor` of shape `(B, K, 4)`): Of the four Gaussians; 0 in empty slots.
        turned (`torch.Tensor` of shape `(B, N, 2 K)`, *optional*):
            Their cosines and sines at the atoms, for all layers; `None` where there is no room for all at once.
    """

    fractions: torch.Tensor
    is_atom: torch.Tensor
    numbers: torch.Tensor
    vectors: torch.Tensor
    reciprocal: torch.Tensor
    weights: torch.Tensor
    turned: torch.Tensor | None


class ADAPTWaveMeasure(nn.Module):
    """From positions and cells to the [`Waves`] that the layers read, in float32 or better."""

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        self.cutoff = float(config.long_range_cutoff)
        self.exponents = ADAPTConstant([-0.5 * width**2 for width in WIDTHS])

    def forward(
        self,
        positions: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cell: torch.Tensor | None,
        wave_numbers: torch.Tensor | None,
    ) -> Waves:
        """See [`ADAPTModel.forward`] for the shapes."""
        lattice = positions.new_zeros(len(positions), 3, 3) if cell is None else cell
        if wave_numbers is None or cell is None:
            wave_numbers = self._search(lattice)
        numbers = wave_numbers.to(positions.dtype)
        with without_autocast(positions.device):
            reciprocal, volume = _reciprocal(lattice)
            # Sums, not products of matrices, which may be rounded to TF32.
            fractions = (positions[:, :, None] * reciprocal[:, None]).sum(-1)
            vectors = 2 * math.pi * (numbers[..., None] * reciprocal[:, None]).sum(-2)
            weights = self._weights(vectors.square().sum(-1), volume)
            fits = torch.compiler.is_compiling() or numbers.shape[1] <= _at_once(fractions)
            turned = _turned(fractions, numbers) if fits else None
        is_atom = positions.new_ones(positions.shape[:2]) if attention_mask is None else attention_mask
        return Waves(fractions, is_atom.to(positions.dtype)[..., None], numbers, vectors, reciprocal, weights, turned)

    def _weights(self, squares: torch.Tensor, volume: torch.Tensor) -> torch.Tensor:
        """8π / (V G²) (waves count twice) times Gaussians and an envelope, from G² (B, K): (B, K, 4)."""
        valid = (squares > 0) & (squares < self.cutoff**2)
        squares = torch.where(valid, squares, self.cutoff**2)
        x = squares / self.cutoff**2
        envelope = (1 - x) ** 3 * (1 + 3 * x + 6 * x**2)  # twice continuously differentiable at the cutoff
        coulomb = 8 * math.pi * envelope * valid / (squares * volume[:, None])
        return coulomb[..., None] * torch.exp(x[..., None] * self.exponents(x.dtype))

    @torch.no_grad()
    def _search(self, cell: torch.Tensor) -> torch.Tensor:
        """For inputs that come without: right, but on the host, and nothing that a graph could hold."""
        return torch.from_numpy(find_wave_numbers(cell.cpu().numpy(), self.cutoff)).to(cell.device)


def _reciprocal(cell: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors b (B, 3, 3) as rows with b_i · a_j = 1 where i = j and 0 elsewhere, and volumes (B,) in Å³."""
    first, second, third = cell.unbind(1)
    crossed = torch.stack(
        [torch.linalg.cross(second, third), torch.linalg.cross(third, first), torch.linalg.cross(first, second)], 1
    )
    determinant = (first * crossed[:, 0]).sum(-1)
    return crossed / determinant[:, None, None], determinant.abs()


class ADAPTReciprocalLayer(GradientCheckpointingLayer):
    """
    Adds to invariant states what the potential of the latent charges tells, and to vectors their field.

    Each channel of charges is a head with weights over the waves of its own; the queries of an atom are gates on what
    arrives there.

    Args:
        config (`ADAPTConfig`): Its sizes.
        updates_vectors (`bool`): False where nobody reads the vectors behind it.
    """

    def __init__(self, config: ADAPTConfig, updates_vectors: bool):
        super().__init__()
        hidden_size, charges, channels = config.hidden_size, config.long_range_channels, config.num_vector_channels
        self.norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.charges = nn.Linear(hidden_size, charges)
        self.queries = nn.Linear(hidden_size, charges)
        self.kernel = ADAPTExactLinear(len(WIDTHS), charges, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size + charges, config.intermediate_size),
            nn.SiLU(),
            ADAPTDropout(config.hidden_dropout_prob),
            nn.Linear(config.intermediate_size, hidden_size + (channels if updates_vectors else 0)),
        )
        self.field_mixing = nn.Linear(charges, channels, bias=False) if updates_vectors else None

    def forward(
        self, hidden_states: torch.Tensor, features: torch.Tensor | None, *waves: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(B, N, hidden_size)`): Invariant states; M = B N.
            features (`torch.Tensor` of shape `(3 or 8, M, num_vector_channels)`, *optional*):
                Vectors, and tensors behind them; `None` where nobody reads any.
            waves (`torch.Tensor`, *optional*): Those of [`Waves`].

        Returns:
            `tuple[torch.Tensor, torch.Tensor | None]`: Invariant states and features, the states and vectors updated.
        """
        normed = self.norm(hidden_states).flatten(0, 1)
        potential, field = self._far_field(self.charges(normed), Waves(*waves))  # type: ignore[arg-type]
        arrived = self.queries(normed) * potential.to(normed.dtype)
        update = self.mlp(torch.cat([normed, arrived], dim=-1))
        if self.field_mixing is None or features is None:
            return hidden_states + update.view_as(hidden_states), features
        update, gate = update.split([hidden_states.shape[-1], update.shape[-1] - hidden_states.shape[-1]], dim=-1)
        change = gate * self.field_mixing(field.to(normed.dtype))
        features = features + nn.functional.pad(change, (0, 0, 0, 0, 0, len(features) - 3))
        return hidden_states + update.view_as(hidden_states), features

    def _far_field(self, charges: torch.Tensor, waves: Waves) -> tuple[torch.Tensor, torch.Tensor]:
        """The potential (M, channels) of charges (M, channels) at the atoms, and its field (3, M, channels)."""
        with without_autocast(charges.device):
            of_atoms = charges.to(waves.fractions.dtype).unflatten(0, waves.fractions.shape[:2]) * waves.is_atom
            arrived = self._by_mesh(of_atoms, waves) if _mesh_pays(waves) else self._direct(of_atoms, waves)
        potential, *field = arrived.flatten(0, 1).chunk(4 if self.field_mixing is not None else 1, dim=-1)
        return potential, torch.stack(field) if field else potential

    def _direct(self, charges: torch.Tensor, waves: Waves) -> torch.Tensor:
        """(B, N, channels) of the potential and, where it is read, three times of the field."""
        parts = [self._of_some(charges, *some) for some in _in_parts(waves)]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def _by_mesh(self, charges: torch.Tensor, waves: Waves) -> torch.Tensor:
        """The same, to 1e-4 of the largest."""
        reciprocal = waves.reciprocal if self.field_mixing is not None else None
        return through_mesh(charges, waves.fractions, waves.numbers, self.kernel(waves.weights), reciprocal)

    def _of_some(
        self, charges: torch.Tensor, waves: torch.Tensor, vectors: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """What some waves bring."""
        cosines, sines = ((waves.mT @ charges) * self.kernel(weights).repeat(1, 2, 1)).chunk(2, dim=1)
        read = [torch.cat([cosines, sines], dim=1)]
        if self.field_mixing is not None:
            along_axes = (axis[..., None] for axis in vectors.unbind(-1))
            read += [torch.cat([-axis * sines, axis * cosines], dim=1) for axis in along_axes]
        return waves @ torch.cat(read, dim=-1)


def _mesh_pays(waves: Waves) -> bool:
    """Whether it takes less time: measured on processors only, and never in a graph, where all waves are turned."""
    if waves.turned is not None or waves.fractions.device.type != "cpu":
        return False
    atoms, of_an_atom = waves.fractions.shape[1], waves.numbers.shape[1]
    return atoms * (of_an_atom - PHASES_OF_AN_ATOM) > PHASES_OF_A_POINT * math.prod(mesh_sizes(waves.numbers))


def _in_parts(waves: Waves) -> Iterator[tuple[torch.Tensor, ...]]:
    """Cosines and sines, vectors and weights of some waves at a time; of all where there is room."""
    if waves.turned is not None:
        return iter([(waves.turned, waves.vectors, waves.weights)])
    of_waves = (waves.numbers, waves.vectors, waves.weights)
    parts = zip(*(tensor.split(_at_once(waves.fractions), dim=1) for tensor in of_waves), strict=True)
    return ((_turned(waves.fractions, numbers), vectors, weights) for numbers, vectors, weights in parts)


def _at_once(fractions: torch.Tensor) -> int:
    """So many waves."""
    room = PHASES_AT_ONCE if fractions.device.type == "cpu" else PHASES_AT_ONCE_ON_A_GPU
    return max(1, room // (fractions.shape[0] * fractions.shape[1]))


def _turned(fractions: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Cosines and sines (B, N, 2 K) of waves `numbers` (B, K, 3) at `fractions` (B, N, 3)."""
    along = zip(fractions.unbind(-1), numbers.unbind(-1), strict=True)
    turns = torch.stack([one[:, :, None] * number[:, None] for one, number in along]).sum(0)
    phases = 2 * math.pi * (turns - turns.round())  # small numbers, however far from the origin
    return torch.cat([phases.cos(), phases.sin()], dim=-1)


__all__ = ["ADAPTReciprocalLayer", "ADAPTWaveMeasure", "Waves"]
