"""How coordinates enter ADAPT: one class for each kind of `config.geometry`, and the normalisation that all share."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .configuration_adapt import ADAPTConfig
from .pairwise_adapt import ADAPTPairwiseGeometry


class ADAPTNormalizer:
    """
    The published normalisation (x - mean) / (rescale_factor (std + eps)), in float32 or better whatever the dtype of
    the weights. The statistics are plain numbers from the configuration, so casting a model cannot round them.
    """

    def __init__(self, mean: Sequence[float] | None, std: Sequence[float] | None, config: ADAPTConfig):
        self.mean = 0.0 if mean is None else mean
        self.scale = 1.0 if std is None else [config.rescale_factor * (s + config.normalization_eps) for s in std]

    def _tensors(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        return values, values.new_tensor(self.mean), values.new_tensor(self.scale)

    def normalize(self, values: torch.Tensor) -> torch.Tensor:
        values, mean, scale = self._tensors(values)
        return (values - mean) / scale

    def denormalize(self, values: torch.Tensor) -> torch.Tensor:
        values, mean, scale = self._tensors(values)
        return values * scale + mean


class ADAPTCartesianGeometry(nn.Module):
    """Normalised Cartesian coordinates, as published. Neither the origin nor the lattice is taken out."""

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        mean, std = config.feature_mean, config.feature_std
        self.normalizer = ADAPTNormalizer(mean and mean[:3], std and std[:3], config)
        self.num_features = 3

    def forward(
        self, positions: torch.Tensor, cell: torch.Tensor | None, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, None]:
        return self.normalizer.normalize(positions), None


class ADAPTFourierGeometry(nn.Module):
    """Sines and cosines of 2π k s for wave numbers k and fractional coordinates s: periodic, and sharp at high k."""

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        self.wave_numbers = list(config.fourier_wave_numbers)
        self.num_features = 6 * len(self.wave_numbers)

    def forward(
        self, positions: torch.Tensor, cell: torch.Tensor | None, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, None]:
        if cell is None or not (torch.compiler.is_compiling() or bool((cell.det().abs() > 1e-6).all())):
            raise ValueError("geometry='fourier' needs a cell that is periodic in all three directions")
        fractional = torch.linalg.solve(cell.transpose(1, 2), positions.transpose(1, 2)).transpose(1, 2)
        phases = 2 * math.pi * fractional[..., None] * fractional.new_tensor(self.wave_numbers)
        return torch.cat([phases.sin(), phases.cos()], dim=-1).flatten(2), None


# The one place where geometry enters the model. A kind of geometry is one class: what it adds to the tokens
# (B, N, num_features), and pairs of atoms or None.
GEOMETRIES: dict[str, Any] = {
    "cartesian": ADAPTCartesianGeometry,
    "fourier": ADAPTFourierGeometry,
    "pairwise": ADAPTPairwiseGeometry,
}


def pair_distances(positions: torch.Tensor, cell: torch.Tensor | None) -> torch.Tensor:
    """
    Distances between all atoms, to the nearest image where there is a cell.

    Args:
        positions (`torch.Tensor` of shape `(B, N, 3)`): Å.
        cell (`torch.Tensor` of shape `(B, 3, 3)`, *optional*): Å; a zero row means not periodic along that direction.

    Returns:
        `torch.Tensor` of shape `(B, N, N)` in Å. The nearest of the 27 images around the one that rounding finds: the
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
    for image in torch.einsum("sk,bkl->sbl", shifts, cell):
        nearest = torch.minimum(nearest, (displacements + image[:, None, None, :]).norm(dim=-1))
    return nearest
