"""
The published architecture: a plain Transformer encoder whose tokens carry coordinates.

`"cartesian"` reads normalised x, y, z, as published; neither the origin nor the lattice is taken out. `"fourier"`
reads sines and cosines of the fractional coordinates, so that wrapping an atom into the cell changes nothing.
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_adapt import ADAPTConfig
from .embeddings_adapt import (
    ADAPTConstant,
    ADAPTDropout,
    ADAPTEmbeddings,
    ADAPTExactLinear,
    ADAPTLinear,
    ADAPTNormalizer,
    float32_or_better,
    without_autocast,
)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        attn_weights = attn_weights + attention_mask
    dtype = torch.promote_types(query.dtype, torch.float32)
    attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=dtype).to(query.dtype)
    attn_weights = nn.functional.dropout(attn_weights, p=dropout, training=module.training)
    return torch.matmul(attn_weights, value).transpose(1, 2).contiguous(), attn_weights


class ADAPTAttention(nn.Module):
    """Multi-head self-attention over all atoms: the only place where atoms meet."""

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        self.is_causal = False
        self.q_proj = ADAPTLinear(config.hidden_size, config.hidden_size)
        self.k_proj = ADAPTLinear(config.hidden_size, config.hidden_size)
        self.v_proj = ADAPTLinear(config.hidden_size, config.hidden_size)
        self.o_proj = ADAPTLinear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        input_shape = hidden_states.shape[:-1]
        hidden_shape = (*input_shape, -1, self.head_dim)
        query_states = self.q_proj(hidden_states).view(hidden_shape).transpose(1, 2)
        key_states = self.k_proj(hidden_states).view(hidden_shape).transpose(1, 2)
        value_states = self.v_proj(hidden_states).view(hidden_shape).transpose(1, 2)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self,
            query_states,
            key_states,
            value_states,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(attn_output.reshape(*input_shape, -1).contiguous()), attn_weights


class ADAPTMLP(nn.Module):
    def __init__(self, config: ADAPTConfig):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = ADAPTLinear(config.hidden_size, config.intermediate_size)
        self.fc2 = ADAPTLinear(config.intermediate_size, config.hidden_size)
        self.dropout = ADAPTDropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.dropout(self.activation_fn(self.fc1(hidden_states))))


class ADAPTLayer(GradientCheckpointingLayer):
    """One encoder layer; LayerNorm after each residual sum (published) or before each sub-layer."""

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        self.attention = ADAPTAttention(config)
        self.mlp = ADAPTMLP(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = ADAPTDropout(config.hidden_dropout_prob)
        self.pre_norm = config.norm_position == "pre"

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        residual = hidden_states
        if self.pre_norm:
            hidden_states = self.attention_norm(hidden_states)
        hidden_states, _ = self.attention(hidden_states, attention_mask, **kwargs)
        hidden_states = residual + self.dropout(hidden_states)
        if not self.pre_norm:
            hidden_states = self.attention_norm(hidden_states)

        residual = hidden_states
        if self.pre_norm:
            hidden_states = self.mlp_norm(hidden_states)
        hidden_states = residual + self.dropout(self.mlp(hidden_states))
        if not self.pre_norm:
            hidden_states = self.mlp_norm(hidden_states)
        return hidden_states


class ADAPTEncoder(nn.Module):
    """The trunk that both kinds of coordinates share: embeddings, layers with full attention, and a last norm."""

    num_coordinates: int

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        self.config = config
        self.embeddings = ADAPTEmbeddings(config, self.num_coordinates)
        self.layers = nn.ModuleList(ADAPTLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def coordinates(self, positions: torch.Tensor, cell: torch.Tensor | None) -> torch.Tensor:
        """What tokens carry of positions (B, N, 3) in Å: (B, N, num_coordinates)."""
        raise NotImplementedError

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
    ) -> tuple[torch.Tensor, None]:
        """States (B, N, hidden_size), and no vectors; see [`ADAPTModel.forward`]. Neither pairs nor waves are read."""
        features = float32_or_better(input_features)
        positions, descriptors = features.split([3, features.shape[-1] - 3], dim=-1)
        cell = None if cell is None else cell.to(features.dtype)
        with without_autocast(features.device):
            coordinates = self.coordinates(positions, cell)
        hidden_states = self.embeddings(coordinates, descriptors, atomic_numbers, charge)
        mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            and_mask_function=self._within_attention_radius(positions, cell),
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, **kwargs)
        return self.norm(hidden_states), None

    def _within_attention_radius(self, positions: torch.Tensor, cell: torch.Tensor | None) -> Callable | None:
        radius = self.config.attention_radius
        if radius is None:
            return None
        within = pair_distances(positions, cell) <= radius
        return lambda batch_idx, head_idx, q_idx, kv_idx: within[batch_idx, q_idx, kv_idx]


class ADAPTCartesianEncoder(ADAPTEncoder):
    num_coordinates = 3

    def __init__(self, config: ADAPTConfig):
        super().__init__(config)
        mean, std = config.feature_mean, config.feature_std
        self.normalizer = ADAPTNormalizer(mean and mean[:3], std and std[:3], config)

    def coordinates(self, positions: torch.Tensor, cell: torch.Tensor | None) -> torch.Tensor:
        return self.normalizer.normalize(positions)


class ADAPTFourierEncoder(ADAPTEncoder):
    """Sines and cosines of 2π k s for wave numbers k and fractional coordinates s: periodic, and sharp at high k."""

    def __init__(self, config: ADAPTConfig):
        self.num_coordinates = 6 * len(config.fourier_wave_numbers)
        super().__init__(config)
        self.wave_numbers = ADAPTConstant(list(config.fourier_wave_numbers))

    def coordinates(self, positions: torch.Tensor, cell: torch.Tensor | None) -> torch.Tensor:
        # Looked at where that costs nothing; a GPU would have to be waited for.
        look = cell is not None and cell.device.type == "cpu" and not torch.compiler.is_compiling()
        if cell is None or (look and not bool((cell.det().abs() > 1e-6).all())):
            raise ValueError("architecture 'fourier' needs a cell that is periodic in all three directions")
        fractional = torch.linalg.solve(cell.transpose(1, 2), positions.transpose(1, 2)).transpose(1, 2)
        phases = 2 * math.pi * fractional[..., None] * self.wave_numbers(fractional.dtype)
        return torch.cat([phases.sin(), phases.cos()], dim=-1).flatten(2)


class ADAPTComponentForces(nn.Module):
    """Normalised force components (B, N, 3), read linearly from the states of the atoms."""

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        self.linear = ADAPTExactLinear(config.hidden_size, 3)

    def forward(self, hidden_states: torch.Tensor, vectors: torch.Tensor | None) -> torch.Tensor:
        return self.linear(hidden_states)


def pair_distances(positions: torch.Tensor, cell: torch.Tensor | None) -> torch.Tensor:
    """
    Distances between all atoms, to the nearest image where there is a cell.

    Args:
        positions (`torch.Tensor` of shape `(B, N, 3)`): Å.
        cell (`torch.Tensor` of shape `(B, 3, 3)`, *optional*): Å; a zero row means not periodic along that direction.

    Returns:
        `torch.Tensor` of shape `(B, N, N)`: In Å. The nearest of the 27 images around the one that rounding finds: the
        minimum image for a reduced cell, and for any cell up to half of its smallest thickness.
    """
    displacements = positions[:, None, :, :] - positions[:, :, None, :]
    if cell is None:
        return displacements.norm(dim=-1)
    shifts = torch.cartesian_prod(*[torch.arange(-1, 2, device=cell.device, dtype=cell.dtype)] * 3)
    # The pseudo-inverse leaves directions without a lattice vector alone.
    displacements = displacements - torch.einsum(
        "bijk,bkl->bijl", torch.einsum("bijk,bkl->bijl", displacements, torch.linalg.pinv(cell)).round(), cell
    )
    nearest = displacements.norm(dim=-1)
    for image in torch.einsum("sk,bkl->sbl", shifts, cell).unbind(0):
        nearest = torch.minimum(nearest, (displacements + image[:, None, None, :]).norm(dim=-1))
    return nearest


__all__ = ["ADAPTCartesianEncoder", "ADAPTComponentForces", "ADAPTFourierEncoder", "pair_distances"]
