"""Re-exports the configuration; `save_pretrained` replaces this file by the real one, so checkpoints stand alone."""

from modeling_adapt.configuration.configuration_adapt import ADAPTConfig, ADAPTEnergyConfig

__all__ = ["ADAPTConfig", "ADAPTEnergyConfig"]
