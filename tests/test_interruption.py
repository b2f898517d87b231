"""A run that is cut off goes on as if nothing had happened, from the newest checkpoint that is whole."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from modeling_adapt.data.reading import read_split
from modeling_adapt.data.writing import write_dataset
from modeling_adapt.errors import InputError
from modeling_adapt.training.checkpoints import SEAL, newest_checkpoint, read_seal, seal_checkpoint

# Everything whose state must survive: dropout, augmentation, the average, the schedule, the best so far.
DELICATE = {
    "max_steps": 12,
    "save_strategy": "steps",
    "save_steps": 3,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "hidden_dropout_prob": 0.1,
    "augmentation": ["translation"],
    "ema_decay": 0.9,
    "lr_scheduler_type": "cosine",
    "load_best_model_at_end": True,
}


@pytest.fixture
def run(recipe, springs, tmp_path):
    """Function from further arguments to the weights that the run ends with."""

    def train_it(*more: str, folder: str = "run", **fields) -> dict[str, torch.Tensor]:
        output = tmp_path / folder
        train.main([recipe(**(DELICATE | fields)), "--dataset", springs, "--output_dir", str(output), *more])
        return load_file(output / "model.safetensors")

    return train_it


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


class TestSeals:
    @pytest.fixture
    def checkpoint(self, tmp_path) -> Path:
        folder = tmp_path / "checkpoint-5"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        return folder

    def test_checkpoint_without_seal_is_incomplete(self, checkpoint):
        with pytest.raises(InputError, match="checkpoint-5 is incomplete: the run ended while it was written"):
            read_seal(checkpoint)

    def test_sealed_checkpoint_tells_its_run(self, checkpoint):
        seal_checkpoint(checkpoint, {"data": "abc"})
        assert read_seal(checkpoint) == {"data": "abc"}

    @pytest.mark.parametrize(
        "damage, message",
        [
            (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
            (lambda folder: (folder / "model.safetensors").write_bytes(b"weight"), "is not as it was written"),
            (lambda folder: (folder / SEAL).write_text('{"files": '), "its seal.json cannot be read"),
        ],
    )
    def test_damage_is_named(self, checkpoint, damage, message):
        seal_checkpoint(checkpoint, {})
        damage(checkpoint)
        with pytest.raises(InputError, match=message):
            read_seal(checkpoint)

    def test_newest_whole_one_is_found(self, checkpoint, tmp_path):
        seal_checkpoint(checkpoint, {})
        shutil.copytree(checkpoint, tmp_path / "checkpoint-10")
        (tmp_path / "checkpoint-10" / "model.safetensors").write_bytes(b"")
        (tmp_path / "checkpoint-15").mkdir()
        found, faults = newest_checkpoint(tmp_path)
        assert found == checkpoint
        assert ["checkpoint-15 is incomplete" in faults[0], "checkpoint-10 is damaged" in faults[1]] == [True, True]


def test_resume_goes_on_before_damaged_checkpoints(run, tmp_path, capsys):
    whole = run()
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == [
        *("checkpoint-12", "checkpoint-3", "checkpoint-6", "checkpoint-9")
    ]
    (tmp_path / "run" / "checkpoint-12" / SEAL).unlink()
    optimizer = tmp_path / "run" / "checkpoint-9" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-1])
    capsys.readouterr()
    assert equal(run("--resume_from_checkpoint", "true"), whole)
    said = capsys.readouterr().err
    assert "checkpoint-12 is incomplete" in said and "checkpoint-9 is damaged: optimizer.pt" in said
    parts = json.loads((tmp_path / "run" / "run.json").read_text())["parts"]
    assert [part["resumed_from"] for part in parts] == [None, "true"]


def test_run_that_was_moved_keeps_its_best_model(run, tmp_path):
    """After step 3 a rate that is too high takes the error up again."""
    fields = {"learning_rate": 0.1, "lr_scheduler_type": "constant", "ema_decay": None}
    whole = run(**fields)
    best = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["best_global_step"]
    assert best < 12
    (tmp_path / "run").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "checkpoint-12")
    assert equal(run("--resume_from_checkpoint", "true", folder="moved", **fields), whole)
    assert equal(load_file(tmp_path / "moved" / f"checkpoint-{best}" / "model.safetensors"), whole)


def test_old_checkpoints_are_rotated(run, tmp_path):
    run(save_total_limit=2, metric_for_best_model="force_mae_mev_per_ang")
    left = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
    assert len(left) == 2 and "checkpoint-12" in left


def test_early_stopping_counts_on_after_a_resume(run, tmp_path):
    """At a rate that is too high the error stays above its best, and a patience of two ends the run."""
    fields = {"learning_rate": 0.1, "lr_scheduler_type": "constant", "ema_decay": None, "early_stopping_patience": 2}
    fields |= {"max_steps": 60, "metric_for_best_model": "near_defect_mae_mev_per_ang"}

    def state() -> dict:
        return json.loads((tmp_path / "run" / "trainer_state.json").read_text())

    whole = run(**fields)
    stopped = state()["global_step"]
    assert stopped < 60 and state()["best_global_step"] == stopped - 6
    shutil.rmtree(tmp_path / "run" / f"checkpoint-{stopped}")
    assert equal(run("--resume_from_checkpoint", "true", **fields), whole)
    assert state()["global_step"] == stopped


def test_resume_without_checkpoint_starts_from_the_beginning(run, tmp_path, capsys):
    whole = run("--resume_from_checkpoint", "true")
    assert "no complete checkpoint" in capsys.readouterr().err
    for folder in (tmp_path / "run").glob("checkpoint-*"):
        shutil.rmtree(folder)
    assert equal(run("--resume_from_checkpoint", "true"), whole)


def test_resume_into_a_folder_that_is_no_run(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="exists and is not empty"):
        run("--resume_from_checkpoint", "true")


def test_resume_with_other_data_or_another_average(run, springs, recipe, tmp_path):
    run()
    fewer = {split: read_split(springs, split).to_list()[1:] for split in ("train", "validation")}
    write_dataset(fewer, tmp_path / "fewer")
    with pytest.raises(InputError, match="was trained on other structures"):
        run("--resume_from_checkpoint", "true", "--dataset", str(tmp_path / "fewer"))
    with pytest.raises(InputError, match="written with ema_decay: 0.9, this run has None"):
        run("--resume_from_checkpoint", "true", ema_decay=None)


@pytest.mark.slow
def test_twenty_kills(recipe, springs, tmp_path):
    """SIGKILL at a random moment, every third time while a checkpoint is written: the same weights each time."""
    seed = int(os.environ.get("KILL_SEED", time.time()))
    print(f"KILL_SEED={seed}")
    chance = random.Random(seed)
    fields = DELICATE | {"max_steps": 60, "save_steps": 2, "eval_steps": 4, "save_total_limit": 2}
    path = recipe(**(fields | {"load_best_model_at_end": False}))

    def start(folder: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "train.py", path, "--dataset", springs, "--output_dir", str(folder)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([*command, "--resume_from_checkpoint", "true"], env=environment, **quiet)

    began = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    whole, duration = load_file(tmp_path / "whole" / "model.safetensors"), time.monotonic() - began
    cut = 0
    for number in range(20):
        folder = tmp_path / f"killed-{number}"
        process = start(folder)
        if number % 3:
            time.sleep(chance.uniform(0.3, 1.0) * duration)
        else:
            name = f"checkpoint-{2 * chance.randrange(1, 29)}"
            while not (folder / name).exists() and process.poll() is None:
                time.sleep(0.0005)
            time.sleep(chance.uniform(0, 0.03))
            cut += not (folder / name / SEAL).exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert start(folder).wait() == 0
        assert equal(load_file(folder / "model.safetensors"), whole), f"kill {number}"
        shutil.rmtree(folder)
    assert cut, "no kill hit a checkpoint while it was written"
