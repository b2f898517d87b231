"""Models and data sets from the Hub, over HTTP: by strangers, by our commands, from the cache, and when it fails."""

import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import STATISTICS, TINY, readable
from hub_clients import STRANGER, Client, run_stranger
from hub_server import running_hub
from safetensors.torch import load_file, save_file
from transformers import pipeline

from modeling_adapt import ADAPTConfig, ADAPTEnergyConfig, ADAPTFeatureExtractor, ADAPTForEnergy, ADAPTForForces
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.loading import load_model

pytestmark = pytest.mark.slow  # every stranger is a process of its own, which imports for seconds

PUSH = """
import sys
from pathlib import Path
from huggingface_hub import HfApi

api, folder = HfApi(), Path(sys.argv[1])
for name in ("org/x", "org/private"):
    api.create_repo(name, private=name == "org/private")
    api.upload_folder(repo_id=name, folder_path=folder / "first")
    api.create_tag(name, tag="v1")
    api.upload_folder(repo_id=name, folder_path=folder / "second")
api.create_repo("org/springs", repo_type="dataset")
api.upload_folder(repo_id="org/springs", folder_path=sys.argv[2], repo_type="dataset")
"""

# What somebody can do who has installed transformers and knows the name of the repository.
USE = (
    STRANGER
    + """
name, inputs, outputs, online = sys.argv[1:]
structure = {key: tensor.numpy() for key, tensor in load_file(inputs).items()}
results = {}
for key, where in {
    "forces": {}, "forces at v1": {"revision": "v1"}, "energy": {"subfolder": "energy"}
}.items():
    model, extract = automatic(name, **where)
    results[key] = model(**extract(structure))[0].detach()
for key, revision in (("pipeline", None), ("pipeline at v1", "v1")):
    forces = pipeline(model=name, revision=revision, trust_remote_code=True, device="cpu")(structure)["forces"]
    results[key] = torch.tensor(forces)
if online == "0":
    sys.exit(save_file(results, outputs))
options = {"trust_remote_code": True, "subfolder": "energy"}
try:
    AutoModel.from_pretrained("org/private", **options)
    raise SystemExit("private is private")
except OSError as error:
    assert "If this is a private repository" in str(error), error
private = AutoModel.from_pretrained("org/private", token="hf_reader", **options)
results["private energy"] = private.eval()(**extract(structure))[0].detach()
save_file(results, outputs)
"""
)

AS_USER = """
import os
os.environ["HF_TOKEN"] = {token!r}
try:
    {load}
finally:
    os.environ["HF_TOKEN"] = "hf_writer"
"""
READ = "from modeling_adapt.data.load.reading import read_split\nread_split('org/springs', 'train')"
WEIGHTS = """
import hashlib
from huggingface_hub import hf_hub_download
from modeling_adapt.loading import load_model
load_model("org/x")
result = hashlib.sha256(open(hf_hub_download("org/x", "model.safetensors"), "rb").read()).hexdigest()
"""
LOAD = "from modeling_adapt.loading import load_model\nload_model({arguments})"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What is pushed: forces with an energy in its subfolder; the second commit has other forces."""
    root = tmp_path_factory.mktemp("models")
    small = {"max_atoms": 24, "energy_hidden_sizes": (32, 32, 8), "energy_mean": -90.0, "energy_std": 5.0}
    for seed, name in enumerate(("first", "second")):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = ADAPTConfig(**(TINY | STATISTICS), architecture="pairwise", num_vector_channels=8)
            forces = ADAPTForForces(config).eval()
            torch.manual_seed(7)
            energy = ADAPTForEnergy(ADAPTEnergyConfig(**readable(ADAPTEnergyConfig, STATISTICS | small))).eval()
        pipe = pipeline(
            "atom-forces", model=forces, feature_extractor=ADAPTFeatureExtractor.for_model(forces.config), device="cpu"
        )
        pipe.save_pretrained(root / name)
        energy.save_pretrained(root / name / "energy")
        ADAPTFeatureExtractor(canonical_order=True).save_pretrained(root / name / "energy")
    return root


@pytest.fixture(scope="module")
def shared_hub(folders, springs):
    """One Hub with all that is loaded here; faults are planned by the tests, and forgotten after each."""
    with running_hub() as hub:
        environment = hub.env(folders / "hf")
        command = [sys.executable, "-c", PUSH, str(folders), springs]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        yield hub


@pytest.fixture(autouse=True)
def no_faults(shared_hub, client):  # the client loads while strangers are at work
    shared_hub.reset()
    yield
    shared_hub.reset()


@pytest.fixture(scope="module")
def client(shared_hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("client")
    client = Client(shared_hub.env(folder / "hf"), folder / "elsewhere")
    yield client
    client.close()


@pytest.fixture
def fresh(client):
    """The client with nothing in its cache."""
    shutil.rmtree(client.home / "hub", ignore_errors=True)
    return client


@pytest.fixture
def atoms(structures):
    return structures[1]


def _expected(folder, atoms, subfolder=""):
    model, extract = load_model(folder, subfolder=subfolder)
    with torch.no_grad():
        return model(**extract(atoms))[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The cache of a stranger."""
    return tmp_path_factory.mktemp("stranger")


class TestStrangers:
    @pytest.mark.parametrize("online", [True, False])  # in this order: the second has the cache of the first
    def test_get_identical_outputs(self, shared_hub, folders, home, atoms, tmp_path, online):
        tensors = {"atomic_numbers": atoms.numbers, "positions": atoms.positions, "cell": atoms.cell.array}
        tensors["pbc"] = atoms.pbc
        save_file({name: torch.tensor(array) for name, array in tensors.items()}, tmp_path / "inputs")
        environment = shared_hub.env(home / "hf", token=None, HF_HUB_OFFLINE=str(int(not online)))
        run_stranger(USE, environment, "org/x", tmp_path / "inputs", tmp_path / "outputs", str(int(online)))
        results = load_file(tmp_path / "outputs")
        first, second = (_expected(folders / name, atoms) for name in ("first", "second"))
        assert not torch.equal(first, second)
        assert torch.equal(results["forces"], second)
        assert torch.equal(results["forces at v1"], first)
        assert torch.equal(results["energy"], _expected(folders / "second", atoms, "energy"))
        assert torch.equal(results["pipeline"], second[0].double())
        assert torch.equal(results["pipeline at v1"], first[0].double())
        assert bool(shared_hub.requests) == online
        if online:
            assert torch.equal(results["private energy"], results["energy"])


FORCES = """
import ase.io
from modeling_adapt.simulation.calculator import ADAPTCalculator
atoms = ase.io.read({path!r})
atoms.calc = ADAPTCalculator.from_pretrained({arguments})
result = [atoms.get_forces().tolist()]
if "energy" in atoms.calc.implemented_properties:
    result.append(atoms.get_potential_energy())
"""


class TestOurs:
    @pytest.fixture
    def file(self, atoms, tmp_path):
        atoms.write(tmp_path / "atoms.traj")
        return tmp_path / "atoms.traj"

    def test_classes_need_no_remote_code(self, client, folders, atoms, file):
        code = """
import ase.io
from transformers import AutoModel
from modeling_adapt import ADAPTFeatureExtractor, ADAPTForForces
inputs = ADAPTFeatureExtractor.from_pretrained("org/x")(ase.io.read({path!r}))
models = [one.from_pretrained("org/x", revision="v1").eval() for one in (ADAPTForForces, AutoModel)]
result = [type(model).__module__ for model in models] + [models[0](**inputs).forces.tolist()]
"""
        *modules, forces = client.run(code.format(path=str(file)))
        assert modules == ["modeling_adapt.modeling_adapt"] * 2
        assert torch.equal(torch.tensor(forces), _expected(folders / "first", atoms))

    @pytest.mark.parametrize(("revision", "folder"), [(None, "second"), ("v1", "first"), ("commit", "first")])
    def test_calculator(self, shared_hub, client, folders, atoms, file, revision, folder):
        if revision == "commit":
            revision = shared_hub.repository("org/x").tags["v1"]
        arguments = f"'org/x', energy_model='org/x', energy_subfolder='energy', revision={revision!r}"
        forces, energy = client.run(FORCES.format(path=str(file), arguments=arguments))
        expected = _expected(folders / folder, atoms)[0].double().numpy()
        np.testing.assert_array_equal(np.array(forces), expected)
        assert energy == _expected(folders / folder, atoms, "energy").item()

    def test_all_files_are_of_one_commit_although_main_moves(self, shared_hub, fresh):
        fresh.run(LOAD.format(arguments="'org/x'"))
        asked = {path.split("/resolve/")[1].split("/")[0] for _, path in shared_hub.requests}
        assert asked == {"main", shared_hub.repository("org/x").branches["main"]}
        assert shared_hub.requests[2:] and not any("/main/" in path for _, path in shared_hub.requests[2:])
        shared_hub.requests.clear()
        fresh.run(LOAD.format(arguments="'org/x'"))
        assert shared_hub.requests == [("HEAD", "/org/x/resolve/main/config.json")]  # the rest is in the cache

    def test_pushed_by_push_to_hub(self, client, shared_hub, folders):
        code = f"""
import torch
from modeling_adapt import ADAPTForForces
from modeling_adapt.loading import load_model
model = ADAPTForForces.from_pretrained({str(folders / "first")!r})
model.push_to_hub("org/pushed", private=True)
again, extractor = load_model("org/pushed")  # without a feature extractor, which is then the plain one
assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters()))
result = extractor.canonical_order
"""
        assert client.run(code) is False
        assert shared_hub.repository("org/pushed").private

    def test_relax(self, client, file, tmp_path):
        command = "import relax\nresult = relax.main({arguments!r})"
        arguments = [str(file), "--model", "org/x", "--revision", "v1", "--energy-model", "org/x"]
        arguments += ["--energy-subfolder", "energy", "--steps", "2", "--output", str(tmp_path / "relaxed")]
        assert client.run(command.format(arguments=arguments)) in (0, 1)
        assert json.loads((tmp_path / "relaxed" / "relax.json").read_text())["revision"] == "v1"
        assert (tmp_path / "relaxed" / "atoms.relaxed.extxyz").is_file()
        arguments[arguments.index("v1")] = "main"
        assert "another command (revision v1, not main)" in client.refused(command.format(arguments=arguments))

    def test_evaluate(self, client, tmp_path):
        arguments = ["org/x", "org/springs", "--split", "validation", "--subfolder", "energy", "--revision", "v1"]
        arguments += ["--output", str(tmp_path / "metrics")]
        assert client.run(f"import evaluate\nresult = evaluate.main({arguments!r})") == 0
        metrics = json.loads((tmp_path / "metrics" / "metrics.json").read_text())
        assert (metrics["subfolder"], metrics["revision"]) == ("energy", "v1")
        assert "energy_mae_mev_per_atom" in metrics


class TestDatasets:
    def test_plain_and_streamed(self, client, springs):
        code = """
from datasets import load_dataset
from modeling_adapt.data.load.reading import read_split
plain = [read_split(name, "train") for name in ("org/springs", "hf://datasets/org/springs")]
streamed = load_dataset("org/springs", split="train", streaming=True)
result = [rows["positions"][:] for rows in plain] + [[row["positions"] for row in streamed]]
"""
        expected = read_split(springs, "train")["positions"][:]
        assert client.run(code) == [expected] * 3

    def test_a_local_folder_goes_before_an_id(self, client, shared_hub, springs):
        code = """
import shutil
from pathlib import Path
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.errors import InputError
shutil.copytree({springs!r}, "org/springs")
shutil.rmtree("org/springs/figures", ignore_errors=True)
next(Path("org/springs").rglob("validation*.parquet")).unlink()
Path("org/springs/README.md").unlink(missing_ok=True)
result = []
try:
    result.append(len(read_split("org/springs", "train")))
    for name in ("org/springs", "org/none"):
        try:
            read_split(name, "validation")
        except InputError as error:
            result.append(str(error))
finally:
    shutil.rmtree("org")
"""
        count, *refusals = client.run(code.format(springs=springs))
        assert count == 16 and not shared_hub.requests
        assert "org/springs has no split 'validation'" in refusals[0] and "org/none: no such folder" in refusals[1]

    def test_training(self, client, recipe, tmp_path):
        path = recipe(max_steps=2, eval_strategy="no")
        arguments = [path, "--dataset", "hf://datasets/org/springs", "--output_dir", str(tmp_path / "run")]
        client.run(f"import train\ntrain.main({arguments!r})")
        assert (tmp_path / "run" / "model.safetensors").is_file()

    @pytest.mark.parametrize("name", ["org/none", "hf://datasets/org/none"])
    def test_refused(self, client, name):
        text = client.refused(
            f"from modeling_adapt.data.load.reading import read_split\nread_split({name!r}, 'train')"
        )
        assert "there is no dataset org/none on the Hub that you may read" in text


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("'org/none'", "there is no model org/none on the Hub that you may read"),
            ("'org/x', revision='v9'", "org/x has no revision v9; it has main, v1"),
            ("'org/x', subfolder='nothing'", "the repository has no nothing/config.json"),
            ("'org/x', head=modeling_adapt.ADAPTForEnergy", "holds ADAPTForForces, but ADAPTForEnergy is needed"),
            ("'.', revision='v1'", "is no checkpoint"),
        ],
    )
    def test_what_is_not_there(self, client, arguments, message):
        assert message in client.refused("import modeling_adapt\n" + LOAD.format(arguments=arguments))

    def test_a_folder_has_no_revision(self, client, folders):
        path = str(folders / "first")
        assert "which has no revision v1" in client.refused(LOAD.format(arguments=f"{path!r}, revision='v1'"))
        code = "from modeling_adapt.simulation.calculator import ADAPTCalculator\nADAPTCalculator.from_pretrained"
        assert "which has no revision v1" in client.refused(f"{code}({path!r}, revision='v1')")
        client.run(f"{code}('org/x', {path!r}, energy_subfolder='energy', revision='v1')")

    @pytest.mark.parametrize(
        ("token", "message"),
        [
            ("hf_reader", None),
            ("", "there is no model org/private on the Hub that you may read.*'hf auth login' or set HF_TOKEN"),
            ("hf_stranger", "there is no model org/private on the Hub that you may read"),
            ("hf_wrong", "the Hub refuses your token for org/private"),
        ],
    )
    def test_private(self, fresh, token, message):
        load = AS_USER.format(token=token, load=LOAD.format(arguments="'org/private'").replace("\n", "; "))
        if message is None:
            fresh.run(load)
        else:
            assert re.search(message, text := fresh.refused(load)), text


BUSY = {"status": 429, "headers": {"Retry-After": "7"}}


class TestFaults:
    """Each is followed by a load that goes well: what a failure leaves in the cache does no harm."""

    @pytest.mark.parametrize(
        ("method", "part", "how"),
        [
            ("HEAD", "/resolve/", {"status": 500, "times": 2}),
            ("HEAD", "/resolve/", BUSY),
            ("GET", "/resolve/", BUSY),
            ("GET", "model.safetensors", {"cut": 3000}),
        ],
    )
    def test_that_pass(self, shared_hub, fresh, method, part, how):
        fault = shared_hub.fail(method, part, **how)
        fresh.run(LOAD.format(arguments="'org/x'"))
        assert fault.times == 0

    @pytest.mark.parametrize(
        ("method", "part", "how", "message"),
        [
            ("GET", "config.json", {"status": 500}, "the Hub answers for org/x with error 500"),
            ("GET", "model.safetensors", {"status": 502}, "the Hub answers for org/x with error 502"),
            ("HEAD", "/resolve/", {"status": 503}, "the Hub answers for org/x with error 503"),
            ("GET", "model.safetensors", BUSY, "too many requests: run the same again in 7 s"),
            ("GET", "model.safetensors", {"cut": 3000}, "org/x cannot be fetched from http.*run the same again"),
            ("GET", "/org/x/resolve", {"cut": 10}, "org/x cannot be fetched from http.*run the same again"),
            ("HEAD", "/org/x/resolve", {"cut": 0}, "org/x cannot be fetched from http.*run the same again"),
            (
                "HEAD",
                "/resolve/",
                {"status": 403, "message": "Forbidden"},
                "your token does not allow this with org/x",
            ),
        ],
    )
    def test_that_stay(self, shared_hub, fresh, method, part, how, message):
        shared_hub.fail(method, part, **how | {"times": None})
        assert re.search(message, text := fresh.refused(LOAD.format(arguments="'org/x'"))), text
        shared_hub.reset()
        fresh.run(LOAD.format(arguments="'org/x'"))

    def test_cut_anywhere(self, shared_hub, fresh, folders):
        """At a random byte of a random file, once or every time: the weights as they were sent, or one line."""
        dice, outcomes = random.Random(0), Counter()
        sizes = {name: (folders / "second" / name).stat().st_size for name in ("config.json", "model.safetensors")}
        sent = hashlib.sha256((folders / "second" / "model.safetensors").read_bytes()).hexdigest()
        for _ in range(20):
            shutil.rmtree(fresh.home / "hub", ignore_errors=True)
            name = dice.choice(sorted(sizes))
            shared_hub.fail("GET", name, cut=dice.randrange(sizes[name]), times=dice.choice([1, None]))
            error = fresh.ask(WEIGHTS)["error"]
            assert error is None or error[0] == "InputError" and "\n" not in error[1], error
            outcomes["read" if error is None else "refused"] += 1
            shared_hub.reset()
            assert fresh.run(WEIGHTS) == sent  # with what the cut left in the cache
        print(f"downloads cut: {outcomes['refused']} refused, {outcomes['read']} read at the second try, of 20")

    def test_of_a_data_set(self, shared_hub, client):
        shutil.rmtree(client.home / "hub", ignore_errors=True)
        shutil.rmtree(client.home / "datasets", ignore_errors=True)
        shared_hub.fail("GET", ".parquet", status=500, times=None)
        assert "the Hub answers for org/springs with error 500" in client.refused(READ)
        shared_hub.reset()
        client.run(READ)

    def test_full_disk(self, fresh):
        cache = fresh.home / "hub"
        cache.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=28k", "tmpfs", str(cache)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no small file system can be mounted here")
        try:
            assert "no space is left for org/x in" in fresh.refused(LOAD.format(arguments="'org/x'"))
            subprocess.run(["mount", "-o", "remount,size=10m", str(cache)], check=True)
            fresh.run(LOAD.format(arguments="'org/x'"))  # with what the failure left in the cache
        finally:
            subprocess.run(["umount", str(cache)], check=True)


@pytest.fixture(scope="module")
def cached(shared_hub, tmp_path_factory):
    """A cache in which `org/x` is, and nothing else."""
    home = tmp_path_factory.mktemp("cached")
    code = "from huggingface_hub import snapshot_download\nsnapshot_download('org/x')"
    subprocess.run([sys.executable, "-c", code], env=shared_hub.env(home), check=True, capture_output=True)
    return home


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"HF_HUB_OFFLINE": "1"},
            "{} is not, or not whole, in the cache .*HF_HUB_OFFLINE is set: run once without",
            marks=pytest.mark.slow,  # as long as the other; strangers are offline above
        ),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "{} cannot be fetched from http://127.0.0.1:9 .*check the network"),
    ],
    ids=["offline", "connection refused"],
)
def test_without_the_hub_the_cache_is_enough(shared_hub, cached, tmp_path, changes, message):
    client = Client(shared_hub.env(cached) | changes, tmp_path)
    try:
        for where in ("'org/x'", "'org/x', subfolder='energy'"):
            client.run(LOAD.format(arguments=where))
        unknown = {"'org/private'": "org/private", "'org/x', revision='v1'": "org/x( at revision v1)?"}
        for where, name in unknown.items():
            assert re.search(message.format(name), text := client.refused(LOAD.format(arguments=where))), text
        text = client.refused(READ)
        assert re.search(message.format("org/springs"), text), text
    finally:
        client.close()
