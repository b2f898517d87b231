"""What goes wrong in training is measured, and said in one line once it stays."""

import json

import numpy as np
import pytest
from ase.build import bulk

from modeling_adapt import ADAPTFeatureExtractor
from modeling_adapt.cli import train
from modeling_adapt.evaluation.symmetry import octahedral_error, rotation_error
from modeling_adapt.training.diagnosis import PERSISTS, findings

HEADLINE = "force_mae_mev_per_ang"


def history(errors, train_errors, ratio=1.0, rotation=0.0, zero=100.0) -> list[dict]:
    return [
        {
            "step": step,
            f"eval_{HEADLINE}": error,
            f"eval_train_{HEADLINE}": trained,
            "eval_zero_force_mae_mev_per_ang": zero,
            "eval_force_norm_ratio": ratio,
            "eval_octahedral_error": rotation,
        }
        for step, (error, trained) in enumerate(zip(errors, train_errors, strict=True))
    ]


class TestFindings:
    def test_a_good_run_says_nothing(self):
        assert findings(history([90, 60, 40, 30, 25], [88, 55, 36, 27, 20]), HEADLINE) == []

    def test_trivial_prediction(self):
        (line,) = findings(history([99, 98, 98], [99, 98, 98], ratio=0.03), HEADLINE)
        assert line.startswith("trivial prediction: forces are 3% as long") and "learning_rate" in line

    def test_overfitting(self):
        (line,) = findings(history([60, 50, 52, 54, 56], [50, 30, 25, 20, 14]), HEADLINE)
        assert line.startswith("overfitting: the validation error is 4.0 times") and "early_stopping" in line

    def test_a_gap_alone_is_no_overfitting(self):
        assert findings(history([60, 50, 49, 48, 47], [50, 30, 25, 20, 14]), HEADLINE) == []

    def test_rotation(self):
        (line,) = findings(history([60, 50, 40], [60, 50, 40], rotation=0.5), HEADLINE)
        assert line.startswith("rotation: ") and "by 50% of their size" in line and "augmentation" in line

    def test_it_has_to_stay_and_is_said_once(self):
        said = [len(findings(history([99] * n, [99] * n, ratio=0.0), HEADLINE)) for n in range(1, 8)]
        assert said == [int(n == PERSISTS) for n in range(1, 8)]

    def test_energies(self):
        entry = {"eval_energy_mae_mev_per_atom": 9.9, "eval_composition_baseline_mae_mev_per_atom": 10.0}
        (line,) = findings([entry | {"step": step} for step in range(3)], "energy_mae_mev_per_atom")
        assert "no better than from the composition alone" in line


def structure(atoms) -> dict:
    numbers, positions = atoms.get_atomic_numbers(), atoms.get_positions()
    return {"atomic_numbers": numbers, "positions": positions, "cell": atoms.cell.array, "pbc": atoms.pbc}


class TestEquivarianceErrors:
    @pytest.fixture
    def silicon(self):
        atoms = bulk("Si", cubic=True)
        atoms.rattle(0.1, seed=0)
        return [structure(atoms)]

    def test_pairwise_model_follows(self, make_force_model, silicon):
        model = make_force_model(architecture="pairwise", num_vector_channels=8)
        assert rotation_error(model, ADAPTFeatureExtractor(), silicon) < 1e-5
        assert octahedral_error(model, ADAPTFeatureExtractor(), silicon) < 1e-5

    def test_cartesian_model_does_not_and_the_error_is_what_it_says(self, make_force_model, silicon):
        model, extract = make_force_model(architecture="cartesian"), ADAPTFeatureExtractor()
        found = octahedral_error(model, extract, silicon, count=1)
        operation = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, -1.0]])  # the second of the 48
        turned = silicon[0] | {"positions": (silicon[0]["positions"] @ operation) % silicon[0]["cell"][0, 0]}
        before, after = (model(**extract(one)).forces[0].detach().numpy() for one in (silicon[0], turned))
        assert found == pytest.approx(np.sqrt(np.mean((after - before @ operation) ** 2)), rel=1e-4)
        assert rotation_error(model, extract, silicon) > 1e-3

    def test_energies_per_atom(self, make_energy_model, silicon):
        pooled = make_energy_model(architecture="pairwise", num_vector_channels=8)
        assert rotation_error(pooled, ADAPTFeatureExtractor(), silicon) < 1e-4
        assert rotation_error(make_energy_model(), ADAPTFeatureExtractor(), silicon) > 1e-4

    def test_no_octahedral_error_where_a_cell_is_no_cube(self, make_force_model, silicon):
        flat = structure(bulk("Si"))
        assert octahedral_error(make_force_model(), ADAPTFeatureExtractor(), [*silicon, flat]) is None


@pytest.mark.parametrize("model", ["fourier-small", "published-energy"])
def test_run_logs_the_signs(recipe, springs, tmp_path, model):
    fields = {"max_atoms": 16, "energy_hidden_sizes": [32, 16]} if model == "published-energy" else {}
    path = recipe(model=model, num_train_epochs=2, **fields)
    train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / "run")])
    metrics = json.loads((tmp_path / "run" / "training_metrics.json").read_text())
    headline = HEADLINE if model == "fourier-small" else "energy_mae_mev_per_atom"
    assert metrics[f"eval_train_{headline}"] > 0 and metrics["eval_rotation_error"] > 0


def test_run_says_what_stays_wrong(recipe, springs, tmp_path, capsys, monkeypatch):
    """The forces of a model that has learned nothing do not turn with the structure."""
    monkeypatch.setattr("modeling_adapt.training.diagnosis._ROTATION", 1e-6)
    path = recipe(learning_rate=0.0, num_train_epochs=4)
    train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / "run")])
    assert capsys.readouterr().out.count("rotation: predictions miss the symmetry of a turned structure") == 1
