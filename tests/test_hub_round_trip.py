"""The whole way of a model: trained, evaluated and published by the commands, and used by a stranger over HTTP."""

import json
import subprocess
import sys

import pytest
import torch
from hub_clients import ROOT, STRANGER, run_stranger
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from modeling_adapt.data.build.dataset_card import write_card
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.loading import load_model

pytestmark = pytest.mark.slow  # two trainings, an evaluation, and processes that import for seconds

# Has nothing but the name of the repository.
ROUND_TRIP = (
    STRANGER
    + """
import json
from datasets import load_dataset
from huggingface_hub import hf_hub_download

name, first, inputs, outputs, streams = sys.argv[1:]
structure = {key: tensor.numpy() for key, tensor in load_file(inputs).items()}
results = {}
for key, where in {"forces": {}, "pinned": {"revision": first}, "energy": {"subfolder": "energy"}}.items():
    model, extract = automatic(name, **where)
    results[key] = model(**extract(structure))[0].detach()
for key, task in {"pipeline": {}, "named pipeline": {"task": "atom-forces"}}.items():
    pipe = pipeline(**task, model=name, revision=first, trust_remote_code=True, device="cpu")
    results[key] = torch.tensor(pipe(structure)["forces"])
with open(hf_hub_download(name, "example.json", revision=first)) as file:
    example = json.load(file)
results["of the example"] = torch.tensor(pipe(example)["forces"]) - torch.tensor(example["forces"]).double()
rows = load_dataset(f"{name}-data", split="train")
results["energies"] = torch.tensor(rows["energy"][:], dtype=torch.float64)
if streams == "1":
    rows = load_dataset(f"{name}-data", split="train", streaming=True)
    results["streamed"] = torch.tensor([row["energy"] for row in rows], dtype=torch.float64)
save_file(results, outputs)
"""
)


@pytest.fixture
def command(tmp_path, hub):
    """Function that runs one of our commands as a user does, somewhere else; the Hub is that of the test."""
    environment = hub.env(tmp_path / "hf") | {"OMP_NUM_THREADS": "1"}

    def command(*words) -> str:
        script, *arguments = map(str, words)
        line = [sys.executable, str(ROOT / script), *arguments]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return command


def test_trained_published_and_used_by_a_stranger(hub, command, recipe, springs, structures, tmp_path):
    data = tmp_path / "springs"
    # Its test split is another one than the trainings look at.
    rows = {split: list(read_split(springs, split)) for split in ("train", "validation")}
    write_dataset(rows | {"test": rows["validation"]}, data)
    write_card(data, {"command": f"{tmp_path}/make.py"})
    small = {"model": "pairwise-small", "hidden_size": 16, "num_vector_channels": 8, "max_steps": 3}
    train = ("train.py", recipe(**small), "--dataset", data, "--output_dir")
    command(*train, tmp_path / "forces")
    pooled = recipe(**small | {"model": "pairwise-energy"})
    command("train.py", pooled, "--dataset", data, "--output_dir", tmp_path / "energy")
    command("evaluate.py", tmp_path / "forces", data, "--output", tmp_path / "results")
    publish = ("hub_upload.py", tmp_path / "forces", "org/adapt-si", "--energy", tmp_path / "energy")
    publish += ("--dataset", data, "--private", "--evaluation", tmp_path / "results", "--license", "mit")
    assert command(*publish, "--tag", "v1").count("in one commit") == 2
    first = hub.repository("org/adapt-si").branches["main"]

    # The card has the numbers of the evaluation, and names the data set.
    card = ModelCard(hub.repository("org/adapt-si").files["README.md"].decode(), ignore_metadata_errors=False)
    metrics = json.loads((tmp_path / "results" / "metrics.json").read_text())
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert values["Force MAE (meV/Å)"] == metrics["force_mae_mev_per_ang"]
    assert card.data.datasets == ["org/adapt-si-data"] and str(tmp_path) not in str(card)

    # Main moves on to weights that were trained longer; who pinned the first commit does not see it.
    command("train.py", recipe(**small | {"max_steps": 6}), "--dataset", data, "--output_dir", tmp_path / "later")
    publish = [tmp_path / "later" if word == tmp_path / "forces" else word for word in publish][:-2]
    assert "sent" in command(*publish) and hub.repository("org/adapt-si").branches["main"] != first

    atoms = structures[0]  # of silicon alone, as the data
    tensors = {"atomic_numbers": atoms.numbers, "positions": atoms.positions, "cell": atoms.cell.array}
    tensors["pbc"] = atoms.pbc
    save_file({name: torch.tensor(array) for name, array in tensors.items()}, tmp_path / "inputs")
    expected = {name: answer(tmp_path / name, atoms) for name in ("forces", "later", "energy")}
    assert not torch.equal(expected["forces"], expected["later"])
    energies = torch.tensor(read_split(data, "train")["energy"][:], dtype=torch.float64)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for offline in ("0", "1"):  # the second time with what the first one left in the cache
        token = hub.reader_token if offline == "0" else None
        environment = hub.env(tmp_path / "stranger", token=token, HF_HUB_OFFLINE=offline)
        hub.reset()
        inputs, outputs = tmp_path / "inputs", tmp_path / f"outputs{offline}"
        streams = "1" if offline == "0" else "0"
        run_stranger(ROUND_TRIP, environment, "org/adapt-si", first, inputs, outputs, streams, cwd=elsewhere)
        found = load_file(outputs)
        assert bool(hub.requests) == (offline == "0")
        assert torch.equal(found["forces"], expected["later"]) and torch.equal(found["pinned"], expected["forces"])
        assert torch.equal(found["energy"], expected["energy"])
        for name in ("pipeline", "named pipeline"):
            assert torch.equal(found[name], expected["forces"][0].double())
        assert found["of the example"].abs().max() < 1e-6
        for name in {"energies", "streamed"} & found.keys():
            assert torch.equal(found[name], energies)
    assert "streamed" in load_file(tmp_path / "outputs0")


def answer(folder, atoms) -> torch.Tensor:
    model, extract = load_model(folder)
    with torch.no_grad():
        return model(**extract(atoms))[0]
