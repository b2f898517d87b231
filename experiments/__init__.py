"""Experiments of the paper and beyond it, as commands: `python -m experiments NAME`."""

from .attention_radius import AttentionRadius
from .data_scaling import DataScaling
from .descriptors import Descriptors
from .experiment import Experiment
from .generalisation import Generalisation
from .geometry import Geometry
from .loss import Loss
from .md_drift import MDDrift
from .model_size import ModelSize
from .relaxation import Relaxation
from .system_size import SystemSize

_ALL: tuple[type[Experiment], ...] = (
    *(AttentionRadius, Loss, DataScaling, ModelSize, Descriptors, SystemSize, Generalisation, Relaxation, MDDrift),
    Geometry,
)
EXPERIMENTS: dict[str, Experiment] = {kind.name: kind() for kind in _ALL}

__all__ = ["EXPERIMENTS", "Experiment"]
