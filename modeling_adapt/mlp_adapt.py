"""
The published energy network: a residual MLP over the flattened tokens. It depends on the order of the atoms, takes a
fixed number of them at most, and its gradient is no usable force.
"""

from itertools import pairwise

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_adapt import ADAPTEnergyConfig
from .embeddings_adapt import ADAPTExactLinear, ADAPTNormalizer


class ADAPTResidualBlock(GradientCheckpointingLayer):
    """LayerNorm(Dropout(ReLU(W x)) + skip x); the skip is linear where the widths differ."""

    def __init__(self, in_features: int, out_features: int, config: ADAPTEnergyConfig):
        super().__init__()
        self.fc = nn.Linear(in_features, out_features)
        self.skip = nn.Linear(in_features, out_features) if in_features != out_features else nn.Identity()
        self.norm = nn.LayerNorm(out_features, eps=config.layer_norm_eps)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.energy_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(self.dropout(self.activation_fn(self.fc(hidden_states))) + self.skip(hidden_states))


class ADAPTResidualMLP(nn.Module):
    """The trunk: tokens of at most `max_atoms` atoms to one state per structure."""

    def __init__(self, config: ADAPTEnergyConfig):
        super().__init__()
        self.max_atoms = config.max_atoms
        sizes = [config.max_atoms * config.num_features, *config.energy_hidden_sizes]
        self.blocks = nn.ModuleList(ADAPTResidualBlock(*pair, config) for pair in pairwise(sizes))
        self.normalizer = ADAPTNormalizer(config.feature_mean, config.feature_std, config)

    @property
    def embeddings(self) -> nn.Module:
        """What reads the tokens first."""
        return self.blocks[0]

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
        """
        States (B, width of the last block), and no vectors; see [`ADAPTModel.forward`]. Only tokens are read.

        Raises:
            `ValueError`: A structure has more than `max_atoms` atoms.
        """
        size = input_features.shape[1]
        if size > self.max_atoms:
            largest = size if attention_mask is None else int(attention_mask.sum(dim=1).max())
            raise ValueError(f"a structure has {largest} atoms, but this energy model takes at most {self.max_atoms}")
        # Normalise, then pad with zeros, as the published training code does (its inference code does the reverse).
        tokens = self.normalizer.normalize(input_features)
        if attention_mask is not None:
            tokens = tokens * attention_mask[..., None]
        tokens = nn.functional.pad(tokens, (0, 0, 0, self.max_atoms - size))
        hidden_states = tokens.flatten(1).to(next(self.parameters()).dtype)
        if self.training and self.blocks[0].gradient_checkpointing:
            hidden_states.requires_grad_()  # reentrant checkpoints have a gradient only where their input has one
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states, None


class ADAPTTotalEnergy(nn.Module):
    """The normalised total energy (B, 1), read linearly from the state of the structure."""

    per_atom = False

    def __init__(self, config: ADAPTEnergyConfig):
        super().__init__()
        self.linear = ADAPTExactLinear(config.energy_hidden_sizes[-1], 1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.linear(hidden_states)


__all__ = ["ADAPTResidualMLP", "ADAPTTotalEnergy"]
