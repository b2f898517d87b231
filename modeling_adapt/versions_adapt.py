"""Re-exports the versions; `save_pretrained` replaces this file by the real one, so checkpoints stand alone."""

from modeling_adapt.configuration.versions_adapt import FORMAT_VERSION, upgraded, upgraded_weights

__all__ = ["FORMAT_VERSION", "upgraded", "upgraded_weights"]
