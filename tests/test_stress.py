"""The stress: the derivative of the energy by strain, of architectures that have one, and what cells make of it."""

import copy

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import GPa
from huggingface_hub.errors import StrictDataclassError
from scipy.spatial.transform import Rotation
from transformers import Trainer, TrainingArguments, pipeline

import modeling_adapt.cli.evaluate as evaluate_command
import modeling_adapt.cli.import_structures as import_command
import modeling_adapt.cli.train as train_command
from modeling_adapt import ADAPTEnergyConfig, ADAPTFeatureExtractor
from modeling_adapt.configuration.architectures_adapt import ARCHITECTURES
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.augmentation import augmentation_steps
from modeling_adapt.data.load.batching import StructureCollator, StructureDataset
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.load.survey import survey
from modeling_adapt.data.structures import structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.evaluation.metrics import StressMetrics
from modeling_adapt.modeling_adapt import forces_of
from modeling_adapt.simulation.calculator import ADAPTCalculator

WITH_STRESS = [name for name, known in ARCHITECTURES.items() if known.has_stress]
WITHOUT_STRESS = [name for name, known in ARCHITECTURES.items() if known.has_gradient and not known.has_stress]
TOLERANCE = 1e-4 * GPa


def _cells() -> dict[str, Atoms]:
    rng = np.random.default_rng(5)
    skewed = [[3.9, 0.3, 0.0], [-1.0, 5.0, 0.4], [0.7, 1.2, 6.0]]
    left_handed = [[0.0, 5.0, 0.4], [3.9, 0.3, 0.0], [0.7, 1.2, 6.0]]
    cubic = bulk("Si", cubic=True)
    cubic.rattle(0.1, seed=0)
    outside = cubic.copy()
    outside.positions[::3] += [30.0, -50.0, 20.0] @ outside.cell.array / 10
    compressed = bulk("SiC", "zincblende", 3.9)
    compressed.rattle(0.1, seed=1)
    return {
        "cubic": cubic,
        "atoms outside of the cell": outside,
        "primitive": bulk("Si"),
        "one atom": Atoms("Si", cell=[2.4, 2.5, 2.6], pbc=True),
        "triclinic": Atoms("Si4C", scaled_positions=rng.random((5, 3)), cell=skewed, pbc=True),
        "left-handed": Atoms("Si4C", scaled_positions=rng.random((5, 3)), cell=left_handed, pbc=True),
        "compressed": compressed,
    }


CELLS = _cells()


@pytest.fixture
def make_model(make_energy_model):
    """Function from fields to a model whose energies change by eV where atoms meet, as those of crystals do."""

    def make(architecture="pairwise", **fields):
        scale = {"energy_mean": 0.0, "energy_std": 5.0}
        return make_energy_model(
            architecture=architecture, num_vector_channels=8, pairwise_cutoff=4.0, **scale | fields
        )

    return make


@pytest.fixture(params=WITH_STRESS)
def model(request, make_model):
    return make_model(request.param).double()


def outputs_of(model, structures, **options):
    dtype = "float64" if model.dtype == torch.float64 else "float32"
    with torch.no_grad():
        return model(**ADAPTFeatureExtractor.for_model(model.config)(structures, dtype=dtype), **options)


def stress_of(model, atoms) -> np.ndarray:
    return outputs_of(model, atoms, compute_stress=True).stress[0].numpy()


def deformed(atoms: Atoms, gradient: np.ndarray) -> Atoms:
    """All vectors x become x @ gradient."""
    other = atoms.copy()
    other.set_cell(atoms.cell.array @ gradient)
    other.positions = atoms.positions @ gradient
    return other


def strained(atoms: Atoms, one: int, other: int, size: float) -> Atoms:
    gradient = np.eye(3)
    gradient[one, other] += size / 2
    gradient[other, one] += size / 2
    return deformed(atoms, gradient)


class TestDerivative:
    @pytest.mark.parametrize("name", CELLS)
    def test_it_is_that_of_finite_differences(self, model, name):
        atoms, step = CELLS[name], 1e-4
        found, numerical = stress_of(model, atoms), np.zeros((3, 3))
        for one in range(3):
            for other in range(3):
                ends = [outputs_of(model, strained(atoms, one, other, sign * step)).energy.item() for sign in (1, -1)]
                numerical[one, other] = (ends[0] - ends[1]) / (2 * step) / atoms.get_volume()
        assert np.abs(found).max() > 0.1 * GPa  # there is something to compare
        assert np.abs(found - numerical).max() < TOLERANCE
        np.testing.assert_allclose(found, found.T, atol=1e-14)

    @pytest.mark.parametrize("reflect", [1, -1])
    def test_it_turns_with_the_structure(self, model, reflect):
        for seed, atoms in enumerate(CELLS.values()):
            matrix = reflect * Rotation.random(random_state=seed).as_matrix()
            expected = matrix.T @ stress_of(model, atoms) @ matrix
            np.testing.assert_allclose(stress_of(model, deformed(atoms, matrix)), expected, atol=1e-9)

    def test_it_is_of_the_crystal_not_of_how_it_is_written(self, model):
        atoms = CELLS["triclinic"]
        expected = stress_of(model, atoms)
        shifted, relabelled = atoms.copy(), atoms.copy()
        shifted.positions += [0.3, -7.1, 2.2]
        shifted.positions[2] += 3 * atoms.cell.array[1]
        relabelled.set_cell(np.array([[1, 0, 0], [1, 1, 0], [-2, 1, 1]]) @ atoms.cell.array)
        for other in (shifted, relabelled, atoms.repeat((2, 1, 2)), atoms[[3, 1, 4, 0, 2]]):
            np.testing.assert_allclose(stress_of(model, other), expected, atol=1e-9)

    @pytest.mark.parametrize("scale", [0.9, 1.0, 1.1])
    def test_the_pressure_is_the_slope_of_the_energy_by_the_volume(self, model, scale):
        def energy_and_volume(scale: float) -> tuple[float, float]:
            atoms = deformed(bulk("SiC", "zincblende", 4.36), scale * np.eye(3))
            return outputs_of(model, atoms).energy.item(), atoms.get_volume()

        (high, large), (low, small) = energy_and_volume(scale + 1e-4), energy_and_volume(scale - 1e-4)
        stress = stress_of(model, deformed(bulk("SiC", "zincblende", 4.36), scale * np.eye(3)))
        assert np.trace(stress) / 3 == pytest.approx((high - low) / (large - small), abs=TOLERANCE)
        np.testing.assert_allclose(stress, np.trace(stress) / 3 * np.eye(3), atol=1e-9)  # the crystal is cubic

    def test_float32_is_good_to_a_hundredth_of_gpa(self, model):
        large = CELLS["cubic"].repeat(2)
        exact = stress_of(model, large)
        assert np.abs(stress_of(model.float(), large) - exact).max() < 0.01 * GPa

    def test_its_own_derivative(self, model):
        """By a position, as elastic constants of a relaxed cell and the training need it."""
        atoms = CELLS["triclinic"]
        inputs = ADAPTFeatureExtractor.for_model(model.config)(atoms, dtype="float64")
        inputs["input_features"].requires_grad_()
        (gradient,) = torch.autograd.grad(
            model(**inputs, compute_stress=True).stress[0, 0, 1], inputs["input_features"]
        )
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[2, 1] += sign * 1e-4
            ends.append(stress_of(model, moved)[0, 1])
        assert gradient[0, 2, 1].item() == pytest.approx((ends[0] - ends[1]) / 2e-4, abs=1e-7)


class TestWays:
    """Beside and without forces, in batches, and in all the modes of torch."""

    def test_nothing_else_changes(self, model):
        atoms = CELLS["triclinic"]
        alone, plain = outputs_of(model, atoms, compute_forces=True), outputs_of(model, atoms)
        both = outputs_of(model, atoms, compute_forces=True, compute_stress=True)
        assert alone.stress is None and plain.stress is None and plain.forces is None
        assert torch.equal(both.forces, alone.forces) and torch.equal(both.energy, plain.energy)
        only = outputs_of(model, atoms, compute_stress=True)
        assert only.forces is None and torch.equal(only.stress, both.stress)

    def test_batches_and_structures_without_a_volume(self, model):
        crystals = [CELLS["triclinic"], CELLS["one atom"]]
        slab, molecule = CELLS["cubic"].copy(), CELLS["cubic"].copy()
        slab.pbc = (True, True, False)
        molecule.pbc, molecule.cell = False, None
        together = outputs_of(model, [*crystals, slab, molecule], compute_stress=True).stress.numpy()
        for index, atoms in enumerate(crystals):
            np.testing.assert_allclose(together[index], stress_of(model, atoms), atol=1e-12)
        assert np.isnan(together[2:]).all()
        inputs = dict(ADAPTFeatureExtractor.for_model(model.config)(molecule, dtype="float64"))
        del inputs["cell"]
        assert model(**inputs, compute_stress=True).stress.isnan().all()

    def test_in_inference_mode(self, model):
        atoms = CELLS["triclinic"]
        inputs = ADAPTFeatureExtractor.for_model(model.config)(atoms, dtype="float64")
        with torch.inference_mode():
            found = model(**{name: value.clone() for name, value in inputs.items()}, compute_stress=True).stress
        np.testing.assert_array_equal(found.numpy()[0], stress_of(model, atoms))

    def test_compiled(self, make_model):
        for architecture in WITH_STRESS:
            model = make_model(architecture, num_hidden_layers=1)
            extract = ADAPTFeatureExtractor.for_model(model.config)
            torch._dynamo.reset()
            graph = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
            for structures in ([CELLS["triclinic"], CELLS["cubic"]], [CELLS["primitive"], CELLS["cubic"]]):
                expected = outputs_of(model, structures, compute_forces=True, compute_stress=True)
                with torch.no_grad():
                    found = graph(**extract(structures), compute_forces=True, compute_stress=True)
                assert (found.stress - expected.stress).abs().max() < 1e-5
                assert torch.allclose(found.forces[0, :2], expected.forces[0, :2], atol=1e-4)

    def test_energies_of_the_atoms(self, make_energy_model):
        references = {"Si": -5.4, "C": -9.1}
        for architecture in [*WITH_STRESS, *WITHOUT_STRESS]:
            model = make_energy_model(architecture=architecture, element_energies=references).double()
            found = outputs_of(model, [CELLS["triclinic"], CELLS["cubic"]])
            assert found.energies.shape == (2, 8) and not found.energies[0, 5:].any()
            assert torch.allclose(found.energies.sum(dim=1), found.energy, rtol=1e-12)
        assert outputs_of(make_energy_model(), CELLS["cubic"]).energies is None


class TestArchitecturesWithout:
    """Their energies have a derivative by strain, but none that means a stress, so it is refused."""

    @pytest.mark.parametrize("architecture", WITHOUT_STRESS)
    def test_it_is_refused(self, make_energy_model, architecture):
        model = make_energy_model(architecture=architecture)
        with pytest.raises(ValueError, match=f"the energy of architecture '{architecture}' knows no strain"):
            outputs_of(model, CELLS["cubic"], compute_stress=True)
        atoms = CELLS["cubic"].copy()
        atoms.calc = ADAPTCalculator(model)
        atoms.get_forces()
        assert atoms.calc.results["energies"].sum() == pytest.approx(atoms.get_potential_energy())
        with pytest.raises(PropertyNotImplementedError, match="this model has no stress, and relaxes no cell"):
            atoms.get_stress()
        with pytest.raises(StrictDataclassError, match="does not read stress_weight"):
            ADAPTEnergyConfig(architecture=architecture, stress_weight=1.0)

    def test_why(self, make_energy_model):
        atoms = CELLS["cubic"]
        energy = {}
        for name in ("cartesian", "fourier"):
            model = make_energy_model(architecture=name).double()
            wrapped = atoms.copy()
            wrapped.positions[3] += atoms.cell.array[0]
            others = (deformed(atoms, 1.05 * np.eye(3)), wrapped)
            energy[name] = [outputs_of(model, one).energy.item() for one in (atoms, *others)]
        assert energy["fourier"] == pytest.approx([energy["fourier"][0]] * 3, abs=1e-9)  # no strain is seen
        assert abs(energy["cartesian"][2] - energy["cartesian"][0]) > 1e-3  # nor is this energy one of the crystal


def _copper(seed: int) -> Atoms:
    """Strained and shaken copper of the effective medium theory."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", a=3.6) * ((2, 1, 1) if seed % 2 else (1, 1, 1))
    strain = rng.uniform(-0.06, 0.08) * np.eye(3) + rng.normal(scale=0.03, size=(3, 3))
    atoms = deformed(atoms, np.eye(3) + strain)
    atoms.rattle(0.08, seed=seed)
    atoms.calc = EMT()
    return atoms


def _row(atoms: Atoms, stress: bool = True, **more):
    labels = {"stress": atoms.get_stress(voigt=False)} if stress else {}
    return structure_row(atoms, atoms.get_forces(), atoms.get_potential_energy(), **labels, **more)


@pytest.fixture(scope="module")
def copper(tmp_path_factory) -> str:
    """A data set; one structure of four has no stress."""
    rows = [
        _row(_copper(seed), seed % 4 != 3, trajectory=f"t{seed}", config_type="pair" if seed % 2 else "one")
        for seed in range(20)
    ]
    folder = tmp_path_factory.mktemp("data") / "copper"
    write_dataset({"train": rows[:16], "validation": rows[16:]}, folder)
    return str(folder)


@pytest.fixture
def copper_model(make_energy_model):
    return make_energy_model(
        architecture="pairwise", pairwise_cutoff=4.5, num_hidden_layers=1, num_vector_channels=8, hidden_act="silu",
        element_energies={"Cu": 0.14}, energy_mean=0.0, energy_std=0.08, force_std=(0.9,) * 3, stress_weight=0.1,
    )  # fmt: skip


def _batch(model, rows):
    batch = StructureCollator(ADAPTFeatureExtractor.for_model(model.config), "energy_and_forces", stress=True)(rows)
    return {name: value for name, value in batch.items() if name not in ("importance_weights", "nearest_defect")}


@pytest.fixture
def learned(copper_model, copper):
    """The errors of the stress in GPa before and after a short training, and the model."""
    batch = _batch(copper_model, list(read_split(copper, "train")))
    known = batch["reference_stress"] != -100
    optimizer = torch.optim.Adam(copper_model.parameters(), lr=8e-3)
    errors = []
    for _ in range(60):
        output = copper_model(**batch)
        errors.append(((output.stress - batch["reference_stress"])[known].abs().mean() / GPa).item())
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(copper_model.parameters(), 1.0)
        optimizer.step()
    return errors[0], errors[-1], copper_model


class TestLearning:
    def test_the_loss_is_what_the_configuration_says(self, make_model):
        model = make_model(stress_weight=3.0).double()
        slab = CELLS["cubic"].copy()
        slab.pbc = (True, True, False)
        structures = [CELLS["triclinic"], CELLS["primitive"], CELLS["compressed"], slab]
        inputs = ADAPTFeatureExtractor.for_model(model.config)(structures, dtype="float64")
        labels = torch.tensor([1.0, 2.0, -100.0, 3.0]).double()
        reference = torch.full((4, 3, 3), -100.0).double()
        reference[0], reference[2], reference[3] = 0.01 * torch.eye(3), 7.0, 0.02
        alone = model(**inputs, labels=labels).loss
        output = model(**inputs, labels=labels, reference_stress=reference)
        assert output.forces is None and output.stress.shape == (4, 3, 3)
        in_ev = (output.stress[0] - reference[0]) * CELLS["triclinic"].get_volume() / 5
        expected = 3.0 * (in_ev / model.energy_normalizer.scale.numbers[0]).square().mean() / 3
        assert torch.allclose(output.loss - alone, expected, rtol=1e-9)
        output.loss.backward()
        assert all(bool(weight.grad.isfinite().all()) for weight in model.parameters())

    def test_without_a_weight_nothing_is_learned_or_computed(self, make_model):
        model = make_model()
        inputs = ADAPTFeatureExtractor.for_model(model.config)(CELLS["primitive"])
        output = model(**inputs, labels=torch.zeros(1), reference_stress=torch.ones(1, 3, 3))
        assert output.stress is None and output.loss == model(**inputs, labels=torch.zeros(1)).loss
        with pytest.raises(StrictDataclassError, match="stress_weight must not be negative"):
            make_model(stress_weight=-1.0)

    def test_every_weight_learns_by_the_stress_alone(self, copper_model, copper):
        batch = _batch(copper_model, list(read_split(copper, "train").select([0])))
        loss = copper_model(**batch).loss - copper_model(**{**batch, "reference_stress": None}).loss
        loss.backward()
        idle = [name for name, weight in copper_model.named_parameters() if not weight.grad.any()]
        # An energy of its own for every atom has no slope.
        assert idle == ["energy_head.layers.2.bias"]

    def test_the_error_falls_and_the_cell_relaxes_to_that_of_the_data(self, learned):
        before, after, model = learned
        assert after < 0.3 * before
        atoms = bulk("Cu", cubic=True, a=3.75)
        atoms.rattle(0.05, seed=0)
        atoms.calc = ADAPTCalculator(model, dtype="float64")
        assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=100)
        assert np.abs(atoms.get_stress()).max() < 0.05 * GPa
        reference = bulk("Cu", cubic=True, a=3.75)
        reference.calc = EMT()
        BFGS(FrechetCellFilter(reference), logfile=None).run(fmax=1e-3, steps=100)
        assert atoms.get_volume() == pytest.approx(reference.get_volume(), rel=0.05)
        self._torch_sim(model, atoms)

    @staticmethod
    def _torch_sim(model, relaxed):
        """Its cells relax to the same place."""
        ts = pytest.importorskip("torch_sim", minversion="0.6", reason="torch-sim is an optional extra")
        from modeling_adapt.simulation.batched import ADAPTTorchSimModel

        starts = [bulk("Cu", cubic=True, a=3.75), bulk("Cu", a=3.5)]
        wrapper = ADAPTTorchSimModel(copy.deepcopy(model).double())
        final = ts.optimize(
            starts,
            wrapper,
            optimizer=ts.Optimizer.fire,
            convergence_fn=ts.generate_force_convergence_fn(1e-3, include_cell_forces=True),
            init_kwargs={"cell_filter": ts.CellFilter.frechet},
            max_steps=300,
        )
        volumes = final.volume.cpu().numpy() / [4, 1]
        np.testing.assert_allclose(volumes, relaxed.get_volume() / 4, rtol=1e-3)

    def test_a_plain_trainer(self, copper_model, copper, tmp_path):
        rows = read_split(copper, "train")
        arguments = TrainingArguments(
            str(tmp_path), max_steps=2, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no"
        )
        collator = StructureCollator(
            ADAPTFeatureExtractor.for_model(copper_model.config), "energy_and_forces", stress=True
        )
        trainer = Trainer(copper_model, arguments, train_dataset=rows, eval_dataset=rows, data_collator=collator)
        trainer.train()
        assert np.isfinite(trainer.evaluate()["eval_loss"])
        shapes = [np.shape(one) for one in trainer.predict(rows).predictions]
        assert shapes == [(16,), (16, 2, 3), (16, 3, 3)]  # the energies of atoms are nothing that is measured

    @pytest.mark.parametrize("force_weight", [10.0, 0.0])
    def test_the_commands(self, copper, recipe, tmp_path, force_weight, capsys):
        output = tmp_path / "run"
        fields = {"model": "pairwise-energy", "num_vector_channels": 8, "force_weight": force_weight}
        fields |= {"learning_rate": 0.01, "stress_weight": 0.1, "num_train_epochs": 6, "dataset": copper}
        path = recipe(**fields, output_dir=str(output))
        train_command.main([path])
        history = [line for line in (output / "metrics.csv").read_text().splitlines() if line]
        column = history[0].split(",").index("eval_stress_mae_gpa")
        errors = [float(line.split(",")[column]) for line in history[1:] if line.split(",")[column]]
        assert errors[-1] < errors[0]
        assert f"stress MAE {errors[-1]:.3f} GPa (zero stress " in "".join(capsys.readouterr())
        evaluate_command.main([str(output), copper, "--split", "validation", "--checks", "0"])
        printed = capsys.readouterr().out
        assert "stress in GPa" in printed and f"{errors[-1]:.3f}" in printed and "zero-stress MAE" in printed

    def test_data_without_a_stress_are_refused(self, springs, recipe, tmp_path):
        path = recipe(model="pairwise-energy", stress_weight=1.0, dataset=springs, output_dir=str(tmp_path / "run"))
        with pytest.raises(InputError, match="stress_weight: no structure of the training split has a stress"):
            train_command.main([path])


def test_errors_are_of_what_is_known():
    stress, labels = np.zeros((3, 3, 3)), np.full((3, 3, 3), -100.0)
    labels[0] = 2 * GPa * np.eye(3)
    stress[0, 0, 1] = stress[0, 1, 0] = GPa
    labels[2], stress[2] = 1.0, np.nan  # of a slab
    metrics = StressMetrics()
    assert metrics.update(stress, labels, ["a", "b", "b"]) is None and not metrics.empty
    found = metrics.compute(by_config_type=False)
    assert found["num_stresses"] == 1
    assert found["stress_mae_gpa"] == pytest.approx(8 / 9)
    assert found["stress_rmse_gpa"] == pytest.approx((14 / 9) ** 0.5)
    assert found["zero_stress_mae_gpa"] == pytest.approx(6 / 9) and found["pressure_mae_gpa"] == pytest.approx(2.0)


class TestData:
    def test_rows_keep_it(self, copper):
        rows = read_split(copper, "train")
        expected = _copper(1).get_stress(voigt=False)
        np.testing.assert_array_equal(rows[1]["stress"], expected)
        assert rows[3]["stress"] is None
        found = survey(rows)
        assert found.stressed.tolist() == [row["stress"] is not None for row in rows]
        items = StructureDataset(rows).__getitems__([1, 3])
        np.testing.assert_array_equal(items[0]["stress"], expected)
        assert items[1]["stress"] is None
        assert len(read_split(copper, "train", "stress")) == 12

    def test_data_without_it_are_the_same_as_before(self, springs):
        rows = read_split(springs, "train")
        assert not survey(rows).stressed.any()
        assert survey(rows).content_hash == survey(_as_written_before(rows)).content_hash

    def test_it_tells_data_apart(self, copper):
        rows = read_split(copper, "train").select(range(4))
        other = rows.map(lambda row: row | {"stress": None}, features=rows.features)
        assert survey(rows).content_hash != survey(other).content_hash

    @pytest.mark.parametrize(
        ("stress", "message"),
        [
            (np.ones((2, 3)), "the stress is no matrix of 3 x 3"),
            (np.full((3, 3), np.nan), "the stress holds a value that is not a finite number"),
        ],
    )
    def test_bad_ones_are_named(self, stress, message):
        with pytest.raises(InputError, match=message):
            structure_row(bulk("Cu"), np.zeros((1, 3)), stress=stress)

    def test_a_slab_has_none(self):
        slab = bulk("Cu")
        slab.pbc = (True, True, False)
        with pytest.raises(InputError, match="a stress of a structure that is not periodic"):
            structure_row(slab, np.zeros((1, 3)), stress=np.eye(3))

    @pytest.mark.parametrize("steps", [["rotation", "inversion"], ["octahedral", "translation"]])
    def test_augmentation_turns_it(self, model, steps):
        atoms = CELLS["cubic"]
        row = structure_row(atoms, np.zeros((8, 3)), stress=stress_of(model, atoms))
        item = {name: np.asarray(row[name]) for name in ("atomic_numbers", "cell", "pbc", "forces", "stress")}
        item["positions"] = atoms.positions
        rng = np.random.default_rng(0)
        for step in augmentation_steps(steps):
            item = step(item, rng)
        turned = Atoms(item["atomic_numbers"], item["positions"], cell=item["cell"], pbc=True)
        assert np.abs(item["stress"] - row["stress"]).max() > 0.01 * GPa
        np.testing.assert_allclose(item["stress"], stress_of(model, turned), atol=1e-9)


def _as_written_before(rows):
    """With the column as it is filled in where a data set lacks it."""
    bare = rows.remove_columns("stress")
    return bare.add_column("stress", [None] * len(rows), feature=rows.features["stress"])


class TestImport:
    @staticmethod
    def _imported(tmp_path, frames, *options):
        ase.io.write(tmp_path / "in.extxyz", frames, write_results=False)
        import_command.main(
            [str(tmp_path / "in.extxyz"), str(tmp_path / "set"), "--split", "train", "--host", "none", *options]
        )
        return [row["stress"] for row in read_split(tmp_path / "set", "train")]

    @staticmethod
    def _frame(seed: int = 1, **info) -> Atoms:
        atoms = _copper(seed)
        bare = atoms.copy()
        bare.arrays["REF_forces"] = atoms.get_forces()
        bare.info |= {"REF_energy": atoms.get_potential_energy(), **info}
        return bare

    def test_results_of_ase(self, tmp_path):
        atoms = _copper(1)
        expected = atoms.get_stress(voigt=False)
        atoms.get_forces()
        ase.io.write(tmp_path / "in.traj", atoms)
        import_command.main([str(tmp_path / "in.traj"), str(tmp_path / "set"), "--host", "none"])
        np.testing.assert_allclose(read_split(tmp_path / "set", "train")[0]["stress"], expected, atol=1e-12)

    @pytest.mark.parametrize("form", ["matrix", "voigt", "virial", "of ASE", "flat"])
    def test_keys_of_extended_xyz(self, tmp_path, form):
        atoms = _copper(1)
        stress = atoms.get_stress(voigt=False)
        info = {
            "matrix": {"REF_stress": stress, "stress": 2 * stress},  # a model's, perhaps
            "voigt": {"dft_stress": full_3x3_to_voigt_6_stress(stress)},
            "virial": {"virial": -atoms.get_volume() * stress},
            "of ASE": {"stress": stress},
            "flat": {"REF_stress": stress.ravel()},
        }[form]
        (found,) = self._imported(tmp_path, [self._frame(**info)])
        np.testing.assert_allclose(found, stress, atol=1e-7)

    def test_another_key_and_none(self, tmp_path):
        stress = _copper(1).get_stress(voigt=False)
        frame = self._frame(mine=stress, my_virial=stress, stress=2 * stress)
        for number, (options, expected) in enumerate(
            [
                (["--stress-key", "mine"], stress),
                (["--stress-key", "my_virial"], -stress / frame.get_volume()),
                (["--stress-key", "none"], None),
            ]
        ):
            (tmp_path / str(number)).mkdir()
            (found,) = self._imported(tmp_path / str(number), [frame], *options)
            assert found is None if expected is None else np.allclose(found, expected, atol=1e-7)

    def test_slabs_and_frames_without_one_have_none(self, tmp_path):
        slab = self._frame(REF_stress=np.eye(3))
        slab.pbc = (True, True, False)
        assert self._imported(tmp_path, [slab, self._frame()]) == [None, None]

    @pytest.mark.parametrize(
        ("stress", "message"),
        [
            (100 * np.eye(3), r"'REF_stress' comes to 16022 GPa; it must be in eV/Å³; name the right one"),
            (np.triu(np.ones((3, 3))), "'REF_stress' is not symmetric"),
            ("unknown", "'REF_stress' is no stress of 3 x 3 or 6 numbers"),
        ],
    )
    def test_what_is_no_stress_is_refused(self, tmp_path, stress, message):
        with pytest.raises(InputError, match=message):
            self._imported(tmp_path, [self._frame(REF_stress=stress)])


class TestSimulation:
    def test_the_calculator_has_it_in_the_order_of_voigt(self, model):
        atoms = CELLS["triclinic"].copy()
        atoms.calc = ADAPTCalculator(model)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), stress_of(model, atoms), atol=1e-12)
        assert atoms.get_stress().shape == (6,)
        assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
        assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())
        assert np.abs(calculate_numerical_stress(atoms) - atoms.get_stress()).max() < TOLERANCE

    def test_it_is_computed_once_it_was_asked_for(self, model, monkeypatch):
        asked = []

        def counted(model, compute_stress=False, **inputs):
            asked.append(compute_stress)
            return forces_of(model, compute_stress, **inputs)

        monkeypatch.setattr("modeling_adapt.simulation.prediction.forces_of", counted)
        atoms = CELLS["triclinic"].copy()
        atoms.calc = ADAPTCalculator(model)
        atoms.get_forces()
        atoms.get_stress()
        atoms.positions[0] += 0.01
        atoms.get_forces()
        atoms.get_stress()
        assert asked == [False, True, True]

    def test_of_several_models_and_images_it_is_the_mean(self, make_model):
        models = [make_model(seed=seed).double() for seed in (0, 1)]
        atoms = CELLS["triclinic"].copy()
        atoms.calc = ADAPTCalculator(models, num_images=3)
        expected = np.mean([stress_of(one, atoms) for one in models], axis=0)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), expected, atol=1e-9)

    def test_a_slab_is_refused(self, model):
        slab = CELLS["cubic"].copy()
        slab.pbc = (True, True, False)
        slab.calc = ADAPTCalculator(model)
        slab.get_forces()
        with pytest.raises(PropertyNotImplementedError, match="periodic in all three directions"):
            slab.get_stress()

    def test_a_gpu_is_taken_where_there_is_one(self, model, monkeypatch):
        asked = []
        monkeypatch.setattr(
            "modeling_adapt.simulation.calculator.available_device",
            lambda name: asked.append(name) or torch.device("cpu"),
        )
        (
            ADAPTCalculator(model),
            ADAPTCalculator(model, device="cpu"),
            ADAPTCalculator(model, device=torch.device("cpu")),
        )
        assert asked == [None, "cpu", "cpu"]

    def test_torch_sim_says_what_the_calculator_says(self, model, make_energy_model, make_force_model):
        ts = pytest.importorskip("torch_sim", minversion="0.6", reason="torch-sim is an optional extra")
        from modeling_adapt.simulation.batched import ADAPTTorchSimModel

        structures = [CELLS[name] for name in ("triclinic", "cubic", "one atom")]
        wrapper = ADAPTTorchSimModel(model)
        assert wrapper.compute_stress
        found = wrapper(ts.io.atoms_to_state(structures, wrapper.device, wrapper.dtype))["stress"].numpy()
        for stress, atoms in zip(found, structures, strict=True):
            one = atoms.copy()
            one.calc = ADAPTCalculator(model)
            np.testing.assert_allclose(stress, one.get_stress(voigt=False), atol=1e-9)
        assert not ADAPTTorchSimModel(model, compute_stress=False).compute_stress
        for other in (make_force_model(), make_energy_model(architecture="fourier")):
            assert not ADAPTTorchSimModel(other).compute_stress
            with pytest.raises(InputError, match="the model has no stress"):
                ADAPTTorchSimModel(other, compute_stress=True)

    def test_the_pipeline_tells_it(self, make_model):
        model = make_model()
        molecule = CELLS["cubic"].copy()
        molecule.pbc, molecule.cell = False, None
        answer = pipeline("atom-forces", model=model, feature_extractor=ADAPTFeatureExtractor.for_model(model.config))
        crystal, isolated = answer([CELLS["triclinic"], molecule])
        np.testing.assert_allclose(crystal["stress"], stress_of(model, CELLS["triclinic"]), atol=1e-6)
        assert crystal["energies"].shape == (5,) and crystal["energies"].sum() == pytest.approx(crystal["energy"])
        assert "stress" not in isolated and isolated["energies"].shape == (8,)
