"""The average of the weights is what is evaluated and left; the raw weights train on beside it."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState

from modeling_adapt.cli import train
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.errors import InputError
from modeling_adapt.evaluation.evaluate import evaluate_forces
from modeling_adapt.loading import load_model
from modeling_adapt.training.arguments import parse_arguments
from modeling_adapt.training.ema import RAW_WEIGHTS, ExponentialMovingAverage


def test_average_is_the_sum_that_its_docstring_says():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    average = ExponentialMovingAverage(model, decay=0.5)
    average.start()
    expected = 1.0
    for step, weight in enumerate((2.0, -3.0, 5.0), start=1):
        torch.nn.init.constant_(model.weight, weight)
        average.on_step_end(None, TrainerState(global_step=step), TrainerControl())
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    assert model.weight.item() == 5.0
    with average.in_model():
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 5.0


def test_average_is_evaluated_saved_and_left(recipe, springs, tmp_path):
    fields = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps", "eval_steps": 4}
    path = recipe(ema_decay=0.9, learning_rate=1e-2, **fields)
    train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / "run")])
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    errors = {entry["step"]: entry["eval_force_mae_mev_per_ang"] for entry in history if "eval_runtime" in entry}
    rows = read_split(springs, "validation", "forces")
    for step in (4, 8):
        saved = tmp_path / "run" / f"checkpoint-{step}"
        found = evaluate_forces(*load_model(saved), rows, progress=False).metrics["force_mae_mev_per_ang"]
        assert found == pytest.approx(errors[step], rel=1e-5)
        average, raw = load_file(saved / "model.safetensors"), load_file(saved / RAW_WEIGHTS)
        assert not any(torch.equal(average[name], raw[name]) for name in average if name.endswith("weight"))
    last, left = (load_file(tmp_path / "run" / name / "model.safetensors") for name in ("checkpoint-8", "."))
    assert all(torch.equal(last[name], left[name]) for name in last)


def test_raw_weights_train_as_without_average(recipe, springs, tmp_path):
    fields = {"max_steps": 6, "save_strategy": "steps", "save_steps": 6, "hidden_dropout_prob": 0.1}
    for name, decay in (("with", 0.9), ("without", None)):
        path = recipe(ema_decay=decay, eval_strategy="steps", eval_steps=2, **fields)
        train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / name)])
    raw = load_file(tmp_path / "with" / "checkpoint-6" / RAW_WEIGHTS)
    plain = load_file(tmp_path / "without" / "checkpoint-6" / "model.safetensors")
    assert all(torch.equal(raw[name], plain[name]) for name in plain)


@pytest.mark.parametrize("decay", [1.0, -0.5])
def test_decay_out_of_range(recipe, springs, tmp_path, decay):
    with pytest.raises(InputError, match="ema_decay must be at least 0 and less than 1"):
        train.main([recipe(ema_decay=decay), "--dataset", springs, "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_the_command_line_takes_the_average_of_a_recipe_away(recipe, springs, tmp_path):
    command = [recipe(ema_decay=0.9, max_steps=1), "--dataset", springs, "--output_dir", str(tmp_path / "run")]
    _, run, _ = parse_arguments([*command, "--ema_decay", "0"])
    assert run.ema_decay is None


def test_average_under_fsdp_is_refused(recipe, springs, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as configuration/accelerate/fsdp.yaml has it set
    with pytest.raises(InputError, match="ema_decay does not go with fsdp"):
        train.main([recipe(ema_decay=0.9), "--dataset", springs, "--output_dir", str(tmp_path / "run")])
