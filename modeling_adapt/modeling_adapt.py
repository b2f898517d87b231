"""PyTorch ADAPT model: atoms are tokens, a plain Transformer encoder returns the force on each atom."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_adapt import ADAPTConfig, ADAPTEnergyConfig
from .elements_adapt import DESCRIPTOR_NAMES, SYMBOLS
from .geometry_adapt import GEOMETRIES, ADAPTNormalizer, pair_distances
from .pairwise_adapt import ADAPTPairs, ADAPTPairwiseLayer, ADAPTVectorHead

# Labels of padded atoms. The Trainer counts the labels that differ from it to normalise the loss.
IGNORE_INDEX = -100


@dataclass
class ADAPTModelOutput(ModelOutput):
    """
    Output of [`ADAPTModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, N, hidden_size)`): One state per atom.
        vectors (`torch.FloatTensor` of shape `(B, N, 3, num_vector_channels)`, *optional*):
            The equivariant stream of `geometry="pairwise"`.
        hidden_states, attentions: As everywhere in transformers; pairwise layers have no attentions over all atoms.
    """

    last_hidden_state: torch.Tensor | None = None
    vectors: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class ADAPTForcesOutput(ModelOutput):
    """
    Output of [`ADAPTForForces`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*): Loss in units of the normalised force.
        forces (`torch.FloatTensor` of shape `(B, N, 3)`): Forces in eV/Å; meaningless on padding.
        hidden_states, attentions: As everywhere in transformers.
    """

    loss: torch.Tensor | None = None
    forces: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class ADAPTEnergyOutput(ModelOutput):
    """
    Output of [`ADAPTForEnergy`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*): Mean squared error in units of the normalised energy.
        energy (`torch.DoubleTensor` of shape `(B,)`): Total energies in eV (float32 on devices without float64).
        forces (`torch.FloatTensor` of shape `(B, N, 3)`, *optional*): Conservative forces -dE/dR in eV/Å.
    """

    loss: torch.Tensor | None = None
    energy: torch.Tensor | None = None
    forces: torch.Tensor | None = None


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
        features = [self.normalizer.normalize(descriptors)[..., self.columns]]
        if not self.reads_number and self.embedding is None:
            return features
        if atomic_numbers is None:
            raise ValueError("this model reads the elements themselves: it needs atomic_numbers")
        if self.reads_number:
            features.append(atomic_numbers[..., None].to(descriptors.dtype) / 10)
        if self.embedding is not None:
            features.append(self.embedding(atomic_numbers).to(descriptors.dtype))
        return features


class ADAPTEmbeddings(nn.Module):
    """
    Raw atom tokens (B, N, 3 + descriptors) to embeddings (B, N, hidden_size) and, where the geometry has them, pairs.

    Computed in float32 or better, also under autocast and with low-precision weights: bfloat16 resolves only 0.06 Å
    at 12 Å.
    """

    def __init__(self, config: ADAPTConfig):
        super().__init__()
        self.geometry = GEOMETRIES[config.geometry](config)
        self.elements = ADAPTElementFeatures(config)
        sizes = [self.geometry.num_features + self.elements.num_features, *config.embedding_sizes, config.hidden_size]
        self.layers = nn.ModuleList(nn.Linear(size, next_size) for size, next_size in pairwise(sizes))
        self.activation_fn = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cell: torch.Tensor | None = None,
        atomic_numbers: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ADAPTPairs | None]:
        weight_dtype = self.norm.weight.dtype
        dtype = torch.promote_types(input_features.dtype, torch.float32)
        with torch.autocast(device_type=input_features.device.type, enabled=False):
            positions, descriptors = input_features.to(dtype).split([3, input_features.shape[-1] - 3], dim=-1)
            coordinates, pairs = self.geometry(positions, None if cell is None else cell.to(dtype), attention_mask)
            embeddings = torch.cat([coordinates, *self.elements(descriptors, atomic_numbers)], dim=-1)
            for index, layer in enumerate(self.layers):
                embeddings = embeddings if index == 0 else self.activation_fn(embeddings)
                embeddings = self._linear(layer, embeddings)
        return self.dropout(self.norm(embeddings.to(weight_dtype))), pairs and pairs.to(weight_dtype)

    @staticmethod
    def _linear(layer: Any, values: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(values, layer.weight.to(values.dtype), layer.bias.to(values.dtype))


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
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

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
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

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
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
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


class ADAPTPreTrainedModel(PreTrainedModel):
    config: ADAPTConfig
    base_model_prefix = "adapt"
    main_input_name = "input_features"
    input_modalities = ("atoms",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _no_split_modules = ["ADAPTEmbeddings", "ADAPTLayer", "ADAPTPairwiseLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs: dict = {
        "hidden_states": [ADAPTLayer, ADAPTPairwiseLayer],
        "attentions": ADAPTAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            # PyTorch's own scale, as in the published code: a fixed standard deviation would starve narrow layers. And
            # with biases of zero the tokens of data of one element would be zero, its descriptors being at their mean.
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = module.in_features**-0.5
                init.uniform_(module.bias, -bound, bound)


class ADAPTModel(ADAPTPreTrainedModel):
    """The encoder without a head: atom tokens (B, N, 12) to hidden states (B, N, hidden_size)."""

    def __init__(self, config: ADAPTConfig):
        super().__init__(config)
        layer_class = ADAPTPairwiseLayer if config.geometry == "pairwise" else ADAPTLayer
        self.embeddings = ADAPTEmbeddings(config)
        self.layers = nn.ModuleList(layer_class(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cell: torch.Tensor | None = None,
        atomic_numbers: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ADAPTModelOutput:
        """
        Args:
            input_features (`torch.FloatTensor` of shape `(B, N, 12)`):
                Raw tokens of [`ADAPTFeatureExtractor`]: x, y, z in Å and the element descriptors.
            attention_mask (`torch.Tensor` of shape `(B, N)`, *optional*):
                1 = atom, 0 = padding. `None`: no padding.
            cell (`torch.FloatTensor` of shape `(B, 3, 3)`, *optional*):
                Lattice vectors in Å as rows; zero rows along directions that are not periodic.
            atomic_numbers (`torch.LongTensor` of shape `(B, N)`, *optional*):
                For models that read them, see `config.descriptors`; others have the elements by their descriptors.

        Returns:
            [`ADAPTModelOutput`].
        """
        hidden_states, pairs = self.embeddings(input_features, attention_mask, cell, atomic_numbers)
        vectors = None
        if pairs is not None:
            vectors = hidden_states.new_zeros(*hidden_states.shape[:2], 3, self.config.num_vector_channels)
            for layer in self.layers:
                hidden_states, vectors = layer(hidden_states, vectors, pairs)
        else:
            attention_mask = create_bidirectional_mask(
                config=self.config,
                inputs_embeds=hidden_states,
                attention_mask=attention_mask,
                and_mask_function=self._within_attention_radius(input_features, cell),
            )
            for layer in self.layers:
                hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return ADAPTModelOutput(last_hidden_state=self.norm(hidden_states), vectors=vectors)

    def _within_attention_radius(self, input_features: torch.Tensor, cell: torch.Tensor | None) -> Callable | None:
        radius = self.config.attention_radius
        if radius is None:
            return None
        within = pair_distances(input_features[..., :3], cell) <= radius
        return lambda batch_idx, head_idx, q_idx, kv_idx: within[batch_idx, q_idx, kv_idx]


class ADAPTForForces(ADAPTPreTrainedModel):
    """ADAPT with a force head. The forces are not the gradient of an energy: for relaxation, not dynamics."""

    def __init__(self, config: ADAPTConfig):
        super().__init__(config)
        self.adapt = ADAPTModel(config)
        self.force_head = (
            ADAPTVectorHead(config) if config.geometry == "pairwise" else nn.Linear(config.hidden_size, 3)
        )
        self.normalizer = ADAPTNormalizer(config.force_mean, config.force_std, config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cell: torch.Tensor | None = None,
        atomic_numbers: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        importance_weights: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ADAPTForcesOutput:
        """
        Args:
            input_features, attention_mask, cell, atomic_numbers:
                See [`ADAPTModel.forward`].
            labels (`torch.FloatTensor` of shape `(B, N, 3)`, *optional*):
                Reference forces in eV/Å, -100 on padding.
            importance_weights (`torch.FloatTensor` of shape `(B, N)`, *optional*):
                Weights of the atoms in the weighted losses. `None`: 1.
            num_items_in_batch (`int`, *optional*):
                Force components over which the loss is averaged; `Trainer` counts them over the whole accumulation
                window and all processes. `None`: those of this batch.

        Returns:
            [`ADAPTForcesOutput`] with `forces` (B, N, 3) in eV/Å.
        """
        outputs = self.adapt(input_features, attention_mask, cell, atomic_numbers, **kwargs)
        states = (outputs.last_hidden_state,) if outputs.vectors is None else (outputs[0], outputs.vectors)
        forces = self.normalizer.denormalize(self.force_head(*states))
        if self.config.remove_net_force:
            forces = self._without_net_force(forces, attention_mask)
        loss = None
        if labels is not None:
            loss = self._loss(forces, labels, importance_weights, num_items_in_batch)
        return ADAPTForcesOutput(
            loss=loss, forces=forces, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    @staticmethod
    def _without_net_force(forces: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        if attention_mask is None:
            return forces - forces.mean(dim=1, keepdim=True)
        is_atom = attention_mask[..., None].to(forces.dtype)
        mean = (forces * is_atom).sum(dim=1, keepdim=True) / is_atom.sum(dim=1, keepdim=True)
        return forces - mean

    def _loss(
        self,
        forces: torch.Tensor,
        labels: torch.Tensor,
        importance_weights: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        is_atom = labels[..., 0] != IGNORE_INDEX
        error = (forces - labels) * is_atom[..., None] / forces.new_tensor(self.normalizer.scale)
        num_components = 3 * is_atom.sum() if num_items_in_batch is None else num_items_in_batch
        if self.config.force_loss == "mse" or importance_weights is None:
            importance_weights = is_atom.to(error.dtype)
        if self.config.force_loss == "weighted_l2":
            return 3 * (importance_weights * torch.linalg.vector_norm(error, dim=-1)).sum() / num_components
        return (importance_weights * error.square().sum(dim=-1)).sum() / num_components


class ADAPTResidualBlock(nn.Module):
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


class ADAPTForEnergy(ADAPTPreTrainedModel):
    """
    ADAPT with an energy head: the published residual MLP over the flattened tokens, which depends on the order of the
    atoms, or (`architecture="pooled"`) a sum of atomic energies, whose gradient is a conservative force.
    """

    config: ADAPTEnergyConfig
    _no_split_modules = ["ADAPTEmbeddings", "ADAPTLayer", "ADAPTPairwiseLayer", "ADAPTResidualBlock"]

    def __init__(self, config: ADAPTEnergyConfig):
        super().__init__(config)
        if config.architecture == "pooled":
            self.adapt = ADAPTModel(config)
            self.energy_head: nn.Module = nn.Sequential(
                nn.Linear(config.hidden_size, config.hidden_size), nn.SiLU(), nn.Linear(config.hidden_size, 1)
            )
        else:
            sizes = [config.max_atoms * config.num_features, *config.energy_hidden_sizes]
            self.blocks = nn.ModuleList(ADAPTResidualBlock(*pair, config) for pair in pairwise(sizes))
            self.energy_head = nn.Linear(sizes[-1], 1)
            self.feature_normalizer = ADAPTNormalizer(config.feature_mean, config.feature_std, config)
        self.energy_normalizer = ADAPTNormalizer(
            None if config.energy_mean is None else [config.energy_mean],
            None if config.energy_std is None else [config.energy_std],
            config,
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cell: torch.Tensor | None = None,
        atomic_numbers: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        force_labels: torch.Tensor | None = None,
        compute_forces: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ADAPTEnergyOutput:
        """
        Args:
            input_features, attention_mask, cell:
                See [`ADAPTModel.forward`]; for `architecture="mlp"` at most `config.max_atoms` atoms, no cell needed.
            atomic_numbers (`torch.LongTensor` of shape `(B, N)`, *optional*):
                For the reference energies of `config.element_energies`; 0 on padding.
            labels (`torch.FloatTensor` of shape `(B,)`, *optional*):
                Reference total energies in eV; -100 counts for nothing.
            force_labels (`torch.FloatTensor` of shape `(B, N, 3)`, *optional*):
                Reference forces in eV/Å, -100 on padding, which `architecture="pooled"` learns with its gradient.
            compute_forces (`bool`, *optional*):
                Whether to return conservative forces -dE/dR. `None`: where there are `force_labels`.
            num_items_in_batch (`int`, *optional*):
                Structures over which the loss is averaged. `None`: those of this batch.

        Returns:
            [`ADAPTEnergyOutput`] with `energy` (B,) in eV and, if asked for, `forces` (B, N, 3) in eV/Å.

        Raises:
            `ValueError`: a structure has more than `config.max_atoms` atoms (`"mlp"`), forces are asked of `"mlp"`, or
            an element has no reference energy.
        """
        compute_forces = force_labels is not None if compute_forces is None else compute_forces
        if compute_forces and self.config.architecture != "pooled":
            raise ValueError("the published energy network has no usable gradient; forces need architecture='pooled'")
        if compute_forces:
            with torch.enable_grad():
                input_features = input_features.detach().requires_grad_()
                energy = self._pooled_energy(input_features, attention_mask, cell, atomic_numbers, **kwargs)
                (gradient,) = torch.autograd.grad(energy.sum(), input_features, create_graph=self.training)
            forces = -gradient[..., :3]
            energy = energy if torch.is_grad_enabled() else energy.detach()
        elif self.config.architecture == "pooled":
            energy = self._pooled_energy(input_features, attention_mask, cell, atomic_numbers, **kwargs)
            forces = None
        else:
            energy, forces = self._flattened_energy(input_features, attention_mask, atomic_numbers), None

        loss = None
        if labels is not None:
            loss = self._loss(energy, labels, forces, force_labels, attention_mask, input_features)
            is_labelled = labels != IGNORE_INDEX
            count = is_labelled.sum() if num_items_in_batch is None else num_items_in_batch
            loss = (loss * is_labelled).sum() / count
        return ADAPTEnergyOutput(loss=loss, energy=energy, forces=forces)

    def _pooled_energy(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cell: torch.Tensor | None,
        atomic_numbers: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        states = self.adapt(input_features, attention_mask, cell, atomic_numbers, **kwargs).last_hidden_state
        atomic_energies = self.energy_normalizer.denormalize(self.energy_head(states))[..., 0]
        if attention_mask is not None:
            atomic_energies = atomic_energies * attention_mask
        return self._with_references(atomic_energies.sum(dim=1, dtype=_double(atomic_energies)), atomic_numbers)

    def _with_references(self, energy: torch.Tensor, atomic_numbers: torch.Tensor | None) -> torch.Tensor:
        """`energy` (B,) in eV plus the reference energies of the atoms, thousands of eV where float32 would drown."""
        if not self.config.element_energies:
            return energy
        if atomic_numbers is None:
            raise ValueError("this model adds reference energies of the elements: it needs atomic_numbers")
        known = self.config.element_energies
        table = energy.new_tensor([0.0, *(known.get(symbol, math.nan) for symbol in SYMBOLS[1:])])
        references = table[atomic_numbers]
        if bool(references.isnan().any()):
            unknown = SYMBOLS[int(atomic_numbers[references.isnan()][0])]
            raise ValueError(f"no reference energy for {unknown}; the model knows {', '.join(known)}")
        return energy + references.sum(dim=1)

    def _flattened_energy(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None,
        atomic_numbers: torch.Tensor | None,
    ) -> torch.Tensor:
        max_atoms = self.config.max_atoms
        if input_features.shape[1] > max_atoms:
            counts = attention_mask.sum(dim=1) if attention_mask is not None else [input_features.shape[1]]
            raise ValueError(
                f"a structure has {int(max(counts))} atoms, but this energy model takes at most {max_atoms}"
            )
        # Normalise, then pad with zeros, as the published training code does (its inference code does the reverse).
        tokens = self.feature_normalizer.normalize(input_features)
        if attention_mask is not None:
            tokens = tokens * attention_mask[..., None]
        tokens = nn.functional.pad(tokens, (0, 0, 0, max_atoms - tokens.shape[1]))
        hidden_states = tokens.flatten(1).to(self.dtype)
        for block in self.blocks:
            hidden_states = block(hidden_states)
        energy = self.energy_normalizer.denormalize(self.energy_head(hidden_states))[:, 0]
        return self._with_references(energy.to(_double(energy)), atomic_numbers)

    def _loss(
        self,
        energy: torch.Tensor,
        labels: torch.Tensor,
        forces: torch.Tensor | None,
        force_labels: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        input_features: torch.Tensor,
    ) -> torch.Tensor:
        """Loss of each structure (B,): squared error of the energy (per atom where pooled), and of the force."""
        error = (energy - labels).to(torch.promote_types(input_features.dtype, torch.float32))
        if self.config.architecture == "pooled":
            count = input_features.shape[1] if attention_mask is None else attention_mask.sum(dim=1)
            error = error / count
        loss = (error / error.new_tensor(self.energy_normalizer.scale)).square()
        if forces is not None and force_labels is not None:
            is_component = force_labels != IGNORE_INDEX
            scale = 1.0 if self.config.force_std is None else sum(self.config.force_std) / 3
            squares = ((forces - force_labels) * is_component / scale).square().sum(dim=(1, 2))
            loss = loss + self.config.force_weight * squares / is_component.sum(dim=(1, 2)).clamp(min=1)
        return loss


def _double(values: torch.Tensor) -> torch.dtype:
    """float64, where the device has it."""
    return torch.float64 if values.device.type != "mps" else values.dtype


def gives_forces(model: PreTrainedModel) -> bool:
    """Whether `model` predicts forces: a force model does, and a pooled energy, by its gradient."""
    return not isinstance(model, ADAPTForEnergy) or model.config.architecture == "pooled"


def forces_of(model: PreTrainedModel, **inputs: torch.Tensor) -> Any:
    """What `model` says, with `forces` (B, N, 3) in eV/Å: its own, or the negative gradient of its energy."""
    asked = {"compute_forces": True} if isinstance(model, ADAPTForEnergy) else {}
    with torch.no_grad():  # not inference_mode, in which a pooled energy has no gradient
        return model(**inputs, **asked)


# So that `save_pretrained` puts this file into the checkpoint, and its name into config.json.
ADAPTForForces.register_for_auto_class("AutoModel")
ADAPTForEnergy.register_for_auto_class("AutoModel")

__all__ = ["ADAPTForEnergy", "ADAPTForForces", "ADAPTModel", "ADAPTPreTrainedModel", "forces_of", "gives_forces"]
