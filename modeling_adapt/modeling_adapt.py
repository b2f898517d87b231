"""PyTorch ADAPT models: atoms are tokens, a network of one of the architectures reads them, a read-out answers."""

import json
import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel, load_state_dict
from transformers.processing_utils import Unpack
from transformers.utils import (
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    ModelOutput,
    TransformersKwargs,
    cached_file,
    logging,
)
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_adapt import ADAPTConfig, ADAPTEnergyConfig
from .elements_adapt import SYMBOLS
from .embeddings_adapt import ADAPTConstant, ADAPTExactLinear, ADAPTNormalizer, float32_or_better, without_autocast
from .encoder_adapt import (
    ADAPTAttention,
    ADAPTCartesianEncoder,
    ADAPTComponentForces,
    ADAPTFourierEncoder,
    ADAPTLayer,
)
from .mesh_adapt import through_mesh  # noqa: F401  transformers 5.4 copies only what this file names
from .mlp_adapt import ADAPTResidualBlock, ADAPTResidualMLP, ADAPTTotalEnergy
from .neighbours_adapt import find_neighbours  # noqa: F401  likewise
from .pairwise_adapt import ATOMS_AT_ONCE, ADAPTPairwise, ADAPTPairwiseLayer, ADAPTVectorForces
from .pretrained_adapt import in_the_box
from .reciprocal_adapt import ADAPTReciprocalLayer  # noqa: F401  likewise
from .repulsion_adapt import ADAPTRepulsion
from .versions_adapt import FORMAT_VERSION, upgraded_weights

logger = logging.get_logger(__name__)

# Labels of padded atoms. The Trainer counts the labels that differ from it to normalise the loss.
IGNORE_INDEX = -100

# Columns of a data set that the collator of this project makes its inputs of.
_COLUMNS = ("positions", "pbc", "forces", "energy", "stress", "defect_sites", "source_weight")


def _keeps_columns(forward: Callable) -> Callable:
    """
    `Trainer` takes away the columns of a data set that `forward` does not name, before the collator sees them. So they
    are named in its signature, though nobody passes them.
    """
    inputs = signature(forward)
    named, rest = list(inputs.parameters.values())[:-1], list(inputs.parameters.values())[-1:]
    columns = [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in _COLUMNS]
    forward.__signature__ = inputs.replace(parameters=[*named, *columns, *rest])  # type: ignore[attr-defined]
    return forward


class ADAPTAtomicEnergies(nn.Module):
    """The normalised energy of each atom (B, N, 1), read from its state."""

    def __init__(self, config: ADAPTEnergyConfig):
        super().__init__()
        hidden_size = config.hidden_size
        self.layers = nn.Sequential(
            ADAPTExactLinear(hidden_size, hidden_size), nn.SiLU(), ADAPTExactLinear(hidden_size, 1)
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.layers(hidden_states)

    def features(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """What the last layer reads of each atom, and a 1 for its bias (B, N, D): energies are linear in them."""
        return nn.functional.pad(self.layers[:-1](hidden_states), (0, 1), value=1.0)


class Network(NamedTuple):
    """What an architecture is made of: its trunk, and its read-outs of forces and of energies."""

    trunk: type[nn.Module]
    forces: type[nn.Module] | None
    energies: type[nn.Module]


# By the names of `ARCHITECTURES`, which says what each reads of the configuration.
NETWORKS = {
    "cartesian": Network(ADAPTCartesianEncoder, ADAPTComponentForces, ADAPTAtomicEnergies),
    "fourier": Network(ADAPTFourierEncoder, ADAPTComponentForces, ADAPTAtomicEnergies),
    "pairwise": Network(ADAPTPairwise, ADAPTVectorForces, ADAPTAtomicEnergies),
    "mlp": Network(ADAPTResidualMLP, None, ADAPTTotalEnergy),
}


def weighted_l2(error: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """w |ΔF| of each atom, the published code; three times it, as it is averaged over components."""
    return 3 * weights * torch.linalg.vector_norm(error, dim=-1)


def l2(error: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """|ΔF| of each atom; three times it, likewise."""
    return weighted_l2(error, torch.ones_like(weights))


def weighted_mse(error: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """w ΔF² of each atom, summed over components; the text of the paper."""
    return weights * error.square().sum(dim=-1)


def mse(error: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """ΔF² of each atom, summed over components."""
    return error.square().sum(dim=-1)


# By the names of `FORCE_LOSSES` in `architectures_adapt.py`: from errors (B, N, 3) and weights (B, N) to (B, N).
LOSS_FUNCTIONS = {"weighted_l2": weighted_l2, "l2": l2, "weighted_mse": weighted_mse, "mse": mse}
# Likewise of `ENERGY_LOSSES`: from errors (B,) to (B,).
ENERGY_LOSS_FUNCTIONS = {"mse": torch.square, "mae": torch.abs}


def force_losses(
    kind: str,
    forces: torch.Tensor,
    labels: torch.Tensor,
    importance_weights: torch.Tensor | None,
    scale: torch.Tensor | float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Losses of the atoms (B, N), zero on padding, and which atoms (B, N) have labels.

    Args:
        kind (`str`): Of `LOSS_FUNCTIONS`.
        forces, labels (`torch.FloatTensor` of shape `(B, N, 3)`): In eV/Å; labels are -100 on padding.
        scale (`torch.Tensor` or `float`): By which errors are divided first, in eV/Å.
    """
    is_atom = labels[..., 0] != IGNORE_INDEX
    error = (forces - labels) * is_atom[..., None] / scale
    weights = is_atom.to(error.dtype) if importance_weights is None else importance_weights
    return LOSS_FUNCTIONS[kind](error, weights), is_atom


def volumes_of(cell: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """(B,) in Å³, in the type of `like` (B, ...); exactly 0 of structures that are not periodic in all directions."""
    if cell is None:
        return like.new_zeros(len(like))
    first, second, third = cell.to(like.dtype).unbind(dim=1)
    return (first * torch.linalg.cross(second, third)).sum(dim=-1).abs()


def strained(vectors: torch.Tensor, strain: torch.Tensor) -> torch.Tensor:
    """
    Vectors (B, K, 3) in a space that is strained by the symmetric part of `strain` (B, 3, 3). No matrix product, which
    may be rounded to TF32, so that vectors stay what they are where the strain is zero.
    """
    symmetric = (strain + strain.transpose(1, 2)) / 2
    return vectors + (vectors[:, :, None, :] * symmetric[:, None]).sum(dim=-1)


def _read_out(
    head: Callable[..., torch.Tensor], hidden_states: torch.Tensor, *vectors: torch.Tensor | None
) -> torch.Tensor:
    """What `head` makes of states and vectors, in float32 or better also under autocast."""
    with without_autocast(hidden_states.device):
        return head(float32_or_better(hidden_states), *(v if v is None else float32_or_better(v) for v in vectors))


def _without_net_force(forces: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    if attention_mask is None:
        return forces - forces.mean(dim=1, keepdim=True)
    is_atom = attention_mask[..., None].to(forces.dtype)
    mean = (forces * is_atom).sum(dim=1, keepdim=True) / is_atom.sum(dim=1, keepdim=True)
    return forces - mean


@dataclass
class ADAPTModelOutput(ModelOutput):
    """
    Output of [`ADAPTModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, N, hidden_size)`):
            One state per atom; of `"mlp"` one per structure, (B, width).
        vectors (`torch.FloatTensor` of shape `(B, N, 3, num_vector_channels)`, *optional*):
            The equivariant stream of force models that have one.
        hidden_states, attentions: As everywhere in transformers; pairwise layers have no attentions over all atoms.
    """

    last_hidden_state: torch.Tensor | None = None
    vectors: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class EnergyParts(NamedTuple):
    """Energies of structures (B,) and of atoms (B, N) in eV, where the network has these, and what it said."""

    energy: torch.Tensor
    energies: torch.Tensor | None
    outputs: ADAPTModelOutput


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
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
            Mean squared error in units of the normalised energy, plus that of the forces and of the stress.
        energy (`torch.DoubleTensor` of shape `(B,)`): Total energies in eV (float32 on devices without float64).
        forces (`torch.FloatTensor` of shape `(B, N, 3)`, *optional*): Conservative forces -dE/dR in eV/Å.
        stress (`torch.FloatTensor` of shape `(B, 3, 3)`, *optional*):
            The derivative by strain per volume in eV/Å³, positive under tension as in ASE; NaN of structures that are
            not periodic in all three directions.
        energies (`torch.DoubleTensor` of shape `(B, N)`, *optional*):
            Of the atoms, whose sum is the energy, in eV; 0 on padding. `None` of `"mlp"`.
        features (`torch.FloatTensor` of shape `(B, N, D)`, *optional*):
            What the last layer reads of each atom, and a 1 for its bias, where it was asked for: the energies are
            linear in them.
        hidden_states, attentions: As everywhere in transformers.
    """

    loss: torch.Tensor | None = None
    energy: torch.Tensor | None = None
    forces: torch.Tensor | None = None
    stress: torch.Tensor | None = None
    energies: torch.Tensor | None = None
    features: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class ADAPTPreTrainedModel(PreTrainedModel):
    config: ADAPTConfig
    base_model_prefix = "adapt"
    main_input_name = "input_features"
    input_modalities = ("atoms",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _no_split_modules = ["ADAPTEmbeddings", "ADAPTLayer", "ADAPTPairwiseLayer", "ADAPTReciprocalLayer"]
    _no_split_modules += ["ADAPTResidualBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs: dict = {
        "hidden_states": [ADAPTLayer, ADAPTPairwiseLayer, ADAPTResidualBlock],
        "attentions": ADAPTAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, ADAPTConstant):
            module.reset()
        if isinstance(module, nn.Linear):
            # PyTorch's own scale, as in the published code: a fixed standard deviation would starve narrow layers. And
            # with biases of zero the tokens of data of one element would be zero, its descriptors being at their mean.
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = module.in_features**-0.5
                init.uniform_(module.bias, -bound, bound)

    def get_input_embeddings(self) -> nn.Module:
        """The module that reads the tokens; it is no table of a vocabulary."""
        return self.base_model.trunk.embeddings

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """As everywhere in transformers; weights of an earlier format are upgraded, as their configuration is."""
        name = in_the_box(pretrained_model_name_or_path)
        if name is None or "state_dict" in kwargs:
            return super().from_pretrained(name, *model_args, config=config, **kwargs)
        hub = {key: kwargs[key] for key in _HUB_OPTIONS if key in kwargs}
        written, _ = cls.config_class.get_config_dict(name, **hub)
        if written.get("format_version", 1) == FORMAT_VERSION:
            return super().from_pretrained(name, *model_args, config=config, **kwargs)
        if config is None:
            of_config = {key: value for key, value in kwargs.items() if key in cls.config_class.__dataclass_fields__}
            config = cls.config_class.from_pretrained(name, **hub | of_config)
            kwargs = {key: value for key, value in kwargs.items() if key not in of_config or key == "dtype"}
        weights = upgraded_weights(written, _stored_weights(name, hub))
        kwargs = {key: value for key, value in kwargs.items() if key not in hub}
        loaded = super().from_pretrained(None, *model_args, config=config, state_dict=weights, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.name_or_path = model.config._name_or_path = str(name)
        return loaded

    def save_pretrained(self, *args, **kwargs):
        """
        As everywhere in transformers; the code of the pipeline goes along, for those who lack this package. Weights
        are as readable as what is beside them, where safetensors makes them readable to their owner alone.
        """
        # transformers copies what the file of a model imports from beside it, wherever the line stands.
        from .pipeline_adapt import AtomForcesPipeline  # noqa: F401

        saved = super().save_pretrained(*args, **kwargs)
        folder = Path(args[0] if args else kwargs["save_directory"])
        if (config := folder / CONFIG_NAME).is_file():
            for weights in folder.glob("model*.safetensors"):
                weights.chmod(config.stat().st_mode)
        return saved


def _stored_weights(name: str, hub: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint under the names that they have there, of one file or of many."""
    if (file := cached_file(name, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **hub)) is not None:
        return load_state_dict(file)
    with open(cached_file(name, SAFE_WEIGHTS_INDEX_NAME, **hub), encoding="utf-8") as index:
        shards = sorted(set(json.load(index)["weight_map"].values()))
    parts = [load_state_dict(cached_file(name, shard, **hub)) for shard in shards]
    return {key: value for part in parts for key, value in part.items()}


_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


class ADAPTModel(ADAPTPreTrainedModel):
    """The network without a read-out: atom tokens (B, N, 12) to hidden states (B, N, hidden_size)."""

    def __init__(self, config: ADAPTConfig):
        super().__init__(config)
        self.trunk = NETWORKS[config.architecture].trunk(config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cell: torch.Tensor | None = None,
        atomic_numbers: torch.Tensor | None = None,
        neighbours: torch.Tensor | None = None,
        neighbour_shifts: torch.Tensor | None = None,
        wave_numbers: torch.Tensor | None = None,
        charge: torch.Tensor | None = None,
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
            neighbours (`torch.LongTensor` of shape `(B, N, S)`, *optional*):
                For models with a `config.cutoff`: the atoms within it, -1 in empty slots, as an
                [`ADAPTFeatureExtractor`] with that cutoff gives them. `None`: they are searched here, on the host.
            neighbour_shifts (`torch.IntTensor` of shape `(B, N, S, 3)`, *optional*):
                By how many lattice vectors each neighbour is shifted.
            wave_numbers (`torch.IntTensor` of shape `(B, K, 3)`, *optional*):
                For models with `config.long_range`: the waves of the lattice, zeros in empty slots, as the feature
                extractor of such a model gives them. `None`: they are searched here, on the host.
            charge (`torch.FloatTensor` of shape `(B,)`, *optional*):
                For models with `config.reads_charge`: total charge in elementary charges. `None`: 0.

        Returns:
            [`ADAPTModelOutput`]: The states of the atoms.
        """
        if input_features.dtype in (torch.float16, torch.bfloat16):
            logger.warning_once(
                f"positions came in {input_features.dtype}, which resolves 0.06 Å or less: forces suffer; let the "
                "weights be of that type (dtype=...), and the inputs as the feature extractor gives them"
            )
        if charge is not None and not self.config.reads_charge:
            raise ValueError("this model was trained without charges (reads_charge): it takes none")
        of_lattice = (neighbours, neighbour_shifts, wave_numbers)
        hidden_states, vectors = self.trunk(
            input_features, attention_mask, cell, atomic_numbers, *of_lattice, charge, **kwargs
        )
        return ADAPTModelOutput(last_hidden_state=hidden_states, vectors=vectors)


class ADAPTForForces(ADAPTPreTrainedModel):
    """ADAPT with a read-out for forces. They are not the gradient of an energy: for relaxation, not dynamics."""

    def __init__(self, config: ADAPTConfig):
        super().__init__(config)
        self.adapt = ADAPTModel(config)
        read_out: Any = NETWORKS[config.architecture].forces
        self.force_head = read_out(config)
        self.normalizer = ADAPTNormalizer(config.force_mean, config.force_std, config)
        self.post_init()

    @_keeps_columns
    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cell: torch.Tensor | None = None,
        atomic_numbers: torch.Tensor | None = None,
        neighbours: torch.Tensor | None = None,
        neighbour_shifts: torch.Tensor | None = None,
        wave_numbers: torch.Tensor | None = None,
        charge: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        importance_weights: torch.Tensor | None = None,
        structure_weights: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ADAPTForcesOutput:
        """
        Args:
            input_features, attention_mask, cell, atomic_numbers, neighbours, neighbour_shifts, wave_numbers, charge:
                See [`ADAPTModel.forward`].
            labels (`torch.FloatTensor` of shape `(B, N, 3)`, *optional*):
                Reference forces in eV/Å, -100 on padding.
            importance_weights (`torch.FloatTensor` of shape `(B, N)`, *optional*):
                Weights of the atoms in the weighted losses. `None`: 1.
            structure_weights (`torch.FloatTensor` of shape `(B,)`, *optional*):
                By which the loss of each structure is multiplied. `None`: 1.
            num_items_in_batch (`int`, *optional*):
                Force components over which the loss is averaged; `Trainer` counts them over the whole accumulation
                window and all processes. `None`: those of this batch.

        Returns:
            [`ADAPTForcesOutput`]: `forces` (B, N, 3) in eV/Å.
        """
        of_lattice = (neighbours, neighbour_shifts, wave_numbers)
        inputs = (input_features, attention_mask, cell, atomic_numbers, *of_lattice, charge)
        outputs = self.adapt(*inputs, **kwargs)
        normalized = _read_out(self.force_head, outputs.last_hidden_state, outputs.vectors)
        forces = self.normalizer.denormalize(normalized)
        if self.config.remove_net_force:
            forces = _without_net_force(forces, attention_mask)
        loss = None
        if labels is not None:
            scale = self.normalizer.scale(forces.dtype)
            losses, is_atom = force_losses(self.config.force_loss, forces, labels, importance_weights, scale)
            losses = losses if structure_weights is None else losses * structure_weights[:, None]
            loss = losses.sum() / (3 * is_atom.sum() if num_items_in_batch is None else num_items_in_batch)
        return ADAPTForcesOutput(
            loss=loss, forces=forces, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class ADAPTForEnergy(ADAPTPreTrainedModel):
    """
    ADAPT with a read-out for the energy: of atoms, whose sum has a conservative force as its gradient, or of the whole
    structure (`architecture="mlp"`, as published), which depends on the order of the atoms and has none.
    """

    config: ADAPTEnergyConfig

    def __init__(self, config: ADAPTEnergyConfig):
        super().__init__(config)
        self.adapt = ADAPTModel(config)
        self.energy_head = NETWORKS[config.architecture].energies(config)
        self.energy_normalizer = ADAPTNormalizer(
            None if config.energy_mean is None else [config.energy_mean],
            None if config.energy_std is None else [config.energy_std],
            config,
        )
        self.references: ADAPTConstant | None = None
        if known := config.element_energies:
            self.references = ADAPTConstant([0.0, *(known.get(symbol, math.nan) for symbol in SYMBOLS[1:])])
        self.repulsion = ADAPTRepulsion(config) if config.short_range_repulsion else None
        self.post_init()

    @_keeps_columns
    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cell: torch.Tensor | None = None,
        atomic_numbers: torch.Tensor | None = None,
        neighbours: torch.Tensor | None = None,
        neighbour_shifts: torch.Tensor | None = None,
        wave_numbers: torch.Tensor | None = None,
        charge: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        reference_forces: torch.Tensor | None = None,
        importance_weights: torch.Tensor | None = None,
        structure_weights: torch.Tensor | None = None,
        compute_forces: bool | None = None,
        reference_stress: torch.Tensor | None = None,
        compute_stress: bool | None = None,
        compute_features: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ADAPTEnergyOutput:
        """
        Args:
            input_features, attention_mask, cell, neighbours, neighbour_shifts, wave_numbers, charge:
                See [`ADAPTModel.forward`]; for `architecture="mlp"` at most `config.max_atoms` atoms, no cell needed.
            atomic_numbers (`torch.LongTensor` of shape `(B, N)`, *optional*):
                For the reference energies of `config.element_energies`; 0 on padding.
            labels (`torch.FloatTensor` of shape `(B,)`, *optional*):
                Reference total energies in eV. -100: the structure counts for nothing. NaN: its energy does not, as it
                is not known, and its forces do.
            reference_forces (`torch.FloatTensor` of shape `(B, N, 3)`, *optional*):
                Reference forces in eV/Å, -100 on padding, which are learned with the gradient of the energy.
            importance_weights (`torch.FloatTensor` of shape `(B, N)`, *optional*):
                Weights of the atoms in the weighted losses of forces. `None`: 1.
            structure_weights (`torch.FloatTensor` of shape `(B,)`, *optional*):
                By which the loss of each structure is multiplied, energy and forces. `None`: 1.
            compute_forces (`bool`, *optional*):
                Whether to return conservative forces -dE/dR, under `torch.no_grad` and `torch.inference_mode` too.
                `None`: where there are `reference_forces`.
            reference_stress (`torch.FloatTensor` of shape `(B, 3, 3)`, *optional*):
                Reference stress in eV/Å³, -100 where there is none, which is learned if `config.stress_weight` is not
                0.
            compute_stress (`bool`, *optional*):
                Whether to return the stress, likewise. `None`: where it is learned.
            compute_features (`bool`, defaults to `False`):
                Whether to return what the last layer reads, which has no gradient; not of `architecture="mlp"`.
            num_items_in_batch (`int`, *optional*):
                Structures over which the loss is averaged. `None`: those of this batch.

        Returns:
            [`ADAPTEnergyOutput`]: `energy` (B,) and `energies` (B, N) in eV and, if asked for, `forces` (B, N, 3) in
            eV/Å and `stress` (B, 3, 3) in eV/Å³.

        Raises:
            `ValueError`: A structure has more than `config.max_atoms` atoms (`"mlp"`), forces or a stress are asked
                of a model that has none, or an element has no reference energy.
        """
        compute_forces = reference_forces is not None if compute_forces is None else compute_forces
        learns_stress = reference_stress is not None and self.config.gives_stress and self.config.stress_weight > 0
        compute_stress = learns_stress if compute_stress is None else compute_stress
        of_lattice = (neighbours, neighbour_shifts, wave_numbers)
        inputs = (input_features, attention_mask, cell, atomic_numbers, *of_lattice, charge)
        forces = strain_gradient = stress = None
        if compute_forces or compute_stress:
            found, forces, strain_gradient = self._energy_and_gradient(*inputs, strain=compute_stress, **kwargs)
        else:
            found = self._energy(*inputs, **kwargs)
        energy, energies, outputs = found
        if strain_gradient is not None:
            volumes = volumes_of(cell, strain_gradient)
            stress = strain_gradient / torch.where(volumes > 0, volumes, math.nan)[:, None, None]
        loss = None
        if labels is not None:
            atoms = input_features.shape[1] if attention_mask is None else attention_mask.sum(dim=1)
            error = torch.where(labels.isnan(), 0.0, energy - labels)
            error = error.to(torch.promote_types(input_features.dtype, torch.float32))
            error = error if self.config.traits.reads_order else error / atoms
            losses = ENERGY_LOSS_FUNCTIONS[self.config.energy_loss](error / self.energy_normalizer.scale(error.dtype))
            if forces is not None and reference_forces is not None:
                losses = losses + self._force_losses(forces, reference_forces, importance_weights)
            if strain_gradient is not None and reference_stress is not None and learns_stress:
                losses = losses + self._stress_losses(strain_gradient, reference_stress, volumes, atoms)
            losses = losses if structure_weights is None else losses * structure_weights
            is_labelled = labels != IGNORE_INDEX
            count = is_labelled.sum() if num_items_in_batch is None else num_items_in_batch
            loss = (losses * is_labelled).sum() / count
        return ADAPTEnergyOutput(
            loss=loss,
            energy=energy,
            forces=forces if compute_forces else None,
            stress=stress,
            energies=energies,
            features=self._features(outputs) if compute_features else None,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _energy_and_gradient(
        self, input_features: torch.Tensor, *inputs: torch.Tensor | None, strain: bool, **kwargs: Any
    ) -> tuple[EnergyParts, torch.Tensor, torch.Tensor | None]:
        """
        Energies, forces (B, N, 3), which have a gradient where one is asked for, and with `strain` likewise the
        derivative by strain (B, 3, 3) in eV.
        """
        if not self.config.traits.has_gradient:
            raise ValueError(
                f"the energy of architecture '{self.config.architecture}' has no usable gradient; forces need another"
            )
        if strain and not self.config.traits.has_stress:
            raise ValueError(
                f"the energy of architecture '{self.config.architecture}' knows no strain; a stress needs another"
            )
        if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            # Where nothing may have a gradient; a copy made outside may.
            with torch.inference_mode(False), torch.no_grad():
                copies = [tensor if tensor is None else tensor.clone() for tensor in inputs]
                return self._energy_and_gradient(input_features.clone(), *copies, strain=strain, **kwargs)
        positions, descriptors = input_features.split([3, input_features.shape[-1] - 3], dim=-1)
        mask, cell, *others = inputs

        def energy_at(positions: torch.Tensor, deformation: torch.Tensor | None) -> EnergyParts:
            lattice = cell
            if deformation is not None:
                positions = strained(positions, deformation)
                lattice = None if cell is None else strained(cell, deformation.to(cell.dtype))
            features = torch.cat([positions, descriptors], dim=-1)
            return self._energy(features, mask, lattice, *others, **kwargs)

        deformation = positions.new_zeros(len(positions), 3, 3) if strain else None
        differentiable = torch.is_grad_enabled()
        # The fused kernels of attention have no second derivative; their plain form has.
        plain = sdpa_kernel(SDPBackend.MATH) if differentiable and self.config.traits.attends else nullcontext()
        if torch.compiler.is_compiling():  # a graph cannot hold autograd.grad, and this no checkpoints of layers

            def total(*variables: torch.Tensor) -> tuple[torch.Tensor, EnergyParts]:
                found = energy_at(variables[0], variables[1] if strain else None)
                return found.energy.sum(), found

            variables = (positions,) if deformation is None else (positions, deformation)
            derivatives = torch.func.grad(total, argnums=tuple(range(len(variables))), has_aux=True)
            with plain:
                (gradient, *of_strain), found = derivatives(*variables)
            return found, -gradient, of_strain[0] if strain else None
        with torch.enable_grad(), plain:
            if not positions.requires_grad:
                positions = positions.detach().requires_grad_()
            variables = (positions,) if deformation is None else (positions, deformation.requires_grad_())
            energy, energies, outputs = energy_at(positions, deformation)
            gradient, *of_strain = torch.autograd.grad(energy.sum(), variables, create_graph=differentiable)
        if not differentiable:
            energy, energies = energy.detach(), None if energies is None else energies.detach()
        return EnergyParts(energy, energies, outputs), -gradient, of_strain[0] if strain else None

    def _energy(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cell: torch.Tensor | None,
        atomic_numbers: torch.Tensor | None,
        neighbours: torch.Tensor | None,
        neighbour_shifts: torch.Tensor | None,
        wave_numbers: torch.Tensor | None,
        charge: torch.Tensor | None,
        **kwargs: Any,
    ) -> EnergyParts:
        """Energies in eV, in float64 where the device has it: of thousands of eV, float32 keeps three digits."""
        if self.repulsion is not None and (neighbours is None or neighbour_shifts is None):
            trunk: Any = self.adapt.trunk
            neighbours, neighbour_shifts = trunk.search(input_features[..., :3], attention_mask, cell)
        of_lattice = (neighbours, neighbour_shifts, wave_numbers)
        inputs = (input_features, attention_mask, cell, atomic_numbers, *of_lattice, charge)
        outputs = self.adapt(*inputs, **kwargs)
        parts = _read_out(self.energy_head, outputs.last_hidden_state)[..., 0]
        parts = self.energy_normalizer.denormalize(
            parts.to(torch.float64 if parts.device.type != "mps" else parts.dtype)
        )
        if parts.ndim == 2 and attention_mask is not None:  # of atoms, not of structures
            parts = parts * attention_mask
        energy, energies = (parts.sum(dim=1), parts) if parts.ndim == 2 else (parts, None)
        if self.references is not None:
            references = self._reference_energies(atomic_numbers, self.references(energy.dtype))
            energy, energies = energy + references.sum(dim=1), None if energies is None else energies + references
        if self.repulsion is not None:
            if atomic_numbers is None:
                raise ValueError("this model has a short_range_repulsion of nuclei: it needs atomic_numbers")
            repulsion = self.repulsion(input_features[..., :3], cell, atomic_numbers, neighbours, neighbour_shifts)
            energy, energies = energy + repulsion.sum(dim=1), energies + repulsion
        return EnergyParts(energy, energies, outputs)

    @torch.no_grad()
    def _features(self, outputs: ADAPTModelOutput) -> torch.Tensor:
        if not isinstance(self.energy_head, ADAPTAtomicEnergies) or outputs.last_hidden_state is None:
            raise ValueError(f"the energy of architecture '{self.config.architecture}' has no features of atoms")
        return _read_out(self.energy_head.features, outputs.last_hidden_state)

    def _reference_energies(self, atomic_numbers: torch.Tensor | None, known: torch.Tensor) -> torch.Tensor:
        """Those of the atoms (B, N), from those of the elements by their atomic number."""
        if atomic_numbers is None:
            raise ValueError("this model adds reference energies of the elements: it needs atomic_numbers")
        references = nn.functional.embedding(atomic_numbers, known[:, None])[..., 0]
        # Looked at where that costs nothing; elsewhere the energy is NaN.
        if references.device.type == "cpu" and not torch.compiler.is_compiling() and bool(references.isnan().any()):
            unknown = SYMBOLS[int(atomic_numbers[references.isnan()][0])]
            elements = ", ".join(self.config.element_energies or ())
            raise ValueError(f"no reference energy for {unknown}; the model knows {elements}")
        return references

    def _force_losses(
        self, forces: torch.Tensor, reference_forces: torch.Tensor, importance_weights: torch.Tensor | None
    ) -> torch.Tensor:
        """Loss of the forces of each structure (B,), a mean over components."""
        scale = 1.0 if self.config.force_std is None else sum(self.config.force_std) / 3
        losses, is_atom = force_losses(self.config.force_loss, forces, reference_forces, importance_weights, scale)
        return self.config.force_weight * losses.sum(dim=1) / (3 * is_atom.sum(dim=1)).clamp(min=1)

    def _stress_losses(
        self, strain_gradient: torch.Tensor, reference: torch.Tensor, volumes: torch.Tensor, atoms: torch.Tensor | int
    ) -> torch.Tensor:
        """Loss of the stress of each structure (B,): of its error in eV per atom, a mean over components."""
        known = (reference != IGNORE_INDEX).all(dim=2).all(dim=1) & (volumes > 0)
        error = (strain_gradient - reference * volumes[:, None, None]) * known[:, None, None]
        error = error.flatten(1) / (atoms if isinstance(atoms, int) else atoms[:, None])
        return self.config.stress_weight * (error / self.energy_normalizer.scale(error.dtype)).square().mean(dim=1)


def forces_of(
    model: PreTrainedModel, compute_stress: bool = False, compute_features: bool = False, **inputs: torch.Tensor
) -> Any:
    """
    What `model` says, with `forces` (B, N, 3) in eV/Å: its own, or the negative gradient of its energy. With
    `compute_stress` its `stress` (B, 3, 3) in eV/Å³ too, which only some have, see `config.gives_stress`; with
    `compute_features` what its energy is linear in, see [`ADAPTEnergyOutput`].
    """
    asked = {"compute_forces": True} if model.config.predicts == "energy" else {}
    asked |= {"compute_stress": True} if compute_stress else {}
    asked |= {"compute_features": True} if compute_features else {}
    with torch.no_grad():
        outputs = [model(**some, **asked) for some in _some_at_a_time(model, inputs)]
    if len(outputs) == 1:
        return outputs[0]
    said = {name: value for name, value in outputs[0].items() if isinstance(value, torch.Tensor)}
    return type(outputs[0])(**{name: torch.cat([output[name] for output in outputs]) for name in said})


def _some_at_a_time(model: PreTrainedModel, inputs: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """
    The inputs of a few structures after those of others, where what a model keeps of the pairs of all would be too
    much for a processor: in a graph, which takes all atoms at once, for its cache; for a gradient for the memory.
    """
    tokens, config = inputs["input_features"], model.config
    size, num_atoms, _ = tokens.shape
    compiled = getattr(model, "_compiled_call_impl", None) is not None
    keeps = config.traits.cutoff_field is not None and (compiled or config.predicts == "energy")
    # Without a graph parts of the atoms are in the cache anyway, and more calls cost more.
    at_once = ATOMS_AT_ONCE if compiled else 4 * ATOMS_AT_ONCE
    # Never fewer in the last part: a graph for one structure is another one.
    parts = size // max(1, at_once // max(1, num_atoms))
    given = {name: value for name, value in inputs.items() if value is not None}
    of_structures = all(isinstance(value, torch.Tensor) and len(value) == size for value in given.values())
    of_all = "labels" in given or config.output_hidden_states or config.output_attentions
    if not keeps or tokens.device.type != "cpu" or parts < 2 or of_all or not of_structures:
        return [inputs]
    splits = zip(*(value.tensor_split(parts) for value in given.values()), strict=True)
    return [dict(zip(given, some, strict=True)) for some in splits]


# So that `save_pretrained` puts this file into the checkpoint, and its name into config.json.
ADAPTForForces.register_for_auto_class("AutoModel")
ADAPTForEnergy.register_for_auto_class("AutoModel")

__all__ = ["ADAPTForEnergy", "ADAPTForForces", "ADAPTModel", "ADAPTPreTrainedModel", "forces_of"]
