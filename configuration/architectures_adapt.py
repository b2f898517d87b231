"""
The table of architectures: which fields of the configuration each one reads, and what others must know of it.

Its network stands under the same name in `NETWORKS` of `modeling_adapt.py`.
"""

from dataclasses import dataclass

_NORMALISATION = ("feature_mean", "feature_std", "rescale_factor", "normalization_eps")
_TOKENS = (
    *(
        "descriptors",
        "element_embedding_size",
        "reads_charge",
        "embedding_sizes",
        "hidden_size",
        "hidden_act",
        "hidden_dropout_prob",
    ),
    *("layer_norm_eps", "num_hidden_layers", "num_attention_heads", "intermediate_size", *_NORMALISATION),
)
_ENCODER = (*_TOKENS, "attention_probs_dropout_prob", "norm_position", "attention_radius")

_OF_FORCES = ("force_loss", "remove_net_force", "force_mean", "force_std")
_OF_ENERGIES = ("energy_loss", "energy_mean", "energy_std", "element_energies")
_OF_GRADIENTS = ("force_loss", "force_weight", "force_std")
_OF_STRESS = ("stress_weight",)
_OF_PAIRS = ("short_range_repulsion",)


@dataclass(frozen=True)
class Architecture:
    """
    Args:
        reads (`tuple[str, ...]`): Fields of the configuration that the network reads.
        needs_cell (`bool`, defaults to `False`): Structures must be periodic in all three directions.
        equivariant (`bool`, defaults to `False`):
            Forces turn with the structure exactly, so one scale serves all directions.
        reads_positions (`bool`, defaults to `True`):
            Tokens carry coordinates: the network knows where in the cell an atom is.
        reads_order (`bool`, defaults to `False`): Atoms are told apart by their place in the list.
        cutoff_field (`str`, *optional*):
            Field with the distance in Å beyond which atoms do not meet directly; such an architecture reads pairs of
            neighbours. `None`: all atoms meet.
        attends (`bool`, defaults to `False`): It runs the attention functions of transformers.
        has_forces (`bool`, defaults to `True`): It has a read-out for forces.
        has_gradient (`bool`, defaults to `True`): The gradient of its energy is a usable force.
        has_stress (`bool`, defaults to `True`):
            Its energy is one of the lattice, so its derivative by strain is a stress. Not of coordinates as they are,
            which change with the image that an atom is written in, nor of fractional ones, which no strain changes.
    """

    reads: tuple[str, ...]
    needs_cell: bool = False
    equivariant: bool = False
    reads_positions: bool = True
    reads_order: bool = False
    cutoff_field: str | None = None
    attends: bool = False
    has_forces: bool = True
    has_gradient: bool = True
    has_stress: bool = True

    def fields(self, predicts: str) -> frozenset[str]:
        """All fields of the configuration that a model of `"forces"` or `"energy"` reads."""
        if predicts == "forces":
            return frozenset((*self.reads, *_OF_FORCES))
        of_gradients = (*_OF_GRADIENTS, *(_OF_STRESS if self.has_stress else ())) if self.has_gradient else ()
        of_pairs = _OF_PAIRS if self.cutoff_field is not None else ()
        return frozenset((*self.reads, *_OF_ENERGIES, *of_gradients, *of_pairs))


ARCHITECTURES = {
    # The published encoder over normalised Cartesian coordinates.
    "cartesian": Architecture(reads=_ENCODER, attends=True, has_stress=False),
    # The same encoder over sines and cosines of fractional coordinates.
    "fourier": Architecture(
        reads=(*_ENCODER, "fourier_wave_numbers"), needs_cell=True, attends=True, has_stress=False
    ),
    # Attention through displacements.
    "pairwise": Architecture(
        reads=(
            *(*_TOKENS, "pairwise_cutoff", "num_radial_basis", "num_vector_channels", "message_degree"),
            *("long_range", "long_range_cutoff", "long_range_channels"),
        ),
        equivariant=True,
        reads_positions=False,
        cutoff_field="pairwise_cutoff",
    ),
    # The published residual network of total energies.
    "mlp": Architecture(
        reads=(
            *("max_atoms", "energy_hidden_sizes", "energy_dropout_prob", "hidden_act", "layer_norm_eps"),
            *_NORMALISATION,
        ),
        reads_order=True,
        has_forces=False,
        has_gradient=False,
        has_stress=False,
    ),
}

# What the loss counts of the error of a force and of an energy; each is a function in `LOSS_FUNCTIONS` and
# `ENERGY_LOSS_FUNCTIONS` of `modeling_adapt.py`.
FORCE_LOSSES = ("weighted_l2", "l2", "weighted_mse", "mse")
ENERGY_LOSSES = ("mse", "mae")

__all__ = ["ARCHITECTURES", "ENERGY_LOSSES", "FORCE_LOSSES", "Architecture"]
