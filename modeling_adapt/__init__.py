"""ADAPT: a machine-learning force field for point defects, as a Hugging Face model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .auto_classes import register

if TYPE_CHECKING:
    from .configuration_adapt import ADAPTConfig, ADAPTEnergyConfig
    from .feature_extraction_adapt import ADAPTFeatureExtractor
    from .modeling_adapt import ADAPTForEnergy, ADAPTForForces, ADAPTModel, ADAPTPreTrainedModel
    from .pipeline_adapt import AtomForcesPipeline

# Imported when they are asked for, since they bring torch along: commands answer --help without it.
_HOMES = {
    "ADAPTConfig": "configuration_adapt",
    "ADAPTEnergyConfig": "configuration_adapt",
    "ADAPTFeatureExtractor": "feature_extraction_adapt",
    "ADAPTForEnergy": "modeling_adapt",
    "ADAPTForForces": "modeling_adapt",
    "ADAPTModel": "modeling_adapt",
    "ADAPTPreTrainedModel": "modeling_adapt",
    "AtomForcesPipeline": "pipeline_adapt",
}
__all__ = [
    "ADAPTConfig",
    "ADAPTEnergyConfig",
    "ADAPTFeatureExtractor",
    "ADAPTForEnergy",
    "ADAPTForForces",
    "ADAPTModel",
    "ADAPTPreTrainedModel",
    "AtomForcesPipeline",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# With the package imported, the Auto classes find ours; without it, a checkpoint brings its own code along.
register()
