"""
What a checkpoint says of its own format, and how one of an earlier format becomes one of today's.

A change after which older checkpoints would mean something else, or would not load, is a new step at the end of
`STEPS`, and a new folder in `tests/data/checkpoints/`.
"""

import re
from collections.abc import Mapping
from typing import Any

ADAPT_VERSION = "0.2.0"  # of the package; it is written here since a checkpoint brings this file, not the package
UNITS = {"length": "Å", "energy": "eV", "force": "eV/Å"}

# Fields that came while the format had no number, with the values at which a model is what it was before them: a
# default may change, what an old checkpoint computes may not.
_LATER_IN_1 = {
    "pairwise_cutoff": 5.0,
    "num_radial_basis": 12,
    "num_vector_channels": 32,
    "remove_net_force": False,
    "descriptors": None,
    "element_embedding_size": 0,
}
_LATER_IN_1_OF_ENERGIES = {"architecture": "mlp", "element_energies": None, "force_weight": 1.0}
_LATER_IN_1_OF_DOMAINS = {"cell_angles": None, "local": False, "frame": None}


def _from_1_to_2(config: dict[str, Any]) -> dict[str, Any]:
    """Units were those of today, but nobody wrote so; and the first checkpoints lack fields that came later."""
    later = _LATER_IN_1 | (_LATER_IN_1_OF_ENERGIES if config.get("model_type") == "adapt_energy" else {})
    config = {"units": dict(UNITS), **later, **config}
    if isinstance(config.get("training_domain"), dict):
        config["training_domain"] = {**_LATER_IN_1_OF_DOMAINS, **config["training_domain"]}
    return config


def _from_2_to_3(config: dict[str, Any]) -> dict[str, Any]:
    """
    One architecture where there were `geometry` and `architecture`; fields that it does not read are left out, which
    the configuration does. The energy model has a choice of force losses, and had the mean square.
    """
    config = {name: value for name, value in config.items() if name not in ("geometry", "num_descriptors")} | {
        "architecture": _architecture_of_2(config)
    }
    return config | ({"force_loss": "mse"} if config.get("model_type") == "adapt_energy" else {})


def _architecture_of_2(config: dict[str, Any]) -> str:
    of_energies = config.get("model_type") == "adapt_energy"
    return "mlp" if of_energies and config.get("architecture") == "mlp" else config.get("geometry", "cartesian")


def _weights_from_2_to_3(config: dict[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Trunks and read-outs have their names; a pairwise energy is without the weights of vectors that nobody read."""
    architecture = _architecture_of_2(config)
    dead = config.get("model_type") == "adapt_energy" and architecture == "pairwise"
    renamed = {}
    for name, value in weights.items():
        if dead and name.endswith("vector_mixing.weight"):
            continue
        if dead and ".mlp.3." in name:
            value = value[: config["hidden_size"]].clone()
        for old, new in _RENAMED_IN_3[architecture != "mlp"].items():
            name = re.sub(old, new, name)
        renamed[name] = value
    return renamed


_RENAMED_IN_3 = {
    True: {
        r"^adapt\.": "adapt.trunk.",
        r"^(embeddings|layers|norm)\.": r"trunk.\1.",
        r"^force_head\.(weight|bias)$": r"force_head.linear.\1",
        r"^energy_head\.(\d)": r"energy_head.layers.\1",
    },
    False: {r"^blocks\.": "adapt.trunk.blocks.", r"^energy_head\.": "energy_head.linear."},
}

# For each change of the format what becomes of a `config.json` and, by its number, of the weights beside it.
STEPS = (_from_1_to_2, _from_2_to_3)
_WEIGHT_STEPS = {2: _weights_from_2_to_3}
FORMAT_VERSION = 1 + len(STEPS)


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """
    What stands in a `config.json`, as this version would write it. Without a `format_version` it is of format 1.

    Raises:
        `ValueError`: The format is a later one, or none.
    """
    version = config.get("format_version", 1)
    require_readable(version)
    for step in STEPS[version - 1 :]:
        config = step(config)
    return {**config, "format_version": FORMAT_VERSION}


def upgraded_weights(config: dict[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """
    The weights beside a `config.json`, by their names, as this version would write them.

    Args:
        config (`dict[str, Any]`): As it stands in the file.
    """
    for version in range(config.get("format_version", 1), FORMAT_VERSION):
        if version in _WEIGHT_STEPS:
            weights = _WEIGHT_STEPS[version](config, weights)
        config = STEPS[version - 1](config)
    return dict(weights)


def require_readable(version: Any) -> None:
    """Raises `ValueError` unless `version` is a format that this code reads."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"format_version must be a whole number of at least 1, not {version!r}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"the checkpoint has format {version}, but version {ADAPT_VERSION} of this project reads formats 1 to "
            f"{FORMAT_VERSION}: install a later version of this project, or pin an older revision of the checkpoint"
        )


def require_our_units(units: Any) -> None:
    """Raises `ValueError` unless `units` are those in which this code computes."""
    if units != UNITS:
        ours = ", ".join(f"{quantity} in {unit}" for quantity, unit in UNITS.items())
        raise ValueError(f"the checkpoint has units {units}, but this code has {ours}: convert its statistics to them")


__all__ = [
    *("ADAPT_VERSION", "FORMAT_VERSION", "STEPS", "UNITS"),
    *("require_our_units", "require_readable", "upgraded", "upgraded_weights"),
]
