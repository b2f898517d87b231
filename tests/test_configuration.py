"""The configuration refuses what cannot work, and says what was meant."""

import json
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassError

import modeling_adapt
from modeling_adapt import ADAPTConfig, ADAPTEnergyConfig

PRESETS = sorted((Path(modeling_adapt.__file__).parent / "configuration" / "models").glob("*.json"))


@pytest.mark.parametrize("config_class", [ADAPTConfig, ADAPTEnergyConfig])
def test_misspelled_field_names_the_nearest(config_class):
    with pytest.raises(ValueError, match="has no field 'hiden_size'; did you mean 'hidden_size'"):
        config_class(hiden_size=64)


@pytest.mark.parametrize(
    "fields",
    [
        {"architecture": "polar"},
        {"norm_position": "middle"},
        {"force_loss": "l1"},
        {"hidden_size": 100},
        {"hidden_size": "256"},
        {"num_hidden_layers": 0},
        {"fourier_wave_numbers": ()},
        {"attention_radius": -1.0},
        {"hidden_dropout_prob": 1.0},
        {"feature_mean": (0.0,) * 12},
        {"force_mean": (0.0, 0.0), "force_std": (1.0, 1.0)},
        {"force_mean": (0.0, 0.0, 0.0), "force_std": (1.0, 1.0, -1.0)},
    ],
)
def test_impossible_values_are_refused(fields):
    with pytest.raises((StrictDataclassError, ValueError)):
        ADAPTConfig(**fields)


@pytest.mark.parametrize(
    "fields", [{"max_atoms": 0}, {"energy_loss": "l2"}, {"energy_hidden_sizes": ()}, {"energy_mean": 1.0}]
)
def test_impossible_energy_values_are_refused(fields):
    with pytest.raises((StrictDataclassError, ValueError)):
        ADAPTEnergyConfig(**fields)


@pytest.mark.parametrize("config_class", [ADAPTConfig, ADAPTEnergyConfig])
def test_saved_configuration_comes_back(config_class, tmp_path):
    force_mean = {"force_mean": (0.0, 0.1, 0.2)} if config_class is ADAPTConfig else {}
    config = config_class(architecture="fourier", force_std=(1.0, 1.0, 1.0), **force_mean)
    config.save_pretrained(tmp_path)
    assert config_class.from_pretrained(tmp_path).to_dict() == config_class(**config.to_dict()).to_dict()


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid(preset):
    values = json.loads(preset.read_text())
    config_class = {"adapt": ADAPTConfig, "adapt_energy": ADAPTEnergyConfig}[values.pop("model_type")]
    config_class(**values)


def test_defaults_are_the_published_presets():
    for name, config_class in (("published-small", ADAPTConfig), ("published-energy", ADAPTEnergyConfig)):
        values = json.loads((PRESETS[0].parent / f"{name}.json").read_text())
        values.pop("model_type")
        default = config_class()
        for field, value in values.items():
            stated = getattr(default, field)
            assert (list(stated) if isinstance(stated, tuple) else stated) == value, field
