"""What all architectures share: normalisation by statistics of the training data, and the embedding of atom tokens."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_adapt import ADAPTConfig
from .elements_adapt import DESCRIPTOR_NAMES, SYMBOLS


def float32_or_better(values: torch.Tensor) -> torch.Tensor:
    """`values` in float32, or as they are where they are more precise: bfloat16 resolves only 0.06 Å at 12 Å."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Products in the precision of their factors; a graph that has to switch nothing off is kept on the disk whole."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


class ADAPTLinear(nn.Linear):
    """
    A linear layer of rows: of an input of more dimensions PyTorch's fixes the sizes of a graph that is differentiated
    within itself, as graphs of conservative forces are.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.flatten(0, -2)).unflatten(0, input.shape[:-1])


class ADAPTExactLinear(nn.Linear):
    """Of rows too, and in the precision of its input, whatever the weights were rounded to."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        rows = nn.functional.linear(input.flatten(0, -2), self.weight.to(input.dtype), bias)
        return rows.unflatten(0, input.shape[:-1])


class ADAPTDropout(nn.Dropout):
    """Dropout, also in a graph whose sizes are open and that is differentiated within itself."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.training and torch.compiler.is_compiling():
            return torch.native_dropout(input, self.p, True)[0]
        return super().forward(input)


class ADAPTConstant(nn.Module):
    """
    Numbers that follow a model from device to device, but keep their precision when it is cast, and are not saved.

    They are kept as Python numbers beside the buffer: models are built without memory by `from_pretrained`, which
    fills the buffer later (see `ADAPTPreTrainedModel._init_weights`).
    """

    def __init__(self, numbers: Sequence | float):
        super().__init__()
        self.numbers = numbers
        self.values: torch.Tensor
        self.register_buffer("values", self._tensor(None), persistent=False)

    def _tensor(self, device: torch.device | None) -> torch.Tensor:
        # Metal has no float64.
        dtype = torch.float32 if device is not None and device.type == "mps" else torch.float64
        # One number is a tensor of one: a graph would take one without dimensions for a number of Python's, which may
        # be another at the next call, and is traced twice then.
        return torch.atleast_1d(torch.tensor(self.numbers, dtype=dtype, device=device))

    def reset(self) -> None:
        """Fills the buffer with the numbers again, where it is."""
        if self.values.device.type != "meta":
            self.values = self._tensor(self.values.device)

    def _apply(self, fn, recurse=True):
        # A probe of the same type tells where `fn` would move the buffer to; its cast is not for these numbers.
        device = fn(torch.empty(0, device=self.values.device)).device
        self.values = self.values if device == self.values.device else self._tensor(device)
        return self

    def forward(self, dtype: torch.dtype) -> torch.Tensor:
        """The numbers in the floating-point type `dtype`."""
        return self.values.to(dtype)


class ADAPTNormalizer(nn.Module):
    """
    The published normalisation (x - mean) / (rescale_factor (std + eps)), in float32 or better.

    Args:
        mean, std (`Sequence[float]`, *optional*): Statistics of the training data. `None`: mean 0, and scale 1.
    """

    def __init__(self, mean: Sequence[float] | None, std: Sequence[float] | None, config: ADAPTConfig):
        super().__init__()
        scale = 1.0 if std is None else [config.rescale_factor * (s + config.normalization_eps) for s in std]
        self.mean = ADAPTConstant(0.0 if mean is None else list(mean))
        self.scale = ADAPTConstant(scale)

    def normalize(self, values: torch.Tensor) -> torch.Tensor:
        values = float32_or_better(values)
        return (values - self.mean(values.dtype)) / self.scale(values.dtype)

    def denormalize(self, values: torch.Tensor) -> torch.Tensor:
        values = float32_or_better(values)
        return values * self.scale(values.dtype) + self.mean(values.dtype)


class ADAPTElementFeatures(nn.Module):
    """What a token says of its element: the normalised descriptors that the model reads, and a learned vector."""

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        mean, std = config.feature_mean, config.feature_std
        self.normalizer = ADAPTNormalizer(mean and mean[3:], std and std[3:], config)
        names = DESCRIPTOR_NAMES if config.descriptors is None else config.descriptors
        self.columns = [DESCRIPTOR_NAMES.index(name) for name in names if name in DESCRIPTOR_NAMES]
        self.reads_number = len(self.columns) < len(names)
        self.num_features = len(names) + config.element_embedding_size
        self.embedding = (
            nn.Embedding(len(SYMBOLS), config.element_embedding_size) if config.element_embedding_size else None
        )

    def forward(self, descriptors: torch.Tensor, atomic_numbers: torch.Tensor | None) -> list[torch.Tensor]:
        normalized = self.normalizer.normalize(descriptors)
        # One slice a column: an index list would be copied to the device at every call.
        features = [normalized[..., column : column + 1] for column in self.columns]
        if not self.reads_number and self.embedding is None:
            return features
        if atomic_numbers is None:
            raise ValueError("this model reads the elements themselves: it needs atomic_numbers")
        if self.reads_number:
            features.append(atomic_numbers[..., None].to(normalized.dtype) / 10)
        if self.embedding is not None:
            features.append(self.embedding(atomic_numbers).to(normalized.dtype))
        return features


class ADAPTEmbeddings(nn.Module):
    """
    Atom tokens (B, N, 12) to embeddings (B, N, hidden_size), in float32 or better also under autocast and with weights
    of low precision.

    Args:
        num_coordinates (`int`): Columns of what the architecture makes of the positions; 0 where tokens see none.
    """

    def __init__(self, config: ADAPTConfig, num_coordinates: int):
        super().__init__()
        self.elements = ADAPTElementFeatures(config)
        sizes = [num_coordinates + self.elements.num_features, *config.embedding_sizes, config.hidden_size]
        self.layers = nn.ModuleList(ADAPTExactLinear(size, next_size) for size, next_size in pairwise(sizes))
        self.activation_fn = ACT2FN[config.hidden_act]
        # Electrons that are missing and electrons too many are different things; without either nothing is added.
        self.charge = ADAPTExactLinear(2, config.hidden_size, bias=False) if config.reads_charge else None
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = ADAPTDropout(config.hidden_dropout_prob)

    def forward(
        self,
        coordinates: torch.Tensor,
        descriptors: torch.Tensor,
        atomic_numbers: torch.Tensor | None,
        charge: torch.Tensor | None,
    ) -> torch.Tensor:
        with without_autocast(coordinates.device):
            embeddings = torch.cat([coordinates, *self.elements(descriptors, atomic_numbers)], dim=-1)
            for index, layer in enumerate(self.layers):
                embeddings = embeddings if index == 0 else self.activation_fn(embeddings)
                embeddings = layer(embeddings)
            if self.charge is not None and charge is not None:
                signed = torch.stack([charge, -charge], dim=-1).clamp(min=0).to(embeddings.dtype)
                embeddings = embeddings + self.charge(signed)[:, None]
        return self.dropout(self.norm(embeddings.to(self.norm.weight.dtype)))


__all__ = [
    "ADAPTConstant",
    "ADAPTDropout",
    "ADAPTEmbeddings",
    "ADAPTExactLinear",
    "ADAPTLinear",
    "ADAPTNormalizer",
    "float32_or_better",
    "without_autocast",
]
