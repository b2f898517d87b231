"""The files of `examples/` are short, and do what they say."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from modeling_adapt import ADAPTForEnergy

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = ["--num_train_epochs", "1", "--max_steps", "2"]


@pytest.fixture(autouse=True)
def as_a_script(monkeypatch, tmp_path) -> None:
    """In an empty folder, with the examples beside each other on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    yield
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_tested(path):
    if path.stem != "demo":  # of `make demo`
        assert len(path.read_text().splitlines()) < 60
        assert f"import {path.stem}\n" in Path(__file__).read_text()


def test_calculator(capsys):
    import calculator

    assert 1.0 < calculator.main(cells=1, fmax=0.2) < 6.0
    assert "lattice constant 5.4" in capsys.readouterr().out


def test_many_defects(capsys):
    pytest.importorskip("shakenbreak")
    import many_defects

    assert many_defects.main("many", 2, "--steps", "2", "--fmax", "5", "--finish", "5") in (0, 1)
    assert "Bond_Distortion_-30.0%" in capsys.readouterr().out
    assert (Path("many") / "relaxed" / "report.html").is_file()


def test_barrier(capsys):
    import barrier

    value = barrier.main(images=1, fmax=2.0, steps=1)
    assert value > 0 and f"barrier {value:.3f} ± " in capsys.readouterr().out


def test_molecular_dynamics(capsys):
    import molecular_dynamics

    drift = molecular_dynamics.main(warm_up=2, steps=10)
    assert np.isfinite(drift) and "10 fs at" in capsys.readouterr().out


@pytest.mark.slow
def test_the_sample_runs_are_a_data_set_to_train_on(capsys):
    import finetune_on_vasp
    import sample_runs

    sample_runs.main("vasp", runs=10, steps=1)
    errors = finetune_on_vasp.main("vasp", "tuned", *SHORT)
    assert set(errors) == {"before", "after"} and errors["before"] > 0
    assert "v_Si 20" in capsys.readouterr().out


@pytest.mark.slow
def test_active_learning():
    import active_learning

    model = active_learning.main("active", 1, 2, 3, *SHORT)
    assert ADAPTForEnergy.from_pretrained(model).config.predicts == "energy"
    assert len(list(Path("active/round_1/next").glob("*/POSCAR"))) == 2


@pytest.mark.slow
def test_plain_trainer():
    import plain_trainer

    assert plain_trainer.main("plain", structures=50, steps=1) > 0
    assert ADAPTForEnergy.from_pretrained("plain/model").config.predicts == "energy"


def test_upload(monkeypatch, capsys):
    import upload

    monkeypatch.setattr("modeling_adapt.hub.stranger.check_as_stranger", lambda folder, subfolders: {"forces": 1e-9})
    assert upload.main() == 0
    assert "dry run: nothing was sent" in capsys.readouterr().out


@pytest.mark.slow
def test_what_the_examples_say_at_their_full_size():
    import active_learning
    import barrier
    import calculator
    import finetune_on_vasp
    import molecular_dynamics

    assert calculator.main() == pytest.approx(3.54, abs=0.05)
    assert barrier.main() == pytest.approx(0.28, abs=0.05)
    assert abs(molecular_dynamics.main()) < 0.5
    errors = finetune_on_vasp.main()
    assert errors["after"] < 0.5 * errors["before"]
    active_learning.main()
    rounds = [json.loads(Path(f"runs/active/round_{turn}/model/training_metrics.json").read_text()) for turn in (1, 3)]
    first, last = (found["eval_force_mae_mev_per_ang"] for found in rounds)
    assert last < first
