"""Pinned revisions of models and data sets, by everything that loads them; main moves on after the pin."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from ase.build import bulk
from conftest import STATISTICS, TINY, readable
from hub_clients import Client
from hub_server import running_hub
from transformers import pipeline

from modeling_adapt import ADAPTConfig, ADAPTEnergyConfig, ADAPTFeatureExtractor, ADAPTForEnergy, ADAPTForForces
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.reading import pinned_revision, read_split
from modeling_adapt.data.structures import structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.loading import load_model
from modeling_adapt.simulation.calculator import ADAPTCalculator

PUSH = """
import sys
from huggingface_hub import HfApi
api, folder = HfApi(), sys.argv[1]
for name, kind in (("org/forces", "model"), ("org/energy", "model"), ("org/data", "dataset")):
    api.create_repo(name, repo_type=kind)
    for version in ("first", "second"):
        path = f"{folder}/{name.split('/')[1]}-{version}"
        api.upload_folder(repo_id=name, folder_path=path, repo_type=kind, delete_patterns="*")
        if version == "first":
            api.create_tag(name, tag="e1" if name == "org/energy" else "v1", repo_type=kind)
"""


def _atoms(seed=0):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What is pushed, one after the other: forces, energies and data sets of 4 and of 5 structures."""
    root = tmp_path_factory.mktemp("pushed")
    small = {"max_atoms": 24, "energy_hidden_sizes": (8,), "energy_mean": -90.0, "energy_std": 5.0}
    for seed, version in enumerate(("first", "second")):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            forces = ADAPTForForces(ADAPTConfig(**(TINY | STATISTICS), architecture="pairwise", num_vector_channels=8))
            energy = ADAPTForEnergy(ADAPTEnergyConfig(**readable(ADAPTEnergyConfig, STATISTICS | small)))
        pipe = pipeline("atom-forces", model=forces.eval(), feature_extractor=ADAPTFeatureExtractor(), device="cpu")
        pipe.save_pretrained(root / f"forces-{version}")
        energy.save_pretrained(root / f"energy-{version}")
        ADAPTFeatureExtractor(canonical_order=True).save_pretrained(root / f"energy-{version}")
        rows = [structure_row(_atoms(k), np.zeros((8, 3)) + k, energy=-40.0 - k) for k in range(4 + seed)]
        write_dataset({"train": rows, "validation": rows[:2]}, root / f"data-{version}")
    return root


@pytest.fixture(scope="module")
def served(folders):
    with running_hub() as hub:
        run = subprocess.run(
            [sys.executable, "-c", PUSH, str(folders)],
            env=hub.env(folders / "hf"),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        yield hub


@pytest.fixture(scope="module")
def client(served, tmp_path_factory):
    folder = tmp_path_factory.mktemp("client")
    client = Client(served.env(folder / "hf"), folder)
    yield client
    client.close()


@pytest.fixture(scope="module")
def expected(folders):
    """Forces and energies of one structure by version."""
    found = {}
    for version in ("first", "second"):
        calculator = ADAPTCalculator.from_pretrained(folders / f"forces-{version}", folders / f"energy-{version}")
        calculator.calculate(_atoms(), ["forces", "energy"])
        found[version] = (calculator.results["forces"], calculator.results["energy"])
    assert not np.array_equal(found["first"][0], found["second"][0]) and found["first"][1] != found["second"][1]
    return found


@pytest.fixture
def file(tmp_path):
    _atoms().write(tmp_path / "atoms.traj")
    return str(tmp_path / "atoms.traj")


CALCULATOR = """
import ase.io
from modeling_adapt.simulation.calculator import ADAPTCalculator
atoms = ase.io.read({file!r})
atoms.calc = ADAPTCalculator.from_pretrained("org/forces", "org/energy", {pins})
result = [atoms.get_forces().tolist(), atoms.get_potential_energy()]
"""
SIZE = (
    "from modeling_adapt.data.load.reading import read_split\nresult = len(read_split({dataset!r}, 'train', {pins}))"
)


@pytest.mark.parametrize(
    ("pins", "forces", "energy"),
    [
        ("", "second", "second"),
        ("revision='v1', energy_revision='e1'", "first", "first"),
        ("energy_revision='e1'", "second", "first"),
        ("revision='v1', energy_revision='main'", "first", "second"),
    ],
)
def test_calculator(client, expected, file, pins, forces, energy):
    found = client.run(CALCULATOR.format(file=file, pins=pins))
    np.testing.assert_array_equal(np.array(found[0]), expected[forces][0])
    assert found[1] == expected[energy][1]


def test_one_revision_is_of_all_repositories(client, file):
    text = client.refused(CALCULATOR.format(file=file, pins="revision='v1'"))
    assert "org/energy has no revision v1; it has main, e1" in text


def test_pipeline(client, expected, file):
    code = "from transformers import pipeline\n"
    code += "pipe = pipeline('atom-forces', model='org/forces', revision='v1')\n"
    code += f"result = pipe({file!r})['forces'].tolist()"
    np.testing.assert_allclose(np.array(client.run(code)), expected["first"][0], atol=1e-7)


def test_relax(client, expected, file, tmp_path):
    output = tmp_path / "relaxed"
    arguments = [file, "--model", "org/forces", "--revision", "v1", "--energy-model", "org/energy"]
    arguments += ["--energy-revision", "e1", "--steps", "0", "--output", str(output)]
    client.run(f"import relax\nrelax.main({arguments!r})")
    read = f"import ase.io\natoms = ase.io.read({str(output / 'atoms.relaxed.extxyz')!r})\n"
    forces, energy = client.run(read + "result = [atoms.get_forces().tolist(), atoms.get_potential_energy()]")
    np.testing.assert_allclose(np.array(forces), expected["first"][0], atol=1e-7)
    assert energy == pytest.approx(expected["first"][1])
    record = json.loads((output / "relax.json").read_text())
    assert (record["revision"], record["energy_revision"]) == ("v1", "e1")
    arguments[arguments.index("e1")] = "main"
    text = client.refused(f"import relax\nresult = relax.main({arguments!r})")
    assert "another command (energy_revision e1, not main)" in text


def _train(client, recipe, output, *arguments, **fields):
    path = recipe(max_steps=1, eval_strategy="no", force_loss="mse", **fields)
    arguments = [path, *arguments, "--output_dir", str(output)]
    client.run(f"import train\ntrain.main({arguments!r})")
    return yaml.safe_load((output / "recipe.yaml").read_text()), json.loads((output / "run.json").read_text())


def test_training(served, client, recipe, folders, tmp_path):
    """The recipe of the run names the commits: it is the same when it is run again, although main moves."""
    pins = ["--dataset", "org/data", "--dataset_revision", "v1", "--initial_revision", "v1"]
    initial = {"model": None, "initial_model": "org/forces", "learning_rate": 0.0}
    for field in ("embedding_sizes", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        initial[field] = list(TINY[field]) if field == "embedding_sizes" else TINY[field]
    kept, record = _train(client, recipe, tmp_path / "run", *pins, **initial)
    commits = [served.repository("org/forces").tags["v1"], served.repository("org/data", "dataset").tags["v1"]]
    assert [kept["initial_revision"], kept["dataset_revision"]] == commits
    assert [record["parts"][0][f"{name}_revision"] for name in ("initial", "dataset")] == commits
    assert record["parts"][0]["structures"] == {"train": 4, "validation": 2}
    trained, _ = load_model(tmp_path / "run")
    first, _ = load_model(folders / "forces-first")  # the rate is zero
    assert all(torch.equal(one, other) for one, other in zip(trained.parameters(), first.parameters(), strict=True))
    again = [str(tmp_path / "run" / "recipe.yaml"), "--output_dir", str(tmp_path / "again")]
    client.run(f"import train\ntrain.main({again!r})")
    repeated = json.loads((tmp_path / "again" / "run.json").read_text())["parts"][0]
    assert repeated["data"] == record["parts"][0]["data"] and repeated["initial_revision"] == commits[0]
    # A folder on the command line takes the place of the data set and of its pin.
    folder = [*again[:1], "--dataset", str(folders / "data-second"), "--output_dir", str(tmp_path / "local")]
    client.run(f"import train\ntrain.main({folder!r})")
    local = json.loads((tmp_path / "local" / "run.json").read_text())["parts"][0]
    assert local["dataset_revision"] is None and local["structures"]["train"] == 5


def test_a_run_without_pins_keeps_the_commits_too(served, client, recipe, tmp_path):
    kept, record = _train(client, recipe, tmp_path / "run", "--dataset", "org/data")
    assert kept["dataset_revision"] == served.repository("org/data", "dataset").branches["main"]
    assert kept["initial_revision"] is None and record["parts"][0]["structures"]["train"] == 5


class TestDatasets:
    @pytest.mark.parametrize("dataset", ["org/data", "hf://datasets/org/data"])
    @pytest.mark.parametrize(("pins", "size"), [("", 5), ("revision='v1'", 4), ("revision='main'", 5)])
    def test_read(self, client, dataset, pins, size):
        assert client.run(SIZE.format(dataset=dataset, pins=pins)) == size

    def test_by_commit(self, served, client):
        commit = served.repository("org/data", "dataset").tags["v1"]
        assert client.run(SIZE.format(dataset="org/data", pins=f"revision={commit!r}")) == 4
        code = (
            "from modeling_adapt.data.load.reading import pinned_revision\nresult = pinned_revision('org/data', 'v1')"
        )
        assert client.run(code) == commit

    def test_streamed(self, client):
        """As `datasets` itself does it; training reads the whole split."""
        code = """
from datasets import load_dataset
streams = [load_dataset("org/data", revision=one, streaming=True)["train"] for one in ("v1", None)]
result = [[len(row["positions"]) for row in rows] for rows in streams]
"""
        assert client.run(code) == [[8] * 4, [8] * 5]

    def test_offline_a_pin_is_one_still(self, served, client, tmp_path):
        """`load_dataset` would take what it loaded last."""
        for pins in ("revision='v1'", ""):
            client.run(SIZE.format(dataset="org/data", pins=pins))
        shutil.copytree(client.home, tmp_path / "hf", symlinks=True)
        offline = Client(served.env(tmp_path / "hf") | {"HF_HUB_OFFLINE": "1"}, tmp_path)
        try:
            for pins, size in (("revision='v1'", 4), ("", 5), ("revision='v1'", 4)):
                assert offline.run(SIZE.format(dataset="org/data", pins=pins)) == size
            text = offline.refused(SIZE.format(dataset="org/data", pins="revision='v2'"))
            assert "org/data at revision v2 is not, or not whole, in the cache" in text
        finally:
            offline.close()

    @pytest.mark.parametrize(
        ("dataset", "pins", "message"),
        [
            ("org/data", "revision='v9'", "org/data has no revision v9; it has main, v1"),
            ("hf://datasets/org/data@v1", "", "name the data set as org/data, and v1 as its revision"),
            ("org/none", "revision='v1'", "there is no dataset org/none on the Hub that you may read"),
            ("org/forces", "", "there is no dataset org/forces on the Hub that you may read"),
        ],
    )
    def test_refused(self, client, dataset, pins, message):
        assert message in client.refused(SIZE.format(dataset=dataset, pins=pins))


class TestFolders:
    """None of these goes to the Hub."""

    def test_one_that_looks_like_a_hub_id(self, folders, tmp_path, monkeypatch):
        shutil.copytree(folders / "data-first", tmp_path / "org" / "data")
        monkeypatch.chdir(tmp_path)
        assert len(read_split("org/data", "train")) == 4
        assert pinned_revision("org/data") is None
        with pytest.raises(InputError, match="org/data is a folder, which has no revision v1: leave that out"):
            read_split("org/data", "train", revision="v1")
        with pytest.raises(InputError, match="org/data is a folder, which has no revision v1"):
            pinned_revision("org/data", "v1")
        with pytest.raises(InputError, match="org/other: no such folder"):
            read_split("org/other", "train")

    def test_energy_revision_needs_an_energy_model_on_the_hub(self, folders):
        forces, energy = folders / "forces-first", folders / "energy-first"
        with pytest.raises(InputError, match="energy revision e1 is of an energy model, and none is named"):
            ADAPTCalculator.from_pretrained(forces, energy_revision="e1")
        with pytest.raises(InputError, match="energy-first is a folder, which has no revision e1"):
            ADAPTCalculator.from_pretrained(forces, energy, energy_revision="e1")
        with pytest.raises(InputError, match="forces-first is a folder, which has no revision v1"):
            ADAPTCalculator.from_pretrained(forces, "org/energy", revision="v1", energy_revision="e1")
