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

from modeling_adapt.cli import train
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.errors import InputError
from modeling_adapt.training.checkpoints import SEAL, newest_checkpoint, read_seal, rotate, seal_checkpoint

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
    assert [part["resumed_from"] for part in parts] == [None, str(tmp_path / "run" / "checkpoint-6")]


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(run, recipe, springs, tmp_path, monkeypatch):
    """The largest file allowed is smaller than the state of the optimiser, which a full disk could cut off as well."""
    whole = run(folder="whole")
    size = (tmp_path / "whole" / "checkpoint-3" / "optimizer.pt").stat().st_size
    command = [recipe(**DELICATE), "--dataset", springs, "--output_dir", str(tmp_path / "run")]
    allowed = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size - 1}, {size - 1}))"
    script = f"{allowed}; import sys, train; sys.exit(train.run_command(lambda: train.main({command!r})))"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    errors = [line for line in finished.stderr.splitlines() if line.startswith(("error", "Traceback"))]
    assert finished.returncode == 2 and len(errors) == 1, finished.stderr[-2000:]
    assert "checkpoint-3 cannot be written" in errors[0] and "--resume_from_checkpoint true" in errors[0]
    assert not (tmp_path / "run" / "checkpoint-3").exists()
    assert equal(run("--resume_from_checkpoint", "true"), whole)


# The larger error counts as better, so the first of the checkpoints is the best.
FIRST_IS_BEST = {"metric_for_best_model": "force_mae_mev_per_ang", "greater_is_better": True}


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.partition("-")[2]) for path in folder.glob("checkpoint-*"))


def test_run_that_was_moved_keeps_its_best_model(run, tmp_path):
    whole = run(**FIRST_IS_BEST)
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["best_global_step"] == 3
    shutil.copytree(tmp_path / "run", tmp_path / "copied")  # the path that the state names still exists
    shutil.rmtree(tmp_path / "copied" / "checkpoint-12")
    assert equal(run("--resume_from_checkpoint", "true", folder="copied", **FIRST_IS_BEST), whole)
    assert equal(load_file(tmp_path / "copied" / "checkpoint-3" / "model.safetensors"), whole)


def test_best_checkpoint_that_is_damaged_is_not_used(run, tmp_path, capsys):
    run(**FIRST_IS_BEST)
    best = tmp_path / "run" / "checkpoint-3" / "model.safetensors"
    best.write_bytes(best.read_bytes()[:-1])
    last = run("--resume_from_checkpoint", "true", **FIRST_IS_BEST)
    assert "the best checkpoint cannot be used, the last model is kept" in capsys.readouterr().err
    assert equal(load_file(tmp_path / "run" / "checkpoint-12" / "model.safetensors"), last)


@pytest.mark.parametrize("limit, left", [(1, [3]), (2, [3, 12]), (3, [3, 9, 12])])
def test_old_checkpoints_are_rotated_but_not_the_best(run, tmp_path, limit, left):
    whole = run(save_total_limit=limit, **FIRST_IS_BEST)
    assert checkpoints(tmp_path / "run") == left  # with a limit of one, only the best is left of a run that ended
    assert equal(load_file(tmp_path / "run" / "checkpoint-3" / "model.safetensors"), whole)
    again = run("--resume_from_checkpoint", "true", save_total_limit=limit, **FIRST_IS_BEST)
    assert equal(again, whole) and checkpoints(tmp_path / "run") == left


def test_rotation_removes_what_is_not_sealed_and_what_comes_later(tmp_path):
    for step in (3, 6, 9, 12, 15):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "weights").write_bytes(b"")
        if step not in (6, 15):
            seal_checkpoint(tmp_path / f"checkpoint-{step}", {})
    rotate(tmp_path / "checkpoint-9", limit=1, best=None)
    assert checkpoints(tmp_path) == [9]


@pytest.mark.parametrize("steps", [7, 8])
def test_run_that_was_cut_off_after_its_last_step_trains_no_further(run, tmp_path, steps):
    """Seven steps end in the middle of an epoch of four."""
    whole = run(max_steps=steps)
    (tmp_path / "run" / "model.safetensors").unlink()
    assert equal(run("--resume_from_checkpoint", "true", max_steps=steps), whole)
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == steps


@pytest.mark.parametrize("lost", [0, 1])
def test_early_stopping_counts_on_after_a_resume(run, tmp_path, lost):
    """A patience of two ends the run at the third evaluation; cut off there, or before, it ends there too."""
    fields = FIRST_IS_BEST | {"max_steps": 60, "early_stopping_patience": 2}

    def state() -> dict:
        return json.loads((tmp_path / "run" / "trainer_state.json").read_text())

    whole = run(**fields)
    assert (state()["global_step"], state()["best_global_step"]) == (9, 3)
    for step in checkpoints(tmp_path / "run")[::-1][:lost]:
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step}")
    assert equal(run("--resume_from_checkpoint", "true", **fields), whole)
    assert state()["global_step"] == 9


def test_early_stopping_can_be_added_or_changed_when_resuming(run, tmp_path):
    run(max_steps=6, **FIRST_IS_BEST)
    run("--resume_from_checkpoint", "true", max_steps=60, early_stopping_patience=2, **FIRST_IS_BEST)
    stopped = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"]
    assert stopped == 12  # two evaluations after the resume
    run("--resume_from_checkpoint", "true", max_steps=60, early_stopping_patience=4, **FIRST_IS_BEST)
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == 18


def test_evaluations_that_are_not_repeated_change_nothing(run, tmp_path):
    """An evaluation after the checkpoint of the same step draws from no generator that training uses."""
    fields = {"eval_strategy": "epoch", "load_best_model_at_end": False, "save_steps": 4}
    whole = run(**fields)
    for step in (8, 12):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step}")
    assert equal(run("--resume_from_checkpoint", "true", **fields), whole)


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


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"ema_decay": None}, "has another ema_decay: 0.9 there and None here"),
        ({"per_device_train_batch_size": 2}, "another number of structures a step .*: 4 there and 2 here"),
        ({"hidden_size": 32}, "holds another model: hidden_size is 16 there and 32 here"),
    ],
)
def test_resume_of_another_run(run, fields, message):
    run()
    with pytest.raises(InputError, match=message):
        run("--resume_from_checkpoint", "true", **fields)


def test_resume_with_other_data(run, springs, tmp_path):
    run()
    for split in ("train", "validation"):
        rows = {name: read_split(springs, name).to_list() for name in ("train", "validation")}
        rows[split][0]["forces"][0][0] += 1.0
        write_dataset(rows, tmp_path / split)
        with pytest.raises(InputError, match="was trained on other structures"):
            run("--resume_from_checkpoint", "true", "--dataset", str(tmp_path / split))


def test_other_settings_are_said_and_accumulation_may_take_the_place_of_processes(run, capsys):
    run()
    shared = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    run("--resume_from_checkpoint", "true", max_steps=14, learning_rate=1e-3, **shared)
    assert "note: learning_rate is 0.001, but was 0.003 up to checkpoint-12" in capsys.readouterr().err


def test_resume_of_a_checkpoint_elsewhere_or_without_optimiser(run, tmp_path):
    run(save_only_model=True)
    with pytest.raises(InputError, match="holds only the model .*--initial_model"):
        run("--resume_from_checkpoint", "true")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.yaml").write_text("mine")
    with pytest.raises(InputError, match="is of another run than"):
        run("--resume_from_checkpoint", str(tmp_path / "run" / "checkpoint-3"), folder="other")
    assert (tmp_path / "other" / "recipe.yaml").read_text() == "mine"


@pytest.mark.slow
def test_twenty_kills(recipe, springs, tmp_path):
    """SIGKILL at a random moment, every third time while a checkpoint is written: the same weights each time."""
    seed = int(os.environ.get("KILL_SEED", time.time()))
    print(f"KILL_SEED={seed}")
    chance = random.Random(seed)
    path = recipe(**(DELICATE | {"max_steps": 58, "save_steps": 2, "eval_steps": 2, "save_total_limit": 1}))

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
