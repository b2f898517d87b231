"""Fixtures shared by the tests: real data beside the checkout, and small seeded models."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before anything imports datasets or huggingface_hub: tests neither fill nor read the user's cache.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="adapt-tests-")

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk
from documentation_runner import Runner
from hub_server import Hub, running_hub

from modeling_adapt import ADAPTConfig, ADAPTEnergyConfig, ADAPTForEnergy, ADAPTForForces
from modeling_adapt.configuration.architectures_adapt import ARCHITECTURES
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.structures import structure_row

SHARED = Path(__file__).resolve().parents[2] / "shared"

TINY = {"embedding_sizes": (16,), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"intermediate_size": 24, "hidden_dropout_prob": 0.0}
STATISTICS = {
    "feature_mean": (3.0, 3.0, 3.0, 14.0, 3.0, 1.9, 111.0, 4.0, 8.2, 133.0, 1.1, 12.0),
    "feature_std": (2.0, 2.0, 2.0, 1.0, 0.2, 0.1, 4.0, 1.0, 0.3, 9.0, 0.1, 1.0),
    "force_mean": (0.0, 0.0, 0.0),
    "force_std": (0.5, 0.5, 0.5),
}


def _folder_or_skip(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no {name} folder beside the checkout")
    return folder


@pytest.fixture(autouse=True)
def without_figures(request, monkeypatch):
    """Figures take a second for every data set and every evaluation; tests that look at them are marked `figures`."""
    if request.node.get_closest_marker("figures") is None:
        monkeypatch.setattr("modeling_adapt.data.build.dataset_card._draw", lambda contents, folder: {})
        monkeypatch.setattr("modeling_adapt.training.record.training_curve", lambda *_: None)
        no_picture = lambda example, path: path.write_bytes(b"\x89PNG\r\n\x1a\n")  # noqa: E731
        monkeypatch.setattr("modeling_adapt.hub.staging.draw_example", no_picture)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real DFT data (`../shared/data`); the test is skipped where it is absent."""
    return _folder_or_skip("data")


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Inputs that went wrong (`../shared/cases`); the test is skipped where they are absent."""
    return _folder_or_skip("cases")


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Reference outputs of the published code (`../shared/reference`); the test is skipped where it is absent."""
    return _folder_or_skip("reference")


def readable(config_class: type[ADAPTConfig], fields: dict) -> dict:
    """Those of `fields` that the architecture among them reads: tests name those of all architectures at once."""
    read = ARCHITECTURES[fields.get("architecture", config_class.architecture)].fields(config_class.predicts)
    return {name: value for name, value in fields.items() if name in read or name == "architecture"}


@pytest.fixture
def make_force_model():
    """Function from configuration fields to a small seeded force model in evaluation mode."""

    def make(seed: int = 0, **fields) -> ADAPTForForces:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return ADAPTForForces(ADAPTConfig(**readable(ADAPTConfig, TINY | STATISTICS | fields))).eval()

    return make


@pytest.fixture
def make_energy_model():
    """Function from configuration fields to a small seeded energy model in evaluation mode."""

    def make(seed: int = 0, **fields) -> ADAPTForEnergy:
        small = {"max_atoms": 24, "energy_hidden_sizes": (32, 32, 8), "energy_mean": -90.0, "energy_std": 5.0}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fields = readable(ADAPTEnergyConfig, TINY | STATISTICS | small | fields)
            return ADAPTForEnergy(ADAPTEnergyConfig(**fields)).eval()

    return make


@pytest.fixture
def structures() -> list[Atoms]:
    """Three rattled periodic structures of 7, 8 and 16 atoms: a vacancy, one with carbon, and a larger cell."""
    cell = bulk("Si", cubic=True)
    vacancy, carbon, double = cell.copy()[1:], cell.copy(), cell.repeat((2, 1, 1))
    carbon.symbols[0] = "C"
    for seed, atoms in enumerate((vacancy, carbon, double)):
        atoms.rattle(0.1, seed=seed)
    return [vacancy, carbon, double]


@pytest.fixture(scope="session")
def springs(tmp_path_factory) -> str:
    """Rattled silicon of 7 to 16 atoms, on springs to its lattice sites."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(20):
        perfect = bulk("Si", cubic=True).repeat((1 + index % 2, 1, 1))[index % 3 :]
        atoms = perfect.copy()
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
        displacements = atoms.positions - perfect.positions
        rows.append(
            structure_row(
                atoms,
                -5.0 * displacements,
                energy=-5.0 * len(atoms) + 2.5 * float((displacements**2).sum()),
                defect_sites=[perfect.positions[0]],
                config_type="even" if index % 2 else "odd",
                trajectory=f"t{index}",
            )
        )
    folder = tmp_path_factory.mktemp("data") / "springs"
    write_dataset({"train": rows[:16], "validation": rows[16:]}, folder)
    return str(folder)


@pytest.fixture(scope="session")
def forks(tmp_path_factory) -> Iterator[Runner]:
    """
    Starts processes that have the packages loaded from the beginning: importing them takes seconds, and torch computes
    no gradients in a fork of a process that has computed some, as this one may have.
    """
    runner = Runner(tmp_path_factory.mktemp("forks"), os.environ)
    yield runner
    runner.close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub of one's own, over HTTP; what talks to it runs in a process with the environment `hub.env(folder)`."""
    with running_hub() as hub:
        yield hub


@pytest.fixture
def recipe(tmp_path):
    """Function from fields to the path of a recipe of a tiny run, for `springs`."""

    def write(**fields) -> str:
        tiny = {
            "model": "fourier-small",
            "embedding_sizes": [16],
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "num_train_epochs": 4,
            "per_device_train_batch_size": 4,
            "learning_rate": 3e-3,
            "eval_strategy": "epoch",
            "save_strategy": "no",
            "logging_steps": 1,
            "seed": 1,
        }
        if fields.get("model") == "published-energy":  # which has no encoder
            tiny = {name: value for name, value in tiny.items() if name not in TINY}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny | fields))
        return str(tmp_path / "recipe.yaml")

    return write
