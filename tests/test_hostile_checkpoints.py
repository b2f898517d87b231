"""A checkpoint of somebody else: what it may not ask for, and what of it is never passed on."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from hub_uploads import save
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel

from modeling_adapt.errors import InputError
from modeling_adapt.hub.run_folder import open_runs
from modeling_adapt.hub.staging import stage_repository
from modeling_adapt.loading import load_model

EVIL = "evil/repo--evil.X"
PLANTED = {
    "auto_map": {name: EVIL for name in ("AutoConfig", "AutoModel", "AutoProcessor", "AutoTokenizer")},
    "custom_pipelines": {"atom-forces": {"impl": EVIL}, "x": {"impl": EVIL}},
    **{
        "tokenizer_class": EVIL,
        "processor_class": EVIL,
        "image_processor_type": EVIL,
        "x_implementation": "evil_repo",
    },
    "feature_extractor_type": EVIL,
}


@pytest.fixture
def saved(make_force_model, make_energy_model, tmp_path_factory, tmp_path):
    """Function from an architecture to a folder with a model of forces or energies; each is made once, and copied."""

    def copy(architecture: str, energy: bool = False) -> Path:
        made = MADE.get((architecture, energy))
        if made is None:
            make = make_energy_model if energy else make_force_model
            made = MADE[architecture, energy] = save(make(architecture=architecture), tmp_path_factory.mktemp("saved"))
        return Path(shutil.copytree(made, tmp_path / "model"))

    return copy


MADE: dict[tuple[str, bool], Path] = {}


def edit(folder: Path, name: str = "config.json", **fields) -> None:
    written = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(written | fields))


@pytest.fixture(params=["forces", "energy", "pairwise energy"])
def planted(request, make_force_model, make_energy_model, tmp_path) -> Path:
    fields = {"architecture": "pairwise", "num_vector_channels": 8} if "pairwise" in request.param else {}
    model = make_force_model() if request.param == "forces" else make_energy_model(**fields)
    folder = save(model, tmp_path / "planted")
    edit(folder, **PLANTED)
    edit(folder, "preprocessor_config.json", **PLANTED | {"feature_extractor_type": "ADAPTFeatureExtractor"})
    return folder


def own_code(folder: Path) -> None:
    """Every name of code in `folder` is that of a file of ours beside it."""
    for name in ("config.json", "preprocessor_config.json"):
        written = json.loads((folder / name).read_text())
        assert "evil" not in json.dumps(written), (name, written)
        for reference in written["auto_map"].values():
            assert (folder / f"{reference.split('.')[0]}.py").is_file()
    assert sorted(json.loads((folder / "config.json").read_text())["auto_map"]) == ["AutoConfig", "AutoModel"]


@pytest.mark.parametrize("how", ["load_model", "auto classes"])
def test_foreign_code_is_not_saved(planted, tmp_path, how):
    if how == "load_model":
        model, extractor = load_model(planted)
    else:
        model, extractor = AutoModel.from_pretrained(planted), AutoFeatureExtractor.from_pretrained(planted)
    model.save_pretrained(tmp_path / "again")
    extractor.save_pretrained(tmp_path / "again")
    own_code(tmp_path / "again")


def test_foreign_code_is_not_published(planted, tmp_path):
    stage_repository(open_runs([planted]), tmp_path / "staged", "org/victim")
    own_code(tmp_path / "staged")


NOT_BUILT = [
    *[{name: 10**6} for name in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")],
    *[{name: 10**9} for name in ("num_labels", "pairwise_cutoff", "num_radial_basis", "num_vector_channels")],
    *[{name: 10**9} for name in ("attention_radius", "element_embedding_size")],
    *[{"embedding_sizes": [10**8, 10**8]}, {"embedding_sizes": [8] * 10**4}, {"fourier_wave_numbers": [10**9]}],
    {"hidden_size": 65_536, "intermediate_size": 262_144, "num_hidden_layers": 1000},
    *[{"pairwise_cutoff": value} for value in (float("nan"), float("inf"), -1.0)],
    *[{"hidden_size": value} for value in ("256", None, [256], {"a": 1}, 0, -8, True)],
    *[{"num_hidden_layers": "many"}, {"num_labels": "many"}, {"id2label": 3}, {"architecture": ["pairwise"]}],
    *[{"feature_std": [value] + [1.0] * 11} for value in (0.0, -1.0, float("inf"), float("nan"))],
    *[{"feature_mean": [value] + [1.0] * 11} for value in (float("inf"), float("nan"))],
    *[{"force_std": [value] * 3} for value in (0.0, -1.0, float("inf"), float("nan"))],
    *[{"rescale_factor": value} for value in (0.0, float("nan"))],
    *[{"normalization_eps": value} for value in (-1.0, float("inf"))],
    *[{"training_domain": {"largest_force": value}} for value in (float("nan"), float("inf"))],
    {"training_domain": {"closest_distances": {"Si-Si": float("nan")}}},
    *[{"quantization_config": {"quant_method": name}} for name in ("bitsandbytes", "nonsense")],
    *[{name: "evil/kernels:run"} for name in ("attn_implementation", "_attn_implementation")],
    *[{"experts_implementation": "evil/kernels"}, {"format_version": 10**9}, {"format_version": "x"}],
    *[{"units": {}}, {"model_type": "bert"}, {"model_type": None}, {"hidden_act": "evil"}],
]
OF_ENERGY = [
    *[{"energy_std": value} for value in (0, 0.0, -1.0, float("nan"), float("inf"))],
    *[{"energy_mean": value} for value in (float("nan"), float("inf"), "x")],
    *[{"max_atoms": 10**9}, {"energy_hidden_sizes": [10**9]}, {"energy_hidden_sizes": [65_536] * 10}],
]


@pytest.mark.parametrize("fields", NOT_BUILT, ids=str)
def test_a_configuration_that_cannot_be_meant_is_one_line(saved, fields):
    architecture = "fourier" if "fourier_wave_numbers" in fields else "cartesian"
    of_pairs = {"pairwise_cutoff", "num_radial_basis", "num_vector_channels"}
    folder = saved("pairwise" if of_pairs & set(fields) else architecture)
    edit(folder, **fields)
    refused(folder)


@pytest.mark.parametrize("fields", OF_ENERGY, ids=str)
def test_so_is_that_of_an_energy(saved, fields):
    folder = saved("mlp", energy=True)
    edit(folder, **fields)
    refused(folder)


def refused(folder: Path) -> str:
    started = time.process_time()
    with pytest.raises(InputError) as caught:
        load_model(folder)
    assert time.process_time() - started < 10
    assert len(str(caught.value).splitlines()) == 1 and str(folder) in str(caught.value)
    return str(caught.value)


def deep(folder: Path) -> None:
    (folder / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


def shards(folder: Path, outside: str) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "weights.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, outside)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def stored_as(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("weight"))
    save_file(weights | {name: change(weights[name])}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (deep, "cannot be loaded"),
        (lambda folder: shards(folder, "../weights.safetensors"), "names ../weights.safetensors, which is no"),
        (lambda folder: shards(folder, str(folder.parent / "weights.safetensors")), "which is no safetensors file"),
        (lambda folder: stored_as(folder, lambda values: values.to(torch.int8)), "is stored as I8"),
        (lambda folder: stored_as(folder, lambda values: values * float("nan")), "are not finite"),
        (lambda folder: stored_as(folder, lambda values: values[:1]), "mismatched_keys"),
        (lambda folder: (folder / "config.json").write_text("[]"), "no ADAPT checkpoint"),
    ],
)
def test_files_that_cannot_be_meant_are_one_line(saved, spoil, message):
    folder = saved("cartesian")
    spoil(folder)
    assert message in refused(folder)
