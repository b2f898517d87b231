"""The ASE calculator: results, caching, copies, errors, and that it leaves torch's global state alone."""

import copy
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import Trajectory
from ase.md.langevin import Langevin
from ase.optimize import BFGS, FIRE

from modeling_adapt import (
    ADAPTConfig,
    ADAPTEnergyConfig,
    ADAPTFeatureExtractor,
    ADAPTForEnergy,
    ADAPTForForces,
    device,
)
from modeling_adapt.crystal.trained_region import fit_domain
from modeling_adapt.data.structures import structure_row
from modeling_adapt.device import DTYPES
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator, OutsideDomainWarning
from modeling_adapt.simulation.relaxation import relax

TINY = {
    "embedding_sizes": (16,),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "hidden_dropout_prob": 0.5,  # a calculator that forgets eval() gives other forces every time
}


def _atoms() -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.symbols[2] = "C"
    atoms.rattle(0.1, seed=0)
    return atoms


@pytest.fixture(scope="module")
def model() -> ADAPTForForces:
    torch.manual_seed(0)
    return ADAPTForForces(ADAPTConfig(**TINY, architecture="fourier", fourier_wave_numbers=(1, 2)))


@pytest.fixture(scope="module")
def energy_model() -> ADAPTForEnergy:
    torch.manual_seed(0)
    return ADAPTForEnergy(
        ADAPTEnergyConfig(max_atoms=10, energy_hidden_sizes=(8,), energy_mean=-900.0, energy_std=2.0)
    )


def test_forces_are_those_of_the_model_in_float64(model):
    atoms = _atoms()
    atoms.calc = ADAPTCalculator(model)
    forces = atoms.get_forces()
    assert forces.dtype == np.float64 and forces.shape == (8, 3)
    with torch.no_grad():
        expected = model.eval()(**ADAPTFeatureExtractor()(atoms)).forces[0].numpy()
    np.testing.assert_array_equal(forces, expected)
    assert np.abs(forces).max() > 0


def test_energy_only_with_an_energy_model(model, energy_model):
    atoms = _atoms()
    atoms.calc = ADAPTCalculator(model)
    assert atoms.calc.implemented_properties == ["forces"]
    for ask in (atoms.get_potential_energy, FIRE(atoms, logfile=None).run):
        with pytest.raises(PropertyNotImplementedError, match=r"relax with .*relax\(atoms, calculator\)"):
            ask()

    atoms.calc = ADAPTCalculator(model, energy_model)
    energy = atoms.get_potential_energy()
    assert isinstance(energy, float) and abs(energy + 900) < 50
    with pytest.raises(PropertyNotImplementedError):  # forces are not its gradient
        atoms.get_potential_energy(force_consistent=True)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
    assert ADAPTCalculator(model).implemented_properties == ["forces"]


def test_results_are_kept_until_the_structure_changes(model, energy_model):
    class Counting(ADAPTCalculator):
        calls: list = []

        def calculate(self, atoms=None, properties=("forces",), system_changes=()):
            self.calls.append(tuple(properties))
            super().calculate(atoms, properties, system_changes)

    atoms = _atoms()
    atoms.calc = Counting(model, energy_model)
    first = atoms.get_forces()
    energy = atoms.get_potential_energy()
    atoms.set_initial_magnetic_moments(np.ones(8))
    np.testing.assert_array_equal(atoms.get_forces(), first)
    assert atoms.get_potential_energy() == energy
    assert atoms.calc.calls == [("forces",), ("energy",)]

    atoms.positions[0] += 0.1
    assert np.abs(atoms.get_forces() - first).max() > 0
    del atoms[3]
    assert atoms.get_forces().shape == (7, 3)
    assert len(atoms.calc.calls) == 4


def test_copies_and_pickles_predict_the_same_from_any_folder(model, energy_model, tmp_path, monkeypatch):
    calculator = ADAPTCalculator(model, energy_model)
    atoms = _atoms()
    expected = calculator.get_property("forces", atoms)
    pickled = pickle.dumps(calculator)
    monkeypatch.chdir(tmp_path)
    for twin in (copy.deepcopy(calculator), pickle.loads(pickled)):
        twin.reset()
        np.testing.assert_array_equal(twin.get_property("forces", atoms), expected)
        assert twin.get_property("energy", atoms) == calculator.get_property("energy", atoms)
        assert twin.model is not calculator.model


def test_from_pretrained_and_its_errors(model, energy_model, tmp_path):
    for part, name in ((model, "forces"), (energy_model, "energy")):
        part.save_pretrained(tmp_path / name)
        ADAPTFeatureExtractor().save_pretrained(tmp_path / name)
    calculator = ADAPTCalculator.from_pretrained(tmp_path / "forces", tmp_path / "energy")
    both = ADAPTCalculator(model, energy_model)
    np.testing.assert_array_equal(calculator.get_property("forces", _atoms()), both.get_property("forces", _atoms()))
    assert abs(calculator.get_property("energy", _atoms()) - both.get_property("energy", _atoms())) < 1e-6
    with pytest.raises(InputError, match="published energy network gives no forces"):
        ADAPTCalculator.from_pretrained(tmp_path / "energy")
    with pytest.raises(InputError, match="no checkpoint"):
        ADAPTCalculator.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no device"):
        ADAPTCalculator(model, device="nonsense")


def test_a_structure_the_model_cannot_read_is_an_input_error(model, energy_model):
    calculator = ADAPTCalculator(model, energy_model)
    atoms = _atoms()
    atoms.symbols[5] = "U"
    with pytest.raises(InputError, match=r"U.*5|5.*U"):
        calculator.get_property("forces", atoms)
    atoms = _atoms()
    atoms.positions[1] = np.nan
    with pytest.raises(InputError, match=r"atom 1"):
        calculator.get_property("forces", atoms)
    with pytest.raises(InputError, match="periodic"):  # Fourier geometry
        calculator.get_property("forces", Atoms("Si2", positions=[[0, 0, 0], [2, 2, 2]]))
    with pytest.raises(InputError, match="at most 10"):
        calculator.get_property("energy", _atoms() * (2, 1, 1))


def test_global_state_of_torch_stays(model):
    def state():
        return (
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.random.get_rng_state(),
        )

    before = state()
    ADAPTCalculator(model).get_property("forces", _atoms())
    assert state()[:3] == before[:3] and torch.equal(state()[3], before[3])
    assert torch.is_grad_enabled() and model.force_head.linear.weight.requires_grad


def test_the_trained_region_travels_with_the_checkpoint(model, tmp_path):
    assert ADAPTCalculator(model).domain is None
    trained = copy.deepcopy(model)
    domain = fit_domain([structure_row(_atoms(), np.ones((8, 3)))])
    trained.config.training_domain = domain.to_dict()
    trained.save_pretrained(tmp_path)
    calculator = ADAPTCalculator.from_pretrained(tmp_path, outside_domain="ignore")  # relax says it
    assert calculator.domain == domain
    result = relax(_atoms() * (2, 1, 1), calculator, steps=1, domain=calculator.domain)
    assert result.status == "left the trained region"
    assert "16 atoms; training had 8" in result.findings[0]


def test_pooled_energy_gives_energy_and_its_gradient():
    config = ADAPTEnergyConfig(**TINY, architecture="pairwise", num_vector_channels=8)
    calculator = ADAPTCalculator(ADAPTForEnergy(config).double())
    calculator.feature_extractor = partial(ADAPTFeatureExtractor(), dtype="float64")
    atoms = _atoms()
    atoms.calc = calculator
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=[0, 3])
    np.testing.assert_allclose(atoms.get_forces()[[0, 3]], numerical, atol=1e-6)
    with pytest.raises(InputError, match="a second energy model is too much"):
        ADAPTCalculator(calculator.model, calculator.model)


class TestDoubt:
    """Means over symmetry images and models, and their spread."""

    def test_mean_over_images_follows_every_symmetry_of_the_cube(self, model):
        """With all 48 images even a model that knows no rotation is equivariant under them."""
        atoms = bulk("Si", cubic=True)
        atoms.rattle(0.1, seed=0)
        atoms.calc = ADAPTCalculator(model, num_images=48)
        forces = atoms.get_forces()
        plain = atoms.copy()
        plain.calc = ADAPTCalculator(model)
        for operation in (np.diag([1.0, -1.0, 1.0]), np.eye(3)[[1, 2, 0]]):
            turned = atoms.copy()
            turned.positions = turned.positions @ operation
            turned.wrap()
            turned.calc = ADAPTCalculator(model, num_images=48)
            np.testing.assert_allclose(turned.get_forces(), forces @ operation, atol=1e-5)
            turned.calc = ADAPTCalculator(model)
            assert np.abs(turned.get_forces() - plain.get_forces() @ operation).max() > 1e-3

    def test_spread_is_zero_only_where_the_members_agree(self, model):
        atoms = _atoms()
        equivariant = ADAPTForForces(ADAPTConfig(**TINY, architecture="pairwise", num_vector_channels=8))
        spreads = {}
        for name, one in (("fourier", model), ("pairwise", equivariant)):
            atoms.calc = ADAPTCalculator(one, num_images=8)
            atoms.get_forces()
            spreads[name] = atoms.calc.results["forces_std"]
            assert spreads[name].shape == (8,)
        assert spreads["fourier"].min() > 1e-3 and spreads["pairwise"].max() < 1e-5

    def test_ensemble(self, model, tmp_path):
        torch.manual_seed(1)
        other = ADAPTForForces(ADAPTConfig(**TINY, architecture="fourier", fourier_wave_numbers=(1, 2)))
        model.save_pretrained(tmp_path / "one")
        other.save_pretrained(tmp_path / "two")
        forces = []
        for names in ("one", "two", ["one", "two"]):
            atoms = _atoms()
            paths = tmp_path / names if isinstance(names, str) else [tmp_path / name for name in names]
            atoms.calc = ADAPTCalculator.from_pretrained(paths)
            forces.append(atoms.get_forces())
        np.testing.assert_allclose(forces[2], (forces[0] + forces[1]) / 2, atol=1e-7)
        expected = np.linalg.norm(forces[0] - forces[1], axis=1) / 2
        np.testing.assert_allclose(atoms.calc.results["forces_std"], expected, rtol=1e-5)

    def test_one_prediction_has_no_spread(self, model):
        atoms = _atoms()
        atoms.calc = ADAPTCalculator(model)
        atoms.get_forces()
        assert set(atoms.calc.results) == {"forces"}

    def test_energies_of_a_pooled_ensemble(self):
        config = ADAPTEnergyConfig(**TINY, architecture="pairwise", num_vector_channels=8)
        atoms = _atoms()
        models = [ADAPTForEnergy(config) for _ in range(2)]
        alone = []
        for one in models:
            atoms.calc = ADAPTCalculator(one)
            alone.append(atoms.get_potential_energy())
        atoms.calc = ADAPTCalculator(models)
        assert atoms.get_potential_energy() == pytest.approx(np.mean(alone))
        assert atoms.calc.results["energy_std"] == pytest.approx(np.std(alone))

    @pytest.mark.parametrize("count", [0, 49])
    def test_wrong_number_of_images(self, model, count):
        with pytest.raises(InputError, match="there are 1 to 48 symmetry images"):
            ADAPTCalculator(model, num_images=count)

    def test_ensemble_of_both_kinds(self, model):
        config = ADAPTEnergyConfig(**TINY, architecture="pairwise", num_vector_channels=8)
        with pytest.raises(InputError, match="of force models or of pooled energies, not of both"):
            ADAPTCalculator([model, ADAPTForEnergy(config)])


class TestPrecision:
    def test_each_dtype_has_its_own_error_and_none_changes_another(self, model):
        atoms, before = _atoms(), torch.get_default_dtype()
        calculators = {name: ADAPTCalculator(model, dtype=name) for name in DTYPES}
        assert model.dtype == torch.float32
        forces = {name: calculator.get_forces(atoms) for name, calculator in calculators.items()}
        scale = np.abs(forces["float64"]).max()
        assert 0 < np.abs(forces["float32"] - forces["float64"]).max() < 1e-5 * scale
        assert 1e-5 * scale < np.abs(forces["bfloat16"] - forces["float64"]).max() < 0.05 * scale
        assert 1e-5 * scale < np.abs(forces["mixed"] - forces["float64"]).max() < 0.05 * scale
        assert any(np.array_equal(forces["auto"], forces[name]) for name in ("float32", "mixed"))
        rough = {name for name, calculator in calculators.items() if calculator.low_precision}
        assert rough == {"bfloat16", "mixed", "auto"}
        for dtype in (torch.bfloat16, torch.float16):  # as they were saved; minima are not looked for in noise
            assert ADAPTCalculator(copy.deepcopy(model).to(dtype)).low_precision
        assert torch.get_default_dtype() == before
        calculators["float32"].reset()
        assert np.array_equal(calculators["float32"].get_forces(atoms), forces["float32"])

    @pytest.mark.parametrize(("faster", "change", "taken"), [(0, 1, "mixed"), (0, 0, "float32"), (1e9, 1, "float32")])
    def test_auto_takes_mixed_precision_where_it_pays(
        self, make_energy_model, monkeypatch, capsys, faster, change, taken
    ):
        model = make_energy_model(architecture="pairwise")
        monkeypatch.setattr(device.MixedPrecision, "_measured", {})
        monkeypatch.setattr(device, "_FASTER", faster)
        monkeypatch.setattr(device, "_LARGEST_CHANGE", change)
        monkeypatch.setattr(device, "_LARGEST_CHANGE_OF_ENERGIES", 1e9)
        forces = {
            name: ADAPTCalculator(model, dtype=name).get_forces(_atoms()) for name in ("auto", "mixed", "float32")
        }
        assert np.array_equal(forces["auto"], forces[taken])
        assert not np.array_equal(forces["mixed"], forces["float32"])
        said = capsys.readouterr().err
        assert said.count("dtype auto: ADAPTForEnergy runs in " + taken) == 1
        ADAPTCalculator(model, dtype="auto").get_forces(_atoms())  # as was found before
        assert capsys.readouterr().err == ""

    def test_auto_looks_at_energies_and_is_not_misled_by_a_crystal(self, make_energy_model, monkeypatch, capsys):
        """Forces that vanish by symmetry have no size by which a change could be told; minima are told by energies."""
        model, crystal = make_energy_model(architecture="pairwise"), bulk("Si", cubic=True)
        monkeypatch.setattr(device, "_FASTER", 0)
        for largest, taken in ((1e9, "mixed precision"), (1e-9, "float32")):
            monkeypatch.setattr(device.MixedPrecision, "_measured", {})
            monkeypatch.setattr(device, "_LARGEST_CHANGE_OF_ENERGIES", largest)
            ADAPTCalculator(model, dtype="auto").get_forces(crystal)
            assert f"runs in {taken}" in capsys.readouterr().err

    def test_float64_forces_are_the_gradient_of_the_energy(self, make_energy_model):
        atoms = _atoms()
        atoms.calc = ADAPTCalculator(make_energy_model(architecture="pairwise"), dtype="float64")
        numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=[2])
        assert np.abs(atoms.get_forces()[2] - numerical).max() < 1e-7

    def test_what_is_no_model(self, model):
        with pytest.raises(InputError, match="there is no model"):
            ADAPTCalculator([])
        with pytest.raises(InputError, match="a ADAPTForForces gives no energies"):
            ADAPTCalculator(model, energy_model=model)

    def test_unknown_dtype(self, model):
        with pytest.raises(InputError, match="no dtype 'float16' for models; use float32, bfloat16, float64"):
            ADAPTCalculator(model, dtype="float16")
        with pytest.raises(InputError, match="no kernels are made for dtype 'mixed'"):
            ADAPTCalculator(model, dtype="mixed", compiled=True)

    def test_kernels_without_a_compiler(self, model, monkeypatch):
        monkeypatch.setenv("PATH", "")
        monkeypatch.delenv("CXX", raising=False)
        with pytest.raises(InputError, match="no C\\+\\+ compiler.* leave out --compile"):
            ADAPTCalculator(model, compiled=True)

    @pytest.mark.slow  # kernels take a minute to make
    @pytest.mark.parametrize("kind", ["forces", "energy"])
    def test_compiled_models_say_the_same(self, make_force_model, make_energy_model, kind):
        build = make_force_model if kind == "forces" else partial(make_energy_model, architecture="pooled")
        model, atoms = build(architecture="pairwise"), _atoms()
        plain = ADAPTCalculator(copy.deepcopy(model)).get_forces(atoms)
        compiled = ADAPTCalculator(model, compiled=True)
        assert np.abs(compiled.get_forces(atoms) - plain).max() < 1e-5
        larger = atoms * (2, 1, 1)
        assert np.abs(compiled.get_forces(larger) - np.concatenate([plain, plain])).max() < 1e-5


class TestOutsideTheTrainedRegion:
    @pytest.fixture
    def trained(self, model) -> ADAPTForForces:
        trained = copy.deepcopy(model)
        trained.config.training_domain = fit_domain([structure_row(_atoms(), np.zeros((8, 3)))]).to_dict()
        return trained

    def test_raise(self, trained):
        atoms = _atoms()
        atoms.calc = ADAPTCalculator(trained, outside_domain="raise")
        atoms.get_forces()
        atoms.symbols[0] = "Ge"
        with pytest.raises(InputError, match="atom 0 is Ge; training had only C, Si"):
            atoms.get_forces()

    def test_warn_once_for_each_kind(self, trained):
        atoms = _atoms()
        atoms.symbols[0] = "Ge"
        atoms.calc = ADAPTCalculator(trained)
        with pytest.warns(OutsideDomainWarning, match="atom 0 is Ge") as caught:
            for _ in range(3):
                atoms.rattle(0.001)
                atoms.get_forces()
        assert sum("Ge" in str(warning.message) for warning in caught) == 1

    def test_each_structure_is_named_and_warned_of(self, trained):
        calculator = ADAPTCalculator(trained)
        first, second = _atoms(), _atoms()
        first.symbols[0] = second.symbols[1] = "Ge"
        second.info["name"] = "v_Si_0"
        with pytest.warns(OutsideDomainWarning) as caught:
            for atoms in (first, second, first, second):  # as images of one band
                atoms.calc = calculator
                atoms.rattle(0.001)
                atoms.get_forces()
        formula = first.get_chemical_formula()
        assert [str(warning.message).split(" atom ")[0] for warning in caught] == [
            f"{formula} is outside the trained region:",
            f"v_Si_0 ({formula}) is outside the trained region:",
        ]

    def test_python_shows_each(self, trained):
        """As it shows a text only once."""
        calculator = ADAPTCalculator(trained)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for seed in range(3):
                atoms = _atoms()
                atoms.symbols[0] = "Ge"
                atoms.rattle(0.001, seed=seed)
                atoms.calc = calculator
                atoms.get_forces()
        formula = atoms.get_chemical_formula()
        assert [str(one.message).split(" is outside")[0] for one in caught] == [
            *(formula, f"{formula}, structure 2,", f"{formula}, structure 3,")
        ]

    def test_ignore(self, trained, recwarn):
        atoms = _atoms()
        atoms.symbols[0] = "Ge"
        atoms.calc = ADAPTCalculator(trained, outside_domain="ignore")
        atoms.get_forces()
        assert not [warning for warning in recwarn if issubclass(warning.category, OutsideDomainWarning)]

    def test_unknown_word(self, trained):
        with pytest.raises(InputError, match="must be raise, warn or ignore, not 'shout'"):
            ADAPTCalculator(trained, outside_domain="shout")


class TestDynamics:
    def test_direct_forces_warn_once(self, model):
        atoms = _atoms()
        atoms.calc = ADAPTCalculator(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            BFGS(atoms, logfile=None).step()
        with pytest.warns(UserWarning, match="gradient of no energy") as caught:
            options = {"temperature_K": 300, "friction": 0.01, "fixcm": False}
            Langevin(atoms, 1 * units.fs, **options, rng=np.random.default_rng(0)).run(3)
        assert len([one for one in caught if "have momenta" in str(one.message)]) == 1

    def test_a_gradient_does_not(self, make_energy_model):
        atoms = _atoms()
        atoms.set_momenta(np.ones((len(atoms), 3)))
        atoms.calc = ADAPTCalculator(make_energy_model(architecture="pairwise", num_vector_channels=8))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            atoms.get_forces()


class TestAse:
    """What ASE does with a calculator, it does with this one."""

    def test_trajectories_and_databases_keep_the_results(self, model, energy_model, tmp_path):
        atoms = _atoms()
        atoms.calc = ADAPTCalculator(model, energy_model, num_images=4)
        forces, energy = atoms.get_forces(), atoms.get_potential_energy()
        with Trajectory(tmp_path / "x.traj", "w") as trajectory:
            trajectory.write(atoms)
        with connect(tmp_path / "x.db") as database:
            database.write(atoms)
        with Trajectory(tmp_path / "x.traj") as trajectory:
            stored = [trajectory[0], connect(tmp_path / "x.db").get_atoms(id=1)]
        for one in stored:
            assert np.array_equal(one.get_forces(), forces) and one.get_potential_energy() == energy

    def test_optimisers_and_constraints(self, model):
        atoms = _atoms()
        atoms.set_constraint(FixAtoms([0]))
        atoms.calc = ADAPTCalculator(model)
        start = atoms.positions.copy()
        BFGS(atoms, logfile=None).step()
        assert np.array_equal(atoms.positions[0], start[0]) and not np.array_equal(atoms.positions[1], start[1])

    def test_properties_one_by_one(self, model, energy_model):
        calculator = ADAPTCalculator(model, energy_model)
        with pytest.raises(PropertyNotImplementedError):
            calculator.get_property("stress", _atoms())
        assert calculator.get_property("energy", _atoms()).__class__ is float
        assert calculator.get_property("forces", _atoms()).shape == (8, 3)
        assert calculator.get_property("forces", _atoms() * 2, allow_calculation=False) is None
