"""Force and energy errors against plain numpy over the flat arrays, and the trivial baselines beside them."""

import numpy as np
import pytest
import torch

from modeling_adapt.evaluation.metrics import (
    NEAR_DEFECT_RADIUS,
    SMALL_FORCE,
    CompositionBaseline,
    EnergyMetrics,
    ForceMetrics,
    compositions,
)

SIZES = [3, 1, 7, 5, 2]
NAMES = ["vacancy", "bulk", "vacancy", "bulk", "surface"]


def _structures(seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "forces": rng.normal(size=(n, 3)),
            "labels": rng.normal(size=(n, 3)),
            "nearest": rng.uniform(0, 2 * NEAR_DEFECT_RADIUS, size=n),
        }
        for n in SIZES
    ]


def _padded(arrays: list[np.ndarray], filler: float) -> np.ndarray:
    size = max(map(len, arrays))
    return np.stack(
        [np.pad(a, [(0, size - len(a)), *[(0, 0)] * (a.ndim - 1)], constant_values=filler) for a in arrays]
    )


def _accumulated(structures: list[dict[str, np.ndarray]], batch_size: int) -> ForceMetrics:
    metrics = ForceMetrics()
    for first in range(0, len(structures), batch_size):
        batch = structures[first : first + batch_size]
        metrics.update(
            _padded([s["forces"] for s in batch], 7.0),  # what a model says about padding must not matter
            _padded([s["labels"] for s in batch], -100),
            _padded([s["nearest"] for s in batch], np.inf),
            NAMES[first : first + batch_size],
        )
    return metrics


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_force_metrics_equal_plain_numpy_for_any_batching(batch_size):
    structures = _structures()
    result = _accumulated(structures, batch_size).compute()

    forces = np.concatenate([s["forces"] for s in structures])
    labels = np.concatenate([s["labels"] for s in structures])
    near = np.concatenate([s["nearest"] for s in structures]) < NEAR_DEFECT_RADIUS
    error = forces - labels
    cosine = (forces * labels).sum(1) / np.linalg.norm(forces, axis=1) / np.linalg.norm(labels, axis=1)
    expected = {
        "force_mae_mev_per_ang": 1000 * np.abs(error).mean(),
        "force_rmse_mev_per_ang": 1000 * np.sqrt((error**2).mean()),
        "force_cosine": cosine.mean(),
        "force_norm_ratio": np.linalg.norm(forces, axis=1).sum() / np.linalg.norm(labels, axis=1).sum(),
        "near_defect_mae_mev_per_ang": 1000 * np.abs(error[near]).mean(),
        "zero_force_mae_mev_per_ang": 1000 * np.abs(labels).mean(),
        "zero_force_rmse_mev_per_ang": 1000 * np.sqrt((labels**2).mean()),
        "zero_force_near_defect_mae_mev_per_ang": 1000 * np.abs(labels[near]).mean(),
        "num_structures": len(SIZES),
        "num_atoms": sum(SIZES),
    }
    groups = result.pop("by_config_type")
    assert result == pytest.approx(expected, rel=1e-12)

    assert list(groups) == ["bulk", "surface", "vacancy"]
    vacancy = np.concatenate([structures[i]["forces"] - structures[i]["labels"] for i in (0, 2)])
    assert groups["vacancy"]["force_mae_mev_per_ang"] == pytest.approx(1000 * np.abs(vacancy).mean(), rel=1e-12)
    assert groups["vacancy"]["num_atoms"] == 10


def test_tensors_of_any_type_are_read():
    structures = _structures()[:1]
    forces = torch.tensor(structures[0]["forces"][None], dtype=torch.bfloat16, requires_grad=True)
    labels = torch.tensor(structures[0]["labels"][None], dtype=torch.float32)
    metrics = ForceMetrics()
    metrics.update(forces, labels)
    expected = 1000 * (forces.double() - labels.double()).abs().mean().item()
    assert metrics.compute()["force_mae_mev_per_ang"] == pytest.approx(expected, rel=1e-12)
    assert "near_defect_mae_mev_per_ang" not in metrics.compute()


def test_cosine_leaves_out_forces_without_a_direction():
    labels = np.array([[[1.0, 0, 0], [0.5 * SMALL_FORCE, 0, 0]]])
    metrics = ForceMetrics()
    metrics.update(-labels, labels)
    assert metrics.compute()["force_cosine"] == -1.0

    at_rest = ForceMetrics()
    at_rest.update(labels, np.zeros_like(labels))
    assert "force_cosine" not in at_rest.compute()


def test_predicting_zero_forces_is_the_zero_force_baseline():
    metrics = ForceMetrics()
    labels = _padded([s["labels"] for s in _structures()], -100)
    metrics.update(np.zeros_like(labels), labels)
    result = metrics.compute()
    assert result["force_mae_mev_per_ang"] == result["zero_force_mae_mev_per_ang"] > 0
    assert result["force_cosine"] == 0


def test_no_near_defect_error_where_no_structure_has_a_defect():
    metrics = ForceMetrics()
    labels = np.ones((1, 4, 3))
    metrics.update(labels, labels, np.full((1, 4), np.inf))
    assert "near_defect_mae_mev_per_ang" not in metrics.compute()


def test_nothing_to_compute_is_an_error():
    with pytest.raises(ValueError, match="no structures"):
        ForceMetrics().compute()


def test_energy_metrics_equal_plain_numpy():
    rng = np.random.default_rng(1)
    energies, labels = rng.normal(-1000, 5, 6), rng.normal(-1000, 5, 6)
    num_atoms = rng.integers(1, 200, 6)
    baseline = labels + 0.5
    baseline[2] = np.nan
    metrics = EnergyMetrics()
    for part in (slice(0, 4), slice(4, 6)):
        metrics.update(energies[part], labels[part], num_atoms[part], baseline[part])
    result = metrics.compute()
    per_atom = (energies - labels) / num_atoms
    assert result["energy_mae_mev_per_atom"] == pytest.approx(1000 * np.abs(per_atom).mean())
    assert result["energy_rmse_mev_per_atom"] == pytest.approx(1000 * np.sqrt((per_atom**2).mean()))
    assert result["energy_mae_ev"] == pytest.approx(np.abs(energies - labels).mean())
    known = np.delete(0.5 / num_atoms, 2)
    assert result["composition_baseline_mae_mev_per_atom"] == pytest.approx(1000 * known.mean())


def test_composition_baseline_recovers_energies_that_are_sums_over_elements():
    numbers = np.array([[14, 14, 6], [14, 14, 0], [14, 6, 0]])
    counts = compositions(numbers)
    assert counts.sum() == 7 and counts[0, 14] == 2 and counts[0, 6] == 1
    baseline = CompositionBaseline.fit(counts, np.array([-19.0, -10.0, -14.0]))
    assert baseline.predict(counts) == pytest.approx([-19, -10, -14])
    assert baseline.predict(compositions([[6, 6]])) == pytest.approx([-18])
    assert np.isnan(baseline.predict(compositions([[14, 28]]))).all()
