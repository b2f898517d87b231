"""Re-exports the configuration; `save_pretrained` replaces this file by the real one, so checkpoints stand alone."""

from modeling_adapt.configuration.configuration_adapt import (
    DEFAULT_MODEL,
    ADAPTConfig,
    ADAPTEnergyConfig,
    in_the_box,
)

__all__ = ["DEFAULT_MODEL", "ADAPTConfig", "ADAPTEnergyConfig", "in_the_box"]
