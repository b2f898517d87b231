"""Several models in one table: ours, ASE calculators and MACE files, each beside predicting nothing."""

import csv
import json
import os
import sys
import types

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes

import modeling_adapt.cli.evaluate as command
from modeling_adapt import ADAPTFeatureExtractor
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.crystal.trained_region import fit_domain
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.defects.labelling import erhart_albe
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.structures import structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.evaluation.compare import ZERO_FORCES, compare, load_contender, zero_forces
from modeling_adapt.evaluation.evaluate import evaluate_energy, evaluate_forces
from modeling_adapt.evaluation.report import COLUMNS

EXACT = "modeling_adapt.data.defects.labelling:erhart_albe"
CPU = torch.device("cpu")
PAIRWISE = {"architecture": "pairwise", "num_vector_channels": 8}


class Scaled(Calculator):
    """The exact potential times a factor; energies are too high by 0.5 eV."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, factor: float = 0.5):
        super().__init__()
        self.factor, self.exact = factor, erhart_albe()

    def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.exact.reset()
        self.results["forces"] = self.factor * self.exact.get_forces(atoms)
        self.results["energy"] = self.exact.get_potential_energy(atoms) + 0.5


class Broken(Scaled):
    """Not a number for carbon."""

    def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if "C" in atoms.symbols:
            self.results["forces"][0, 0] = np.nan


class Failing(Scaled):
    def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
        if "C" in atoms.symbols:
            raise NotImplementedError("no parameters\nfor C")
        super().calculate(atoms, properties, system_changes)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    """Labelled by the potential of Erhart and Albe; the third row has carbon."""
    rows, exact = [], erhart_albe()
    for seed in range(4):
        atoms = bulk("Si", a=5.429, cubic=True)
        site = atoms.positions[0].copy()
        atoms.rattle(0.1, seed=seed)
        if seed == 2:
            atoms.symbols[0] = "C"
        atoms.positions = atoms.positions.astype(np.float32)
        exact.reset()
        forces, energy = exact.get_forces(atoms), exact.get_potential_energy(atoms)
        kind = "carbon" if seed == 2 else "bulk"
        rows.append(structure_row(atoms, forces, energy, defect_sites=[site], config_type=kind, source=f"made#{seed}"))
    folder = tmp_path_factory.mktemp("data") / "exact"
    write_dataset({"test": rows, "train": [rows[0], rows[1]]}, folder)
    return str(folder)


@pytest.fixture
def saved(tmp_path):
    """Function that saves a model."""

    def save(model, name: str) -> str:
        model.save_pretrained(tmp_path / name)
        ADAPTFeatureExtractor().save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


def run(*argv) -> int:
    return run_command(lambda: command.main([str(argument) for argument in argv]))


def test_errors_are_those_that_are_planted(dataset):
    rows = read_split(dataset, "test")
    contenders = [load_contender(name, CPU) for name in (EXACT, "test_compare:Scaled")]
    found = compare([*contenders, zero_forces()], rows, progress=False)
    labels = np.concatenate([np.array(row["forces"], dtype=np.float64) for row in rows])
    exact, half, zero = found[EXACT], found["test_compare:Scaled"], found[ZERO_FORCES]
    assert exact["force_mae_mev_per_ang"] < 1e-3 and exact["force_slope"] == pytest.approx(1)
    assert exact["energy_mae_mev_per_atom"] < 1e-6
    assert half["force_slope"] == pytest.approx(0.5) and half["force_cosine"] == pytest.approx(1)
    assert half["force_mae_mev_per_ang"] == pytest.approx(500 * np.abs(labels).mean(), rel=1e-5)
    assert half["energy_mae_mev_per_atom"] == pytest.approx(500 / 8)
    assert zero["force_mae_mev_per_ang"] == pytest.approx(1000 * np.abs(labels).mean(), rel=1e-6)
    assert zero["force_slope"] == 0 and "energy_mae_mev_per_atom" not in zero
    assert {"C", "Si"} == set(half["by_element"]) and {"bulk", "carbon"} == set(half["by_config_type"])
    assert all(one["ms_per_structure"] > 0 for one in found.values())


def test_ours_have_the_errors_of_an_evaluation_of_one(dataset, make_force_model, make_energy_model, saved):
    rows, extract = read_split(dataset, "test"), ADAPTFeatureExtractor()
    models = {
        saved(make_force_model(architecture="cartesian"), "forces"): make_force_model(architecture="cartesian"),
        saved(make_energy_model(**PAIRWISE), "pooled"): make_energy_model(**PAIRWISE),
    }
    found = compare([load_contender(name, CPU) for name in models], rows, progress=False)
    for name, model in models.items():
        alone = evaluate_forces(model, extract, rows, progress=False).metrics
        if name.endswith("pooled"):
            alone |= {
                key: value
                for key, value in evaluate_energy(model, extract, rows, progress=False).metrics.items()
                if key.startswith("energy_")
            }
        for key in ("force_mae_mev_per_ang", "force_slope", "near_defect_mae_mev_per_ang", "energy_mae_mev_per_atom"):
            assert (key in found[name]) == (key in alone)
            assert key not in alone or found[name][key] == pytest.approx(alone[key], rel=1e-3)


def test_command_writes_the_table(dataset, make_force_model, saved, tmp_path, capsys):
    model = saved(make_force_model(architecture="cartesian"), "forces")
    assert run(model, dataset, "--compare", EXACT, "--output", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [one["model"] for one in found["models"]] == [model, EXACT, ZERO_FORCES]
    assert (found["split"], found["dataset"]) == ("test", dataset)
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line, one in zip(lines, found["models"], strict=True):
        assert list(line) == ["model", *(metric for _, metric, _ in COLUMNS["models"])]
        for _, metric, style in COLUMNS["models"]:
            assert line[metric] == str(one.get(metric, ""))
            assert metric not in one or metric == "ms_per_structure" or format(one[metric], style) in printed
    for heading in ("MAE", "RMSE", "cosine", "slope", "max error", "MAE near defect", "ms/structure", "energy MAE"):
        assert heading in printed


def test_charges_that_the_model_tells_apart(tmp_path, make_energy_model, saved, capsys):
    atoms, rows = bulk("Si", a=5.429, cubic=True), []
    for charge in (0, 1):
        atoms.info["charge"] = charge
        rows.append(structure_row(atoms, np.zeros((8, 3)), -40.0, charge=charge))
    write_dataset({"test": rows}, tmp_path / "charged")
    told = saved(make_energy_model(**PAIRWISE, reads_charge=True), "told")
    blind = saved(make_energy_model(**PAIRWISE), "blind")
    assert run(told, tmp_path / "charged", "--compare", blind) == 0
    assert run(blind, tmp_path / "charged", "--compare", told) != 0
    assert "--charge" in capsys.readouterr().err


def test_bad_input_is_one_line_and_writes_nothing(
    dataset, make_force_model, make_energy_model, saved, tmp_path, capsys, monkeypatch
):
    model = make_force_model(architecture="cartesian")
    model.config.training_domain = fit_domain(read_split(dataset, "train")).to_dict()
    narrow = saved(model, "narrow")
    published = saved(make_energy_model(), "published")
    (tmp_path / "mace.model").touch()
    monkeypatch.setitem(sys.modules, "mace", None)

    def fails_with(*argv) -> str:
        assert run(*argv, "--output", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and not (tmp_path / "out").exists()
        return error

    assert "pip install mace-torch" in fails_with(EXACT, dataset, "--compare", tmp_path / "mace.model")
    assert "no such file" in fails_with(EXACT, dataset, "--compare", tmp_path / "other.model")
    assert "cannot be made" in fails_with(EXACT, dataset, "--compare", "no.such.module:factory")
    assert "no checkpoint" in fails_with(EXACT, dataset, "--compare", dataset)
    assert "gives no forces" in fails_with(EXACT, dataset, "--compare", published)
    assert "named twice" in fails_with(EXACT, dataset, "--compare", EXACT)
    assert "leave out" in fails_with(EXACT, dataset, "--compare", narrow, "--num-images", "2")
    wrong = fails_with(EXACT, dataset, "--compare", narrow)
    assert "row 2 (made#2): atom 0 is C" in wrong and "trained on Si only" in wrong and narrow in wrong
    wrong = fails_with(EXACT, dataset, "--compare", "test_compare:Broken")
    assert "row 2 (made#2): test_compare:Broken predicts values that are not finite" in wrong
    assert "row 2 (made#2): test_compare:Failing fails on it: NotImplementedError: no parameters" in fails_with(
        EXACT, dataset, "--compare", "test_compare:Failing"
    )


def test_a_mace_file_is_loaded_by_mace_and_settings_of_torch_stay(dataset, tmp_path, monkeypatch):
    """A stand-in for mace-torch, which like it sets the default dtype and that any pickle may be opened."""
    asked = {}

    def make(model_paths, device, default_dtype):
        asked.update(model_paths=model_paths, device=device)
        torch.set_default_dtype(torch.float64)
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        return Scaled()

    package, calculators = types.ModuleType("mace"), types.ModuleType("mace.calculators")
    calculators.MACECalculator = make
    monkeypatch.setitem(sys.modules, "mace", package)
    monkeypatch.setitem(sys.modules, "mace.calculators", calculators)
    file = tmp_path / "mace.model"
    file.touch()
    contender = load_contender(str(file), CPU)
    assert torch.get_default_dtype() == torch.float32
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
    assert asked == {"model_paths": str(file), "device": "cpu"}
    found = compare([contender], read_split(dataset, "test"), progress=False)
    assert found[str(file)]["force_slope"] == pytest.approx(0.5)
    calculators.MACECalculator = lambda **options: 1 / 0
    with pytest.raises(InputError, match="cannot be loaded: ZeroDivisionError"):
        load_contender(str(file), CPU)
