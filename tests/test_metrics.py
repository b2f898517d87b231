"""Force and energy errors against plain numpy over the flat arrays, and the trivial baselines beside them."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import linregress

from modeling_adapt.evaluation.metrics import (
    NEAR_DEFECT_RADIUS,
    SHELLS,
    SMALL_FORCE,
    EnergyMetrics,
    ForceMetrics,
)
from modeling_adapt.evaluation.report import error_cells
from modeling_adapt.reference_energies import CompositionBaseline, MeanBaseline, compositions

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
        "force_slope": np.linalg.lstsq(labels.reshape(-1, 1), forces.ravel(), rcond=None)[0][0],
        "force_max_error_mev_per_ang": 1000 * np.abs(error).max(),
        "zero_force_near_defect_mae_mev_per_ang": 1000 * np.abs(labels[near]).mean(),
        "num_structures": len(SIZES),
        "num_atoms": sum(SIZES),
    }
    groups = result.pop("by_config_type")
    assert result == pytest.approx(expected, rel=1e-12)

    assert list(groups) == ["bulk", "surface", "vacancy"]
    vacancy = np.concatenate([structures[i]["forces"] - structures[i]["labels"] for i in (0, 2)])
    assert groups["vacancy"]["force_mae_mev_per_ang"] == pytest.approx(1000 * np.abs(vacancy).mean(), rel=1e-12)
    assert groups["vacancy"]["force_max_error_mev_per_ang"] == pytest.approx(1000 * np.abs(vacancy).max(), rel=1e-12)
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


class TestPlantedModels:
    """Models whose errors are known."""

    labels = np.random.default_rng(3).normal(size=(4, 500, 3))

    def metrics(self, forces) -> dict:
        metrics = ForceMetrics()
        metrics.update(forces, self.labels)
        return metrics.compute()

    def test_perfect(self):
        found = self.metrics(self.labels)
        assert found["force_mae_mev_per_ang"] == found["force_max_error_mev_per_ang"] == 0
        assert found["force_slope"] == pytest.approx(1) and found["force_cosine"] == pytest.approx(1)

    def test_zero(self):
        found = self.metrics(np.zeros_like(self.labels))
        assert found["force_slope"] == 0
        assert found["force_max_error_mev_per_ang"] == 1000 * np.abs(self.labels).max()

    def test_too_soft(self):
        found = self.metrics(0.7 * self.labels)
        assert found["force_slope"] == pytest.approx(0.7) and found["force_cosine"] == pytest.approx(1)
        assert found["force_mae_mev_per_ang"] == pytest.approx(300 * np.abs(self.labels).mean())

    def test_turned(self):
        """By an angle about the z axis forces in the plane keep its cosine, and so much of their slope."""
        self.labels = self.labels * (1, 1, 0)
        turned = self.labels @ Rotation.from_euler("z", 50, degrees=True).as_matrix()
        found = self.metrics(turned)
        assert found["force_cosine"] == pytest.approx(np.cos(np.radians(50)))
        assert found["force_slope"] == pytest.approx(np.cos(np.radians(50)))
        assert found["force_norm_ratio"] == pytest.approx(1)

    def test_noisy(self):
        sigma = 0.05
        noise = np.random.default_rng(4).normal(scale=sigma, size=self.labels.shape)
        found = self.metrics(0.8 * self.labels + noise)
        line = linregress(self.labels.ravel(), (0.8 * self.labels + noise).ravel())
        assert found["force_slope"] == pytest.approx(line.slope, abs=1e-3)
        found = self.metrics(self.labels + noise)
        # A sample of 6000: the mean of |error| is within four of its standard errors, 0.6 sigma / sqrt(6000).
        assert found["force_mae_mev_per_ang"] == pytest.approx(1000 * sigma * np.sqrt(2 / np.pi), rel=0.04)
        assert found["force_rmse_mev_per_ang"] == pytest.approx(1000 * sigma, rel=0.04)


def test_breakdown_equals_plain_numpy_on_the_atoms_of_a_group():
    structures = _structures()
    rng = np.random.default_rng(5)
    for one in structures:
        one["numbers"] = rng.choice([6, 14], size=len(one["labels"]))
        one["nearest"] = rng.uniform(0, 12, size=len(one["labels"]))
    structures[1]["nearest"][:] = np.inf
    metrics = ForceMetrics()
    for batch in (structures[:3], structures[3:]):
        metrics.update(
            _padded([s["forces"] for s in batch], 7.0),
            _padded([s["labels"] for s in batch], -100),
            _padded([s["nearest"] for s in batch], np.inf),
            atomic_numbers=_padded([s["numbers"] for s in batch], 0),
        )
    found = metrics.compute()
    forces, labels, numbers, nearest = (
        np.concatenate([s[name] for s in structures]) for name in ("forces", "labels", "numbers", "nearest")
    )
    assert list(found["by_element"]) == ["C", "Si"] and list(found["by_defect_distance"]) == list(SHELLS)
    groups = {("by_element", "C"): numbers == 6, ("by_element", "Si"): numbers == 14}
    groups |= {
        ("by_defect_distance", "0-3 Å"): nearest < 3,
        ("by_defect_distance", "3-5 Å"): (3 <= nearest) & (nearest < 5),
    }
    groups[("by_defect_distance", "8 Å and more")] = (8 <= nearest) & np.isfinite(nearest)
    for (kind, name), atoms in groups.items():
        group, error = found[kind][name], forces[atoms] - labels[atoms]
        assert group["force_mae_mev_per_ang"] == pytest.approx(1000 * np.abs(error).mean())
        assert group["force_rmse_mev_per_ang"] == pytest.approx(1000 * np.sqrt((error**2).mean()))
        assert group["force_max_error_mev_per_ang"] == pytest.approx(1000 * np.abs(error).max())
        assert group["zero_force_mae_mev_per_ang"] == pytest.approx(1000 * np.abs(labels[atoms]).mean())
        slope = (forces[atoms] * labels[atoms]).sum() / (labels[atoms] ** 2).sum()
        assert group["force_slope"] == pytest.approx(slope)
        assert group["num_atoms"] == atoms.sum()
        assert group["num_structures"] == sum(
            bool(part.any()) for part in np.split(atoms, np.cumsum([len(s["labels"]) for s in structures])[:-1])
        )


def test_no_breakdown_by_distance_where_no_defect_is_known():
    metrics = ForceMetrics()
    labels = np.ones((1, 4, 3))
    metrics.update(labels, labels, np.full((1, 4), np.inf), atomic_numbers=np.full((1, 4), 14))
    assert "by_element" in metrics.compute() and "by_defect_distance" not in metrics.compute()


def test_table_shows_the_slope_and_the_largest_error():
    metrics = ForceMetrics()
    metrics.update(np.full((1, 2, 3), 0.5), np.ones((1, 2, 3)))
    headings, ((_, *cells),) = error_cells({"all": metrics.compute()}, "forces")
    line = dict(zip(headings, cells, strict=True))
    assert (line["slope"], line["max error"], line["MAE"]) == ("0.500", "500.0", "500.0")


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
    assert result["energy_mae_mev_per_structure"] == pytest.approx(1000 * np.abs(energies - labels).mean())
    assert "mean_baseline_mae_mev_per_atom" not in result
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


def test_mean_baseline_is_the_mean_energy_per_atom():
    num_atoms, energies = np.array([2, 4, 8]), np.array([-10.0, -24.0, -32.0])
    baseline = MeanBaseline.fit(num_atoms, energies)
    assert baseline.energy_per_atom == pytest.approx(-5)
    metrics = EnergyMetrics()
    metrics.update(energies, energies, num_atoms, mean_baseline=baseline.predict(num_atoms))
    assert metrics.compute()["mean_baseline_mae_mev_per_atom"] == pytest.approx(1000 * 2 / 3)
