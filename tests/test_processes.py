"""Many processes learn what one process learns, and a launch that starts one only does not pass for many."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processes import launched
from safetensors.torch import load_file

from modeling_adapt.cli import train
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.errors import InputError
from modeling_adapt.training.arguments import describe_processes, warn_of_one_process

LAUNCH = ("-m", "accelerate.commands.launch", "--config_file", "configuration/accelerate/cpu.yaml")
STEPS = 20


def launch(*arguments: str, launcher: tuple[str, ...] = LAUNCH) -> subprocess.CompletedProcess[str]:
    """`train.py` in processes of their own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "train.py", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def ragged(springs, tmp_path_factory) -> str:
    """15 structures of 6 to 16 atoms: batches of eight, two and one are ragged, and none divides an epoch."""
    folder = tmp_path_factory.mktemp("ragged") / "data"
    splits = {"train": read_split(springs, "train").to_list()[:15]}
    write_dataset(splits | {"validation": read_split(springs, "validation").to_list()}, folder)
    return str(folder)


def losses(run: Path) -> torch.Tensor:
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return torch.tensor([entry["loss"] for entry in history if "loss" in entry], dtype=torch.float64)


def metrics(run: Path) -> dict[str, float]:
    """All but times, and but the loss, which transformers takes as a mean over batches, however large these are."""
    found = json.loads((run / "training_metrics.json").read_text())
    assert found["eval_num_structures"] == 4  # none was left out or counted twice
    return {name: value for name, value in found.items() if not re.search("second|runtime|eval_loss", name)}


def weights(run: Path) -> dict[str, torch.Tensor]:
    # The softmax cancels a bias of the keys; its gradient is rounding noise, which Adam blows up to full steps.
    return {n: w for n, w in load_file(run / "model.safetensors").items() if not n.endswith("k_proj.bias")}


@pytest.mark.parametrize(
    "model, fields",
    [
        ("fourier-small", {"force_loss": "weighted_mse"}),
        pytest.param("pairwise-small", {"num_vector_channels": 8}, marks=pytest.mark.slow),
        ("pairwise-energy", {"num_vector_channels": 8, "force_weight": 10.0}),
        pytest.param(
            "published-energy",
            {"max_atoms": 16, "energy_hidden_sizes": [32, 16], "energy_dropout_prob": 0.0},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_learn_what_one_learns(recipe, ragged, tmp_path, forks, model, fields):
    """The same 8 structures a step, divided among processes and accumulation: the same losses and weights."""
    fields |= {"model": model, "max_steps": STEPS, "eval_steps": STEPS, "train_sampling_strategy": "group_by_length"}
    fields |= {"eval_strategy": "steps", "per_device_eval_batch_size": 3}  # two processes evaluate four structures
    runs = {"one": (8, 1), "accumulated": (2, 4), "two": (4, 1), "two-accumulated": (1, 4)}
    for name, (size, accumulation) in runs.items():
        if model != "fourier-small" and name == "two-accumulated":
            continue  # ten seconds each; the mathematics is the same
        path = recipe(per_device_train_batch_size=size, gradient_accumulation_steps=accumulation, **fields)
        arguments = [path, "--dataset", ragged, "--output_dir", str(tmp_path / name)]
        if name.startswith("two"):
            run = launched(forks, "train", *arguments)
            assert run.status == 0, run.stderr[-2000:]
            assert f"2 processes on cpu; 8 structures a step ({size} x 2 processes x {accumulation}" in run.stdout
            record = json.loads((tmp_path / name / "run.json").read_text())["parts"]
            assert [part["processes"] for part in record] == [2]
        else:
            train.main(arguments)
        assert len(losses(tmp_path / name)) == STEPS
        assert metrics(tmp_path / name) == pytest.approx(metrics(tmp_path / "one"), rel=1e-3, abs=1e-6)
        torch.testing.assert_close(losses(tmp_path / name), losses(tmp_path / "one"), rtol=1e-6, atol=1e-6)
        for key, weight in weights(tmp_path / "one").items():
            torch.testing.assert_close(weights(tmp_path / name)[key], weight, rtol=0, atol=1e-5)


def test_two_processes_solve_the_same_last_layer(recipe, ragged, tmp_path, forks):
    """Each for itself, from the same weights; one of them tells, and what it tells is what all of them evaluate."""
    fields = {"model": "pairwise-energy", "num_vector_channels": 8, "force_weight": 10.0, "refit_read_out": True}
    path = recipe(max_steps=4, per_device_train_batch_size=2, **fields)
    run = launched(forks, "train", path, "--dataset", ragged, "--output_dir", str(tmp_path / "run"))
    assert run.status == 0, run.stderr[-2000:]
    (told,) = (line for line in run.stdout.splitlines() if line.startswith("last layer solved anew"))
    found = metrics(tmp_path / "run")
    assert f"-> {found['eval_energy_mae_mev_per_atom']:.2f} meV/atom" in told
    assert f"-> {found['eval_force_mae_mev_per_ang']:.1f} meV/Å" in told


def test_two_processes_resume(recipe, ragged, tmp_path, forks):
    """The run before the fault by the launcher itself."""
    path = recipe(save_strategy="steps", save_steps=3, max_steps=7, hidden_dropout_prob=0.1, ema_decay=0.9)
    arguments = [path, "--dataset", ragged, "--output_dir", str(tmp_path / "run")]
    assert launch(*arguments).returncode == 0
    whole = load_file(tmp_path / "run" / "model.safetensors")
    (tmp_path / "run" / "model.safetensors").unlink()
    for step in (6, 7):
        (tmp_path / "run" / f"checkpoint-{step}" / "rng_state_1.pth").unlink()
    resumed = launched(forks, "train", *arguments, "--resume_from_checkpoint", "true")
    assert resumed.status == 0, resumed.stderr[-2000:]
    assert resumed.stderr.count("is damaged: rng_state_1.pth is missing") == 2  # once for each, by one process
    again = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_two_processes_end_with_their_best_model(recipe, ragged, tmp_path, forks):
    """The last checkpoint is the best: a process that looks for it waits for the one that seals it."""
    best = {"load_best_model_at_end": True, "save_total_limit": 1, "ema_decay": 0.9}
    path = recipe(save_strategy="steps", save_steps=4, eval_strategy="steps", eval_steps=4, max_steps=4, **best)
    run = launched(forks, "train", path, "--dataset", ragged, "--output_dir", str(tmp_path / "run"))
    assert run.status == 0, run.stderr[-2000:]
    assert "best checkpoint cannot be used" not in run.stderr
    assert re.search(r"^weights of step 4 of 4, the best force_mae_mev_per_ang", run.stdout, re.MULTILINE)
    left, best_one = (load_file(tmp_path / "run" / n / "model.safetensors") for n in (".", "checkpoint-4"))
    assert all(torch.equal(left[name], weight) for name, weight in best_one.items())


@pytest.mark.slow
def test_a_launch_of_one_process_is_loud(recipe, springs, tmp_path):
    """`accelerate launch --cpu --num_processes 2` starts one process and succeeds."""
    arguments = [recipe(num_train_epochs=1), "--dataset", springs, "--output_dir", str(tmp_path / "run")]
    run = launch(*arguments, launcher=("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"))
    assert run.returncode == 0
    assert "accelerate launched ONE process" in run.stderr and "training in 1 process on cpu" in run.stdout


def test_one_process_of_a_launcher_is_said(monkeypatch, capsys):
    """What `accelerate launch` leaves in the environment; the test above asks it."""
    training = SimpleNamespace(world_size=1, device=torch.device("cpu"))
    warn_of_one_process(training)
    assert not capsys.readouterr().err
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    warn_of_one_process(training)
    assert "accelerate launched ONE process" in capsys.readouterr().err


def test_processes_that_would_train_alone_are_refused(monkeypatch):
    class Alone:
        world_size = 1

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes were launched, but each would train alone"):
        describe_processes(Alone())
