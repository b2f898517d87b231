"""ADAPT model configuration."""

import dataclasses
import difflib
import functools
import math
import re
from itertools import pairwise
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.utils import logging

from .architectures_adapt import ARCHITECTURES, ENERGY_LOSSES, FORCE_LOSSES, Architecture
from .pretrained_adapt import in_the_box
from .versions_adapt import ADAPT_VERSION, FORMAT_VERSION, UNITS, require_our_units, require_readable, upgraded

logger = logging.get_logger(__name__)

# What transformers itself hands to a configuration beside its fields, on construction or from a saved config.json.
_TRANSFORMERS_KEYS = frozenset(
    "_attn_implementation_internal _commit_hash _experts_implementation_internal _name_or_path attn_implementation "
    "auto_map custom_pipelines experts_implementation model_type name_or_path num_labels output_attentions "
    "per_layer_config quantization_config torch_dtype use_cache".split()
)

# What a token can say of its element: the columns after x, y and z, in their order, and the atomic number itself.
DESCRIPTOR_CHOICES = (
    *("group", "period", "pauling_electronegativity", "covalent_radius_pm", "valence_electrons"),
    *("first_ionization_energy_ev", "electron_affinity_kj_mol", "atomic_radius_ang", "molar_volume_cm3_mol"),
    "atomic_number",
)

# The pipeline that every checkpoint with forces serves; its code is saved with the model.
PIPELINES = {
    "atom-forces": {"impl": "pipeline_adapt.AtomForcesPipeline", "pt": ["AutoModel"], "type": "multimodal"},
}

# Fields by which transformers finds code to run. What stands in a file of somebody else is never written again.
_NAMES_CODE = re.compile(
    r"auto_map|custom_pipelines|quantization_config|\w*_implementation\w*|(?!model_)\w+_(class|type)"
)

# Beyond these a configuration is a mistake or malice, and building it would take the memory or the day of a machine.
_LARGEST = {
    **{"hidden_size": 65_536, "intermediate_size": 262_144, "num_hidden_layers": 1_000, "num_attention_heads": 4_096},
    **{"element_embedding_size": 65_536, "num_radial_basis": 4_096, "num_vector_channels": 65_536},
    **{"pairwise_cutoff": 30, "attention_radius": 100_000, "max_atoms": 100_000},
    **{"embedding_sizes": 65_536, "energy_hidden_sizes": 65_536, "fourier_wave_numbers": 100_000},
}
_LONGEST = 1_000  # entries of a list
_MOST_LABELS = 1_000  # of which transformers makes a table, and we nothing
_MOST_WEIGHTS = 20e9

_EARLIER_NAMES = {"geometry": "architecture", "num_descriptors": "descriptors"}

# One or more numbers as a person, a JSON file or numpy says them.
Numbers = list[float | int] | tuple[float | int, ...]


def _refuses_unread_fields(config_class: Any) -> Any:
    """Lets `validate_reads` see which fields were given, and turns numbers of numpy into those of Python."""
    init = config_class.__init__

    @functools.wraps(init)
    def __init__(self, **fields):
        self.__dict__["_given"] = frozenset(fields)
        init(self, **{name: getattr(value, "tolist", lambda value=value: value)() for name, value in fields.items()})
        del self.__dict__["_given"]

    config_class.__init__ = __init__
    return config_class


@_refuses_unread_fields
@strict
class ADAPTConfig(PreTrainedConfig):
    r"""
    Configuration of [`ADAPTModel`] and [`ADAPTForForces`]. The defaults are the published small model
    (arXiv 2509.24115): 4,319,107 parameters.

    Lengths are in Å, energies in eV, forces in eV/Å. A field that the chosen architecture does not read is an error,
    and is not in its `config.json`; so is a field that does not exist, where a person gives it. In a `config.json`
    that is loaded, both are warnings: another tool or a later version may have left them there.

    Args:
        architecture (`"cartesian"`, `"fourier"` or `"pairwise"`, defaults to `"cartesian"`):
            The network, see `architectures_adapt.py` for what each reads. `"cartesian"`: the published encoder over
            normalised x, y, z. `"fourier"`: the same over sines and cosines of the fractional coordinates, so that
            wrapping an atom into the cell changes nothing; needs a periodic cell. `"pairwise"`: tokens see no
            coordinates; atoms attend to each other through displacements, to all periodic images, and forces are
            exactly equivariant.
        fourier_wave_numbers (`tuple[int, ...]`, defaults to `(1, 2, 3, 4, 6, 8, 12, 24)`):
            Wave numbers k of `"fourier"`, in waves per lattice vector. They should reach the spacing of the lattice
            planes (12 planes per edge in the 216-atom silicon cell), where a small displacement is visible.
        descriptors (`tuple[str, ...]`, *optional*):
            Names of the element descriptors that the model reads, and `"atomic_number"` for Z / 10; `None`: all nine,
            as published.
        element_embedding_size (`int`, defaults to `0`):
            Width of a learned vector per element, read beside the descriptors; a linear layer behind it makes it the
            same as a one-hot code.
        reads_charge (`bool`, defaults to `False`):
            The total charge of a structure is an input, which every atom reads; of a neutral one nothing is added.
            `False`: the model knows nothing of charges.
        embedding_sizes (`tuple[int, ...]`, defaults to `(128, 256)`):
            Widths of the hidden layers of the token embedding; `hidden_size` follows them.
        hidden_size (`int`, defaults to `256`): Width of the Transformer encoder, whose fields are named as in ViT.
        num_hidden_layers (`int`, defaults to `8`): Its layers.
        num_attention_heads (`int`, defaults to `8`): Heads of each layer.
        intermediate_size (`int`, defaults to `512`): Width of the hidden layer in each feed-forward network.
        hidden_act (`str`, defaults to `"relu"`): Activation function; of `"pairwise"` that of its embeddings.
        hidden_dropout_prob (`float`, defaults to `0.05`): Dropout of embeddings and hidden states.
        attention_probs_dropout_prob (`float`, defaults to `0.0`): Dropout of the attention weights.
        layer_norm_eps (`float`, defaults to `1e-5`): Epsilon of the LayerNorms.
        norm_position (`"post"` or `"pre"`, defaults to `"post"`):
            LayerNorm after each residual sum, as published, or before each sub-layer.
        pairwise_cutoff (`float`, defaults to `5.0`): Of `"pairwise"`: distance in Å where the envelope of a pair ends.
        num_radial_basis (`int`, defaults to `12`): Of `"pairwise"`: functions of the distance.
        num_vector_channels (`int`, defaults to `32`): Of `"pairwise"`: width of the vector stream.
        message_degree (`int`, defaults to `0`):
            Of `"pairwise"`: up to which degree messages also tell of the features of their sender: 0 of none, 1 of its
            vectors, 2 of its symmetric tensors too.
        long_range (`bool`, defaults to `False`):
            Of `"pairwise"`: behind each layer all atoms meet, and all their images, by waves of the lattice; see
            `reciprocal_adapt.py`. Structures must be periodic in all three directions.
        long_range_cutoff (`float`, defaults to `2.2`): Of `long_range`: shortest waves |G| in 1/Å.
        long_range_channels (`int`, defaults to `16`): Of `long_range`: latent charges of each atom.
        attention_radius (`float`, *optional*):
            Atoms attend only to atoms within this distance in Å (minimum image where there is a cell). `None`: all.
        force_loss (`"weighted_l2"`, `"l2"`, `"weighted_mse"` or `"mse"`, defaults to `"weighted_l2"`):
            `"weighted_l2"`: mean over atoms of w |ΔF|, the published code. `"weighted_mse"`: mean over components of
            w ΔF², the paper's text. `"l2"` and `"mse"`: the same with w = 1. ΔF is in units of the normalised force.
        remove_net_force (`bool`, defaults to `False`):
            Subtract the mean predicted force, so that the net force is zero as it is in the labels.
        feature_mean, feature_std (`tuple[float, ...]` of shape `(12,)`, *optional*):
            Statistics of the training tokens (x, y, z, then the nine descriptors); features are normalised as
            (x - mean) / (`rescale_factor` (std + `normalization_eps`)). `None`: mean 0, std 1.
        force_mean, force_std (`tuple[float, ...]` of shape `(3,)`, *optional*):
            Statistics of the training forces in eV/Å, used in the same way.
        rescale_factor (`float`, defaults to `0.3`): Of the published normalisation.
        normalization_eps (`float`, defaults to `1e-6`): Likewise.
        training_domain (`dict`, *optional*):
            What the model was trained on (elements, closest distances, largest force, ...), written by `train.py`.
        format_version (`int`, defaults to `FORMAT_VERSION`):
            Format of the checkpoint, see `versions_adapt.py`. Nobody sets this and the next two; older formats are
            upgraded when they are loaded.
        units (`dict`, *optional*): Units of the checkpoint.
        adapt_version (`str`, *optional*): Version of the package that wrote it.
    """

    model_type = "adapt"
    predicts = "forces"  # or "energy"
    num_features = 12  # columns of a token: x, y, z and nine descriptors

    architecture: str = "cartesian"
    fourier_wave_numbers: list[int] | tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 24)
    descriptors: list[str] | tuple[str, ...] | None = None
    element_embedding_size: int = 0
    reads_charge: bool = False
    embedding_sizes: list[int] | tuple[int, ...] = (128, 256)
    hidden_size: int = 256
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    intermediate_size: int = 512
    hidden_act: str = "relu"
    hidden_dropout_prob: float | int = 0.05
    attention_probs_dropout_prob: float | int = 0.0
    layer_norm_eps: float | int = 1e-5
    norm_position: str = "post"
    pairwise_cutoff: float | int = 5.0
    num_radial_basis: int = 12
    num_vector_channels: int = 32
    message_degree: int = 0
    long_range: bool = False
    long_range_cutoff: float | int = 2.2
    long_range_channels: int = 16
    attention_radius: float | int | None = None
    force_loss: str = "weighted_l2"
    remove_net_force: bool = False
    feature_mean: Numbers | None = None
    feature_std: Numbers | None = None
    force_mean: Numbers | None = None
    force_std: Numbers | None = None
    rescale_factor: float | int = 0.3
    normalization_eps: float | int = 1e-6
    training_domain: dict | None = None
    format_version: int = FORMAT_VERSION
    units: dict = dataclasses.field(default_factory=lambda: dict(UNITS))
    adapt_version: str | None = None

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        return super().get_config_dict(in_the_box(pretrained_model_name_or_path), **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As in transformers; every way of loading a `config.json` comes through here, where it is upgraded."""
        _require_plain(config_dict)
        older = config_dict.get("format_version", 1) != FORMAT_VERSION
        config_dict = upgraded(config_dict)
        unknown = {name: config_dict.pop(name) for name in list(config_dict) if cls._is_unknown(name)}
        read = cls._fields_read(config_dict.get("architecture", cls.architecture))
        unread = [name for name in config_dict if name in cls._own_fields() - read]
        for name in unread:
            del config_dict[name]
        if unknown or (unread and not older):  # fields that nobody read are everywhere in older ones
            logger.warning(
                f"a saved {cls.__name__} has fields that this version does not read: {', '.join([*unknown, *unread])}"
            )
        loaded = super().from_dict(config_dict, **kwargs)
        for name, value in unknown.items():  # kept, as everywhere in transformers
            setattr(loaded[0] if isinstance(loaded, tuple) else loaded, name, value)
        return loaded

    @classmethod
    def from_json_file(cls, json_file):
        return cls.from_dict(cls._dict_from_json_file(json_file))

    def to_dict(self) -> dict[str, Any]:
        """
        As in transformers, without what the architecture does not read, with the version of this package, and with no
        other code named than its own.
        """
        written = super().to_dict()
        unread = self._own_fields() - self._fields_read(self.architecture)
        values = {name: value for name, value in written.items() if name not in unread}
        values = {name: value for name, value in values.items() if not _NAMES_CODE.fullmatch(name)}
        named = {name: code for name, code in self._code().items() if name in (written.get("auto_map") or {})}
        values |= {"adapt_version": ADAPT_VERSION} | ({"auto_map": named} if named else {})
        return values | ({"custom_pipelines": PIPELINES} if self.gives_forces else {})

    @classmethod
    def _code(cls) -> dict[str, str]:
        """What `save_pretrained` puts beside the weights, by the class of transformers that looks for it."""
        head = {"forces": "ADAPTForForces", "energy": "ADAPTForEnergy"}[cls.predicts]
        return {"AutoConfig": f"configuration_adapt.{cls.__name__}", "AutoModel": f"modeling_adapt.{head}"}

    def __post_init__(self, **kwargs):
        require_readable(self.format_version)
        require_our_units(self.units)
        for name in kwargs:
            if self._is_unknown(name):
                nearest = _EARLIER_NAMES.get(name) or difflib.get_close_matches(name, self._own_fields(), 1, 0.0)[0]
                raise ValueError(f"{type(self).__name__} has no field '{name}'; did you mean '{nearest}'?")
        if not type(self).__module__.startswith("transformers_modules"):
            # Where the package is installed its own pipeline is used, whatever code a checkpoint names.
            kwargs.pop("custom_pipelines", None)
        if (labels := kwargs.get("num_labels")) is not None and not 0 <= labels <= _MOST_LABELS:
            raise ValueError(f"num_labels must be at most {_MOST_LABELS}, not {labels}")
        super().__post_init__(**kwargs)

    @classmethod
    def _is_unknown(cls, name: str) -> bool:
        return name not in cls.__dataclass_fields__ and name not in _TRANSFORMERS_KEYS

    @classmethod
    def _own_fields(cls) -> frozenset[str]:
        """The fields that some architecture reads."""
        known = (architecture.fields(what) for architecture in ARCHITECTURES.values() for what in ("forces", "energy"))
        return frozenset().union(*known) & frozenset(cls.__dataclass_fields__)

    @classmethod
    def _fields_read(cls, architecture: str) -> frozenset[str]:
        """Those of [`_own_fields`] that `architecture` reads; all where there is none of that name."""
        known = ARCHITECTURES.get(architecture)
        return cls._own_fields() if known is None else known.fields(cls.predicts)

    @property
    def traits(self) -> Architecture:
        """What others must know of the architecture."""
        return ARCHITECTURES[self.architecture]

    @property
    def cutoff(self) -> float | None:
        """Distance in Å up to which the network reads pairs of neighbours; `None` where it reads none."""
        field = self.traits.cutoff_field
        return None if field is None else float(getattr(self, field))

    @property
    def reciprocal_cutoff(self) -> float | None:
        """Length in 1/Å up to which the network reads the waves of the lattice; `None` where it reads none."""
        return float(self.long_range_cutoff) if self.long_range else None

    @property
    def gives_stress(self) -> bool:
        """Whether the model has a stress, the derivative of its energy by strain."""
        return self.predicts == "energy" and self.traits.has_stress

    @property
    def gives_forces(self) -> bool:
        """Whether the model has forces: its own, or the gradient of its energy."""
        return self.predicts == "forces" or self.traits.has_gradient

    def validate_reads(self):
        read = self._fields_read(self.architecture)
        for name in sorted(self.__dict__.get("_given", frozenset()) & self._own_fields() - read):
            raise ValueError(f"architecture '{self.architecture}' does not read {name}; leave it out")

    def validate_choices(self):
        choices = {
            "architecture": [name for name, known in ARCHITECTURES.items() if known.has_forces],
            "norm_position": ("post", "pre"),
            "force_loss": FORCE_LOSSES,
            "hidden_act": tuple(ACT2FN),
        }
        if self.predicts == "energy":
            choices |= {"architecture": list(ARCHITECTURES), "energy_loss": ENERGY_LOSSES}
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} must be one of {', '.join(allowed)}, not '{getattr(self, field)}'")

    def validate_sizes(self):
        positive = (
            *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
            *("num_radial_basis", "num_vector_channels", "pairwise_cutoff", "long_range_channels"),
        )
        for field in positive:
            if not getattr(self, field) >= 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        for field in ("embedding_sizes", "fourier_wave_numbers"):
            if not getattr(self, field) or min(getattr(self, field)) < 1:
                raise ValueError(f"{field} must list whole numbers of at least 1, not {getattr(self, field)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )
        if self.message_degree not in (0, 1, 2):
            raise ValueError(f"message_degree must be 0, 1 or 2, not {self.message_degree}")
        if self.element_embedding_size < 0:
            raise ValueError(f"element_embedding_size must be at least 0, not {self.element_embedding_size}")
        if not self.long_range_cutoff > 0:
            raise ValueError(f"long_range_cutoff must be positive, not {self.long_range_cutoff}")
        for field in ("long_range_cutoff", "long_range_channels"):
            if not self.long_range and getattr(self, field) != getattr(type(self), field):
                raise ValueError(f"{field} is read with long_range only; set that too, or leave it out")
        if self.attention_radius is not None and self.attention_radius <= 0:
            raise ValueError(f"attention_radius must be positive or None, not {self.attention_radius}")
        for field in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 0 and below 1, not {getattr(self, field)}")

        for field, most in _LARGEST.items():
            value = getattr(self, field, None)
            values = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
            if values and not max(values) <= most:
                raise ValueError(f"{field} must be at most {most:,}, not {value}")
            if len(values) > _LONGEST:
                raise ValueError(f"{field} must have at most {_LONGEST:,} entries, not {len(values):,}")
        if (weights := self._weights()) > _MOST_WEIGHTS:
            raise ValueError(f"these sizes come to {weights:.0e} weights; at most {_MOST_WEIGHTS:.0e} are built")

    def _weights(self) -> int:
        """Those of the large matrices, roughly."""
        sizes = [self.num_features + self.element_embedding_size, *self.embedding_sizes, self.hidden_size]
        of_layers = self.num_hidden_layers * self.hidden_size * (4 * self.hidden_size + 2 * self.intermediate_size)
        return of_layers + sum(first * second for first, second in pairwise(sizes))

    def validate_descriptors(self):
        for name in self.descriptors or ():
            if name not in DESCRIPTOR_CHOICES:
                raise ValueError(f"there is no descriptor {name!r}; there are {', '.join(DESCRIPTOR_CHOICES)}")
        if self.descriptors is not None and not self.descriptors and not self.element_embedding_size:
            raise ValueError("without descriptors the elements need an element_embedding_size of at least 1")

    def validate_statistics(self):
        lengths = {"feature": self.num_features, "force": 3}
        for quantity, length in lengths.items():
            mean, std = getattr(self, f"{quantity}_mean"), getattr(self, f"{quantity}_std")
            # An energy model reads the scale of its forces alone.
            if (mean is None) != (std is None) and f"{quantity}_mean" in self._fields_read(self.architecture):
                raise ValueError(f"{quantity}_mean and {quantity}_std must be given together")
            for field, values in ((f"{quantity}_mean", mean), (f"{quantity}_std", std)):
                if values is not None and len(values) != length:
                    raise ValueError(f"{field} must have {length} entries, not {len(values)}")
                if values is not None and not all(map(math.isfinite, values)):
                    raise ValueError(f"{field} must hold finite numbers, not {list(values)}")
            if std is not None and not min(std) > 0:
                raise ValueError(f"{quantity}_std must be positive, not {list(std)}")
        if self.traits.equivariant and self.force_std is not None:
            if any(self.force_mean or ()) or len(set(self.force_std)) > 1:
                raise ValueError(
                    f"architecture '{self.architecture}' needs force_mean 0 and one force_std: it is equivariant"
                )
        for field, lowest in (("rescale_factor", 0.0), ("normalization_eps", -1e-99)):
            if not lowest < getattr(self, field) < math.inf:
                raise ValueError(f"{field} must be a positive number, not {getattr(self, field)}")
        if not _all_finite(self.training_domain):  # nothing is outside of a region whose limits are no numbers
            raise ValueError("training_domain holds a number that is not finite; train the model again")


@_refuses_unread_fields
@strict
class ADAPTEnergyConfig(ADAPTConfig):
    r"""
    Configuration of [`ADAPTForEnergy`]. It has a `model_type` of its own, because two heads that share one are
    mistaken for each other by `AutoModel`.

    Args:
        architecture (`"mlp"`, `"cartesian"`, `"fourier"` or `"pairwise"`, defaults to `"mlp"`):
            `"mlp"`: the published residual network over the flattened tokens, about 73 million parameters. The others:
            a sum of atomic energies, read from the states of the network that [`ADAPTConfig`] describes; it does not
            depend on the order of the atoms, grows with the structure, and its gradient gives conservative forces.
        max_atoms (`int`, defaults to `220`):
            Tokens that `"mlp"` takes; smaller structures are padded with zeros after normalisation, as in the
            published training code.
        energy_hidden_sizes (`tuple[int, ...]`, defaults to `(4096, 4096, 4096, 4096, 128)`):
            Widths of the residual blocks of `"mlp"`.
        energy_dropout_prob (`float`, defaults to `0.1`): Dropout inside each residual block.
        energy_mean, energy_std (`float`, *optional*):
            Statistics of the training energies in eV: of total energies for `"mlp"`; for the others of the energy per
            atom that `element_energies` leave over.
        element_energies (`dict[str, float]`, *optional*):
            Reference energy of an atom of each element in eV, by symbol, which is added to what was learned.
        force_weight (`float`, defaults to `1.0`): Weight of the forces in the loss where `reference_forces` are given.
        force_loss (`"mse"`, `"l2"`, `"weighted_l2"` or `"weighted_mse"`, defaults to `"mse"`):
            What that loss counts, as for [`ADAPTConfig`].
        energy_loss (`"mse"` or `"mae"`, defaults to `"mse"`):
            What the loss counts of the error of an energy in units of the normalised one: its square, or how large it
            is. Beside energies of wide range, the squares of small errors weigh nothing.
        force_std (`tuple[float, ...]` of shape `(3,)`, *optional*):
            The scale of that loss in eV/Å, the mean of the three.
        stress_weight (`float`, defaults to `0.0`):
            Weight of the stress in the loss where there is a `reference_stress`: the mean over the nine components of
            (Δσ V / N)², the error in eV per atom, in units of the normalised energy squared. So a vacuum beside a slab
            changes nothing. 0: no stress is learned, and none is computed for it.
        short_range_repulsion (`float`, defaults to `0.0`):
            Of `"pairwise"`: nuclei repel each other (Ziegler, Biersack and Littmark) where they are nearer than this
            share of the sum of their covalent radii; see `repulsion_adapt.py`. 0.8 leaves bonds alone. 0: they do not.
    """

    model_type = "adapt_energy"
    predicts = "energy"
    keys_to_ignore_at_inference = ["energies"]  # what `Trainer` measures is of structures

    architecture: str = "mlp"
    force_loss: str = "mse"
    energy_loss: str = "mse"
    max_atoms: int = 220
    energy_hidden_sizes: list[int] | tuple[int, ...] = (4096, 4096, 4096, 4096, 128)
    energy_dropout_prob: float | int = 0.1
    energy_mean: float | int | None = None
    energy_std: float | int | None = None
    element_energies: dict | None = None
    force_weight: float | int = 1.0
    stress_weight: float | int = 0.0
    short_range_repulsion: float | int = 0.0

    def _weights(self) -> int:
        if self.architecture != "mlp":
            return super()._weights()
        return sum(first * second for first, second in pairwise([12 * self.max_atoms, *self.energy_hidden_sizes]))

    def validate_energy(self):
        if self.max_atoms < 1:
            raise ValueError(f"max_atoms must be at least 1, not {self.max_atoms}")
        if not self.energy_hidden_sizes or min(self.energy_hidden_sizes) < 1:
            raise ValueError(f"energy_hidden_sizes must list whole numbers of at least 1: {self.energy_hidden_sizes}")
        if not 0 <= self.energy_dropout_prob < 1:
            raise ValueError(f"energy_dropout_prob must be at least 0 and below 1, not {self.energy_dropout_prob}")
        if (self.energy_mean is None) != (self.energy_std is None):
            raise ValueError("energy_mean and energy_std must be given together")
        if self.energy_std is not None and not 0 < self.energy_std < math.inf:
            raise ValueError(f"energy_std must be a positive number, not {self.energy_std}")
        if not _all_finite([self.energy_mean, self.element_energies]):
            raise ValueError("energy_mean and element_energies must be finite numbers")
        for field in ("force_weight", "stress_weight"):
            if not getattr(self, field) >= 0:
                raise ValueError(f"{field} must not be negative, not {getattr(self, field)}")
        if not 0 <= self.short_range_repulsion <= 1:
            raise ValueError(f"short_range_repulsion must be 0 to 1, not {self.short_range_repulsion}")


def _require_plain(config_dict: dict[str, Any]) -> None:
    """What a saved configuration may not ask for: kernels from the Hub, and weights of another kind than ours."""
    for name in [name for name in config_dict if re.fullmatch(r"\w*_implementation\w*", name)]:
        if not re.fullmatch(r"None|[a-z0-9_]+", str(config_dict[name])):
            raise ValueError(f"{name} names code of somebody else ({config_dict[name]}); take it out of config.json")
    if config_dict.get("quantization_config") is not None:
        raise ValueError("quantised weights cannot be read; take quantization_config and its weights out")


def _all_finite(value: Any) -> bool:
    """Whether every number in plain JSON is."""
    if isinstance(value, dict):
        return all(map(_all_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_all_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


ADAPTConfig.register_for_auto_class()  # so that `save_pretrained` puts this file into the checkpoint

__all__ = ["ADAPTConfig", "ADAPTEnergyConfig"]
