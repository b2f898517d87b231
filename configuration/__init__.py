"""What can be configured: the model configurations, and presets, recipes and launch files beside them."""

from modeling_adapt.configuration.configuration_adapt import ADAPTConfig, ADAPTEnergyConfig

__all__ = ["ADAPTConfig", "ADAPTEnergyConfig"]
