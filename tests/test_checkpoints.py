"""A saved folder stands alone: it loads in a process that knows nothing of this repository, and only as what it is."""

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_clients import STRANGER, run_stranger
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel
from transformers.dynamic_module_utils import get_imports

import modeling_adapt
from modeling_adapt import ADAPTConfig, ADAPTEnergyConfig, ADAPTFeatureExtractor, ADAPTForEnergy, ADAPTForForces
from modeling_adapt.errors import InputError
from modeling_adapt.hub.staging import MAY_BE_IMPORTED, is_ours
from modeling_adapt.loading import load_model

USE = (
    STRANGER
    + """
inputs, outputs, *folders = sys.argv[1:]
structure = load_file(inputs)
results = {}
for number, folder in enumerate(folders):
    model, extract = automatic(folder)
    result = model(**extract({name: array.numpy() for name, array in structure.items()}))
    results[str(number)] = (result.forces if "forces" in result else result.energy).detach()
    print(type(model).__name__)
save_file(results, outputs)
"""
)


@pytest.fixture(params=["forces", "energy"])
def saved(request, make_force_model, make_energy_model, tmp_path):
    model = make_force_model() if request.param == "forces" else make_energy_model()
    model.save_pretrained(tmp_path / "model")
    ADAPTFeatureExtractor().save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_a_stranger_gets_identical_outputs(make_force_model, make_energy_model, structures, tmp_path):
    models = [make_force_model(), make_energy_model()]
    folders = [tmp_path / type(model).__name__ for model in models]
    for model, folder in zip(models, folders, strict=True):
        model.save_pretrained(folder)
        ADAPTFeatureExtractor().save_pretrained(folder)
        assert "class ADAPTConfig" in (folder / "configuration_adapt.py").read_text()
    atoms = structures[1]
    tensors = {"atomic_numbers": atoms.numbers, "positions": atoms.positions, "cell": atoms.cell.array}
    save_file({name: torch.tensor(array) for name, array in tensors.items()}, tmp_path / "inputs")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    said = run_stranger(USE, environment, tmp_path / "inputs", tmp_path / "outputs", *folders)
    assert said.split()[-2:] == [folder.name for folder in folders]
    results = load_file(tmp_path / "outputs")
    for number, model in enumerate(models):
        with torch.no_grad():
            assert torch.equal(results[str(number)], model(**ADAPTFeatureExtractor()(atoms))[0])


def test_auto_classes_find_ours_when_the_package_is_imported(saved):
    model, folder = saved
    assert type(AutoModel.from_pretrained(folder)) is type(model)
    assert type(AutoConfig.from_pretrained(folder)) is type(model.config)
    assert type(AutoFeatureExtractor.from_pretrained(folder)) is ADAPTFeatureExtractor
    assert type(AutoModel.from_config(type(model.config)(**model.config.to_dict()))) is type(model)


def test_heads_never_load_as_each_other(saved):
    model, folder = saved
    other = ADAPTForEnergy if isinstance(model, ADAPTForForces) else ADAPTForForces
    with pytest.raises(InputError, match=f"holds {type(model).__name__}, but {other.__name__} is needed"):
        load_model(folder, other)
    other_config = ADAPTEnergyConfig if other is ADAPTForEnergy else ADAPTConfig
    assert other_config.model_type != model.config.model_type


ROOT = Path(modeling_adapt.__file__).parents[1]
NAMES = ("modeling", "embeddings", "encoder", "mesh", "mlp", "pairwise", "reciprocal", "repulsion", "neighbours")
NAMES += ("elements", "feature_extraction", "pipeline", "pretrained")
REMOTE_CODE = {f"{name}_adapt": ROOT / "modeling_adapt" / f"{name}_adapt.py" for name in NAMES}
REMOTE_CODE |= {
    name: ROOT / "configuration" / f"{name}.py"
    for name in ("configuration_adapt", "architectures_adapt", "versions_adapt")
}
TRIED = {"ase", "modeling_adapt"}  # inside `try`, where a checkpoint can do without


def _imports(node: ast.AST, tried: bool = False) -> Iterator[tuple[str, int, bool]]:
    """Module, number of leading dots, and whether it is inside `try`, of every import anywhere in a file."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, 0, tried) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module or "", node.level, tried
    for name, value in ast.iter_fields(node):
        inside = tried or (isinstance(node, ast.Try) and name == "body")
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _imports(child, inside)


@pytest.mark.parametrize("name", REMOTE_CODE)
def test_files_import_only_what_a_checkpoint_may(name):
    source = REMOTE_CODE[name].read_text()
    for module, level, tried in _imports(ast.parse(source)):
        if level:
            assert level == 1 and module in REMOTE_CODE, f"{name} imports {'.' * level}{module}"
        else:
            root = module.split(".")[0]
            assert root in MAY_BE_IMPORTED or (tried and root in TRIED), f"{name} imports {module}"
    assert set(get_imports(REMOTE_CODE[name])) <= MAY_BE_IMPORTED  # what transformers asks to be installed
    assert "pickle" not in source


def test_all_files_that_travel_are_looked_at(saved):
    _, folder = saved
    assert {file.stem for file in folder.glob("*.py")} <= set(REMOTE_CODE)
    assert all(is_ours(f"{name}.py") for name in REMOTE_CODE) and not is_ours("other_adapt.py")


class TestWrongFolders:
    def test_missing_and_empty(self, tmp_path):
        for folder in (tmp_path, tmp_path / "none"):
            with pytest.raises(InputError, match="is no checkpoint"):
                load_model(folder)

    def test_foreign_model(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
        with pytest.raises(InputError, match="model_type is 'bert'"):
            load_model(tmp_path)

    def test_a_folder_that_looks_like_a_hub_id_does_not_go_to_the_hub(self, tmp_path, monkeypatch):
        (tmp_path / "runs").mkdir()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match="runs/misspelled is no checkpoint"):
            load_model("runs/misspelled")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"rescale_factor": "wide"}, "rescale_factor"),
            ({"architecture": "polar"}, "architecture must be one of"),
            ({"hidden_act": "no-such"}, "no-such"),
        ],
    )
    def test_configuration_that_is_wrong(self, saved, change, message):
        _, folder = saved
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=message) as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)

    def test_fields_that_it_does_not_know_are_said_and_kept(self, saved, monkeypatch):
        """A later version, or another tool, may have left them there."""
        model, folder = saved
        config = json.loads((folder / "config.json").read_text())
        unread = "pairwise_cutoff" if model.config.predicts == "energy" else "fourier_wave_numbers"
        (folder / "config.json").write_text(json.dumps(config | {"hiden_size": 3, unread: 4.0}))
        said = []
        monkeypatch.setattr("modeling_adapt.configuration.configuration_adapt.logger.warning", said.append)
        loaded, _ = load_model(folder)
        assert said and all(f"does not read: hiden_size, {unread}" in line for line in said)
        assert loaded.config.hiden_size == 3 and loaded.config.to_dict()["hiden_size"] == 3
        assert unread not in loaded.config.to_dict()

    @pytest.mark.parametrize("content", ["", "{ no", "[1]"])
    def test_configuration_that_is_none(self, tmp_path, content):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match="not a valid JSON|no ADAPT checkpoint"):
            load_model(tmp_path)

    def test_weights_of_another_size(self, saved, caplog):
        _, folder = saved
        config = json.loads((folder / "config.json").read_text())
        name = "hidden_size" if config["model_type"] == "adapt" else "max_atoms"
        (folder / "config.json").write_text(json.dumps(config | {name: 2 * config[name]}))
        with pytest.raises(InputError, match=r"does not fit its configuration: \d+ mismatched_keys such as"):
            load_model(folder)
        assert not caplog.records

    def test_truncated_weights(self, saved):
        _, folder = saved
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match="cannot be loaded"):
            load_model(folder)

    def test_missing_weight(self, saved):
        _, folder = saved
        weights = load_file(folder / "model.safetensors")
        weights.pop(sorted(weights)[0])
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match="does not fit its configuration: .*missing_keys"):
            load_model(folder)
