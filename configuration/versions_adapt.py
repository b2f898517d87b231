"""
What a checkpoint says of its own format, and how one of an earlier format becomes one of today's.

A change after which older checkpoints would mean something else, or would not load, is a new step at the end of
`STEPS`, and a new folder in `tests/data/checkpoints/`.
"""

from typing import Any

ADAPT_VERSION = "0.1.0"  # of the package; it is written here since a checkpoint brings this file, not the package
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


STEPS = (_from_1_to_2,)
FORMAT_VERSION = 1 + len(STEPS)


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """
    What stands in a `config.json`, as this version would write it. Without a `format_version` it is of format 1.

    Raises:
        `ValueError`: the format is a later one, or none.
    """
    version = config.get("format_version", 1)
    require_readable(version)
    for step in STEPS[version - 1 :]:
        config = step(config)
    return {**config, "format_version": FORMAT_VERSION}


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


__all__ = ["ADAPT_VERSION", "FORMAT_VERSION", "STEPS", "UNITS", "require_our_units", "require_readable", "upgraded"]
