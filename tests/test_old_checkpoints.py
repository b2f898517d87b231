"""Checkpoints of every format load, give the forces that they gave, and are of today's format when saved again."""

import json
import os
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from hub_clients import run_stranger
from old_checkpoints import CHECKPOINTS, KINDS, forces_of
from transformers import AutoConfig, AutoModel

from modeling_adapt import ADAPTConfig, ADAPTEnergyConfig, ADAPTForForces
from modeling_adapt.configuration.versions_adapt import (
    ADAPT_VERSION,
    FORMAT_VERSION,
    STEPS,
    UNITS,
    _from_1_to_2,
    upgraded,
    upgraded_weights,
)
from modeling_adapt.crystal.trained_region import TrainingDomain
from modeling_adapt.errors import InputError
from modeling_adapt.loading import load_model

FORMATS = sorted(path.name for path in CHECKPOINTS.iterdir() if path.is_dir())
LATER = f"the checkpoint has format {FORMAT_VERSION + 1}, but version {ADAPT_VERSION} of this project reads formats "
LATER += f"1 to {FORMAT_VERSION}: install a later version of this project, or pin an older revision of the checkpoint"


@pytest.fixture(params=[f"{number}/{kind}" for number in FORMATS for kind in KINDS])
def checkpoint(request):
    return CHECKPOINTS / request.param


@pytest.fixture
def edited(make_force_model, tmp_path):
    """Function from changes of `config.json` to the folder of a checkpoint with its code."""
    make_force_model(geometry="pairwise", num_vector_channels=8).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"

    def edit(**changes):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return path.parent

    return edit


def test_every_format_has_its_checkpoints():
    assert FORMATS == [str(number) for number in range(1, FORMAT_VERSION + 1)]
    for number in FORMATS:
        for kind in KINDS:
            config = json.loads((CHECKPOINTS / number / kind / "config.json").read_text())
            assert config.get("format_version", 1) == int(number)


def test_forces_are_what_they_were(checkpoint):
    expected = torch.tensor(json.loads((checkpoint / "expected_forces.json").read_text()))
    assert expected.abs().max() > 1e-4
    for model in (load_model(checkpoint)[0], AutoModel.from_pretrained(checkpoint)):
        assert (forces_of(model) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_saved_again_it_is_of_today(checkpoint, tmp_path):
    model, _ = load_model(checkpoint)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["format_version"], config["units"]) == (FORMAT_VERSION, UNITS)
    assert config["adapt_version"] == ADAPT_VERSION and "transformers_version" in config
    assert upgraded(config) == config
    again, _ = load_model(tmp_path)
    assert torch.equal(forces_of(again), forces_of(model))
    assert again.config.to_dict() == model.config.to_dict() | {"_name_or_path": str(tmp_path)}


def test_strangers_upgrade_too(edited, tmp_path):
    """By the code that the checkpoint brings along."""
    first = CHECKPOINTS / "1" / "pairwise"
    model = ADAPTForForces.from_pretrained(first)
    auto_map = json.loads((edited() / "config.json").read_text())["auto_map"]
    config = json.loads((first / "config.json").read_text()) | {"auto_map": auto_map}
    shutil.copy(first / "model.safetensors", edited())
    (edited() / "config.json").write_text(json.dumps(config))
    code = """
import json, sys
import torch
from transformers import AutoConfig, AutoModel
folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
weight = sum(weight.double().sum().item() for weight in model.parameters())
first = [type(model).__module__.split(".")[0], model.config.format_version, model.config.units, weight]
with open(f"{folder}/config.json") as file:
    config = json.load(file)
with open(f"{folder}/config.json", "w") as file:
    json.dump(config | {"format_version": model.config.format_version + 1, "a_later_field": 1}, file)
try:
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
except ValueError as error:
    print(json.dumps([*first, str(error)]))
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    *loaded, refusal = json.loads(run_stranger(code, environment, edited()).splitlines()[-1])
    assert loaded[:3] == ["transformers_modules", FORMAT_VERSION, UNITS]
    assert loaded[3] == sum(weight.double().sum().item() for weight in model.parameters())
    assert refusal == LATER


class TestRefusals:
    @pytest.mark.parametrize("also", [{}, {"a_later_field": 1}, {"hidden_size": "wide"}, {"model_type": "adapt_new"}])
    def test_a_later_format_is_said_to_be_one(self, edited, also):
        folder = edited(format_version=FORMAT_VERSION + 1, **also)
        with pytest.raises(InputError) as caught:
            load_model(folder)
        assert str(caught.value) == f"{folder} cannot be loaded: {LATER}"
        for load in (ADAPTForForces.from_pretrained, ADAPTConfig.from_pretrained):
            with pytest.raises(ValueError) as raised:
                load(folder)
            assert str(raised.value) == LATER

    def test_by_auto_classes_and_from_its_file(self, edited):
        folder = edited(format_version=FORMAT_VERSION + 1)
        file = folder / "config.json"
        for load in (
            AutoConfig.from_pretrained,
            AutoModel.from_pretrained,
            lambda _: ADAPTConfig.from_json_file(file),
        ):
            with pytest.raises(ValueError) as raised:
                load(folder)
            assert str(raised.value) == LATER

    @pytest.mark.parametrize("format_version", [None, 0, -1, True, "2", 1.0])
    def test_no_format(self, edited, format_version):
        with pytest.raises(InputError, match="format_version must be a whole number of at least 1, not"):
            load_model(edited(format_version=format_version))

    @pytest.mark.parametrize("units", [UNITS | {"length": "bohr"}, {"length": "Å"}, {}])
    @pytest.mark.parametrize("format_version", [1, FORMAT_VERSION])
    def test_other_units(self, edited, units, format_version):
        with pytest.raises(InputError, match="has units .*, but this code has length in Å, energy in eV") as caught:
            load_model(edited(units=units, format_version=format_version))
        assert "\n" not in str(caught.value)


class TestFromOneToTwo:
    """Its first checkpoints lack what came later; models then were what these values say."""

    def test_fields(self):
        assert _from_1_to_2({"model_type": "adapt"}) == {
            **{"model_type": "adapt", "units": UNITS, "remove_net_force": False},
            **{"pairwise_cutoff": 5.0, "num_radial_basis": 12, "num_vector_channels": 32},
            **{"descriptors": None, "element_embedding_size": 0},
        }
        of_energies = {"architecture": "mlp", "element_energies": None, "force_weight": 1.0}
        assert of_energies.items() <= _from_1_to_2({"model_type": "adapt_energy"}).items()
        given = {"pairwise_cutoff": 4.0, "architecture": "pooled", "model_type": "adapt_energy"}
        assert given.items() <= _from_1_to_2(given).items()

    @pytest.mark.parametrize("config_class", [ADAPTConfig, ADAPTEnergyConfig])
    def test_all_are_fields(self, config_class):
        config_class.from_dict({"model_type": config_class.model_type})

    def test_trained_domain(self):
        first = {"elements": ["Si"], "periodicity": ["abc"], "number_of_atoms": [8, 8], "largest_force": 1.0}
        first |= {"closest_distances": {}, "largest_displacement": None, "volume_per_atom": None, "cell_edges": None}
        config = ADAPTConfig.from_dict({"training_domain": first})
        assert config.training_domain == first | {"cell_angles": None, "local": False, "frame": None}
        assert TrainingDomain.from_dict(config.training_domain) == TrainingDomain.from_dict(first)

    def test_what_it_is_given_stays_as_it_is(self):
        config = {"model_type": "adapt", "training_domain": {"elements": []}}
        upgraded(config)
        assert config == {"model_type": "adapt", "training_domain": {"elements": []}}


class TestFromTwoToThree:
    """One architecture, and no field or weight that nobody reads."""

    @pytest.mark.parametrize(
        ("second", "architecture"),
        [
            ({"model_type": "adapt"}, "cartesian"),
            ({"model_type": "adapt", "geometry": "pairwise"}, "pairwise"),
            ({"model_type": "adapt_energy", "architecture": "mlp", "geometry": "pairwise"}, "mlp"),
            ({"model_type": "adapt_energy", "architecture": "pooled", "geometry": "fourier"}, "fourier"),
        ],
    )
    def test_architecture(self, second, architecture):
        third = upgraded({**second, "format_version": 2, "num_descriptors": 9, "norm_position": "post"})
        assert third["architecture"] == architecture
        assert "geometry" not in third and "num_descriptors" not in third
        config_class = {"adapt": ADAPTConfig, "adapt_energy": ADAPTEnergyConfig}[second["model_type"]]
        config = config_class.from_dict({**second, "format_version": 2, "norm_position": "post"})
        assert ("norm_position" in config.to_dict()) == (architecture in ("cartesian", "fourier"))
        if second["model_type"] == "adapt_energy":
            assert config.force_loss == "mse"  # whatever it said, which nobody read

    def test_weights_of_vectors_that_nobody_read_are_gone(self):
        second = {"model_type": "adapt_energy", "architecture": "pooled", "geometry": "pairwise", "hidden_size": 2}
        weights = {"adapt.layers.0.mlp.3.weight": torch.arange(12.0).reshape(6, 2)}
        weights |= {"adapt.layers.0.vector_mixing.weight": torch.ones(2, 2), "energy_head.2.bias": torch.ones(1)}
        third = upgraded_weights(second | {"format_version": 2}, weights)
        assert sorted(third) == ["adapt.trunk.layers.0.mlp.3.weight", "energy_head.layers.2.bias"]
        assert torch.equal(third["adapt.trunk.layers.0.mlp.3.weight"], torch.arange(4.0).reshape(2, 2))


def test_steps_are_named():
    assert [step.__name__ for step in STEPS] == [f"_from_{one}_to_{one + 1}" for one in range(1, FORMAT_VERSION)]


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
    assert project["version"] == ADAPT_VERSION


def test_who_wrote_it_stays_known_until_it_is_saved_again(edited):
    assert load_model(edited(adapt_version="0.0.9"))[0].config.adapt_version == "0.0.9"
