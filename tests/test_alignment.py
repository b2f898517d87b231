"""The alignment of the training split: what is fitted, and that copies of a structure get its forces."""

import dataclasses
import json
import re

import crystals
import datasets
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from transformers import pipeline

from modeling_adapt import ADAPTConfig, ADAPTEnergyConfig, ADAPTFeatureExtractor
from modeling_adapt.crystal.alignment import Aligner, fit_alignment
from modeling_adapt.crystal.trained_region import TrainingDomain, fit_domain
from modeling_adapt.data.structures import STRUCTURE_FEATURES
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.prediction import predict, structure_of
from modeling_adapt.simulation.relaxation import relax
from modeling_adapt.training.options import RunArguments
from modeling_adapt.training.preparation import prepare_config

STRUCTURES = {
    "perfect": crystals.perfect,
    "vacancy": crystals.vacancy,
    "interstitial": crystals.interstitial,
    "mid plane": crystals.mid_plane,
    "substitution": crystals.substitution,
    "rattled crystal": lambda: crystals.rattled(crystals.perfect()),
    "rattled vacancy": lambda: crystals.rattled(crystals.vacancy()),
}


@pytest.fixture(scope="module")
def domain() -> TrainingDomain:
    return fit_domain(crystals.training_rows(), reads_coordinates=True)


@pytest.fixture(params=["cartesian", "fourier"])
def model(request, make_force_model, domain):
    model = make_force_model(architecture=request.param)
    model.config.training_domain = domain.to_dict()
    return model


def _shifted_and_wrapped(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    crystals.shifted(atoms, rng)
    return crystals.wrapped(atoms, rng)


def _by_a_translation_of_the_host(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    atoms.positions += crystals.EDGE / 4 * np.array([1, 3, 0])
    atoms.wrap()
    return np.eye(3)


def _axes_permuted(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    permutation = np.eye(3)[[2, 0, 1]]
    atoms.set_cell(atoms.cell.array @ permutation)
    atoms.positions = atoms.positions @ permutation
    return permutation


def _all_at_once(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    rotation = crystals.turned(atoms, rng)
    _shifted_and_wrapped(atoms, rng)
    return rotation


COPIES = [
    crystals.shifted,
    crystals.wrapped,
    _shifted_and_wrapped,
    _by_a_translation_of_the_host,
    crystals.turned,
    _axes_permuted,
]
COPIES += [_all_at_once]


@pytest.mark.parametrize("kind", STRUCTURES)
def test_copies_of_a_structure_get_its_forces(model, kind):
    atoms = STRUCTURES[kind]()
    forces = crystals.forces(model, atoms)
    for change in COPIES:
        for seed in range(2):
            copy = atoms.copy()
            rotation = change(copy, np.random.default_rng(seed))
            assert np.abs(crystals.forces(model, copy) - forces @ rotation).max() < 1e-4, change.__name__


def test_without_the_alignment_they_do_not(model):
    shifted = crystals.vacancy()
    shifted.positions += [0.5, 1.0, 1.5]
    assert np.abs(crystals.forces(model, shifted) - crystals.forces(model, crystals.vacancy())).max() < 1e-4
    model.config.training_domain = None
    assert np.abs(crystals.forces(model, shifted) - crystals.forces(model, crystals.vacancy())).max() > 0.01


def test_training_structures_stay_within_a_translation_of_the_crystal(domain):
    """Mapping moves a trained crystal onto itself, and a defect to a place where training had one."""
    assert domain.alignment is not None
    alignment = fit_alignment(
        [crystals.row(crystals.rattled(crystals.vacancy(), seed)) for seed in range(4)]
    )  # all vacancies at one site
    atoms = crystals.rattled(crystals.vacancy(), seed=1)
    (mapped,), (rotation,) = Aligner(alignment)([structure_of(atoms)])
    moved = (mapped["positions"] - atoms.positions) @ np.linalg.inv(atoms.cell.array)
    assert np.abs(moved - np.rint(moved)).max() * crystals.EDGE < 0.1  # that one stays, but for the mean of the noise
    np.testing.assert_allclose(rotation, np.eye(3))
    other = crystals.rattled(crystals.vacancy(site=17), seed=1)
    (mapped,), _ = Aligner(alignment)([structure_of(other)])
    moved = (mapped["positions"] - other.positions) @ np.linalg.inv(other.cell.array)
    step = crystals.PERFECT.positions[9] - crystals.PERFECT.positions[17]
    assert np.abs((moved - step / crystals.EDGE) - np.rint(moved - step / crystals.EDGE)).max() * crystals.EDGE < 0.1


def test_coordinates_begin_where_those_of_training_do(domain):
    assert domain.alignment is not None
    spacing = crystals.EDGE / 8
    seam = np.array(domain.alignment.seam) * crystals.EDGE
    assert ((-spacing < seam) & (seam < -0.2 * spacing)).all()  # atoms of the plane at 0 stay there on either side
    (mapped,), _ = Aligner(domain.alignment)([structure_of(crystals.perfect())])
    assert mapped["positions"].min() > -0.1 and mapped["positions"].max() < crystals.EDGE - spacing / 2
    centred = [row | {"positions": row["positions"] - crystals.EDGE / 2} for row in crystals.training_rows()]
    alignment = fit_alignment(centred)
    assert alignment is not None
    assert np.allclose(np.array(alignment.seam) * crystals.EDGE, seam - crystals.EDGE / 2, atol=0.3 * spacing)


def test_a_candidate_is_no_continuation_of_the_last_one(model):
    """Rattled copies are near each other; the forces of each are those of a calculator that has seen nothing else."""
    calculator = ADAPTCalculator(model, outside_domain="ignore")
    for number in range(4):
        atoms = crystals.vacancy(site=9)
        atoms.rattle(0.1, seed=number)
        atoms.positions += np.random.default_rng(number).uniform(-3, 3, 3)
        alone = ADAPTCalculator(model, outside_domain="ignore").get_forces(atoms)
        assert np.array_equal(calculator.get_forces(atoms), alone)
        start = relax(atoms, calculator, steps=0).atoms
        assert np.array_equal(start.get_forces(), alone)


def test_forces_are_continuous_while_a_defect_migrates_and_the_crystal_drifts(model):
    """A vacancy hops to each of its neighbours; at the end another translation would bring it nearer to training."""
    start = crystals.vacancy(site=9)
    bonds = crystals.PERFECT.get_distances(9, [*range(9), *range(10, 64)], mic=True, vector=True)
    neighbours = np.argsort(np.linalg.norm(bonds, axis=1))[:4]
    path = np.linspace(0, 1, 60)[:, None, None]
    apart = []
    for neighbour in neighbours:
        hop = -bonds[neighbour] * (np.arange(63) == neighbour)[:, None]
        calculator = ADAPTCalculator(model, outside_domain="ignore")
        forces, atoms = [], start.copy()
        for positions in start.positions + path * hop + path * [3.0, 0.9, -1.5]:
            atoms.positions = positions
            atoms.wrap()
            forces.append(calculator.get_property("forces", atoms))
        changes = np.abs(np.diff(forces, axis=0)).max(axis=(1, 2))
        assert changes.max() < 8 * np.median(changes)
        apart.append(np.abs(crystals.forces(model, atoms) - forces[-1]).max() / changes.max())
    assert max(apart) > 5


def test_another_structure_is_not_taken_for_the_last_one(model):
    calculator = ADAPTCalculator(model, outside_domain="ignore")
    for atoms in (
        crystals.vacancy(site=9),
        crystals.vacancy(site=40),
        crystals.interstitial(),
        crystals.vacancy(site=9),
    ):
        np.testing.assert_array_equal(calculator.get_property("forces", atoms), crystals.forces(model, atoms))


def test_symmetry_images_are_mapped_too(model):
    """Inversion carries diamond out of registry with itself; the mapped mean knows no origin."""
    atoms = crystals.rattled(crystals.vacancy())
    forces = predict([model], ADAPTFeatureExtractor(), atoms, num_images=8).forces
    copy = atoms.copy()
    _shifted_and_wrapped(copy, np.random.default_rng(0))
    np.testing.assert_allclose(predict([model], ADAPTFeatureExtractor(), copy, 8).forces, forces, atol=1e-4)
    alone = predict([model], ADAPTFeatureExtractor(), atoms).forces
    assert np.abs(forces - alone).max() > 1e-3


def test_energies_are_those_of_the_mapped_structure(model, make_energy_model, domain):
    energy_model = make_energy_model(max_atoms=70)
    energy_model.config.training_domain = domain.to_dict()
    calculator = ADAPTCalculator(model, energy_model, outside_domain="ignore")
    atoms = crystals.rattled(crystals.vacancy())
    energy = calculator.get_property("energy", atoms)
    for change in COPIES:
        copy = atoms.copy()
        change(copy, np.random.default_rng(0))
        assert calculator.get_property("energy", copy) == pytest.approx(energy, abs=1e-3)


def test_the_pipeline_maps_as_the_calculator_does(model, tmp_path):
    model.save_pretrained(tmp_path)
    ADAPTFeatureExtractor().save_pretrained(tmp_path)
    atoms = crystals.rattled(crystals.vacancy())
    copies = [atoms, atoms.copy(), crystals.rattled(crystals.interstitial())]
    _all_at_once(copies[1], np.random.default_rng(0))
    results = pipeline("atom-forces", model=str(tmp_path), device="cpu")(copies, outside_domain="ignore")
    for copy, result in zip(copies, results, strict=True):
        np.testing.assert_allclose(result["forces"], crystals.forces(model, copy), atol=1e-4)


def test_an_inverted_compound_is_turned_not_shifted_onto_other_elements():
    """Inverted zincblende scatters like zincblende but for the elements, which no shift brings back."""
    crystal = bulk("SiC", "zincblende", a=4.36, cubic=True) * 2
    alignment = fit_alignment([crystals.row(crystal)])
    assert alignment is not None and alignment.elements == ("C", "Si")
    inverted = crystal.copy()
    inverted.positions = -inverted.positions
    (mapped,), _ = Aligner(alignment)([structure_of(inverted)])
    scaled = (mapped["positions"] / crystal.cell.lengths() * 8).round().astype(int) % 8
    places = {tuple(place): number for place, number in zip(scaled, inverted.numbers, strict=True)}
    expected = (crystal.positions / crystal.cell.lengths() * 8).round().astype(int) % 8
    assert all(places[tuple(place)] == number for place, number in zip(expected, crystal.numbers, strict=True))


def test_cell_vectors_in_another_order_are_recognised():
    long = bulk("Si", cubic=True) * (2, 2, 3)
    del long[11]
    alignment = fit_alignment([crystals.row(long)])
    other = long.copy()
    other.positions = other.positions[:, [2, 0, 1]]
    other.set_cell(np.diag(other.cell.lengths()[[2, 0, 1]]))
    mapped, _ = Aligner(alignment)([structure_of(long), structure_of(other)])
    np.testing.assert_allclose(mapped[1]["cell"], mapped[0]["cell"], atol=1e-9)
    distances = [_sorted_distances(one) for one in mapped]
    np.testing.assert_allclose(distances[0], distances[1], atol=1e-6)


def _sorted_distances(structure: dict) -> np.ndarray:
    atoms = Atoms(structure["atomic_numbers"], structure["positions"], cell=structure["cell"], pbc=True)
    return np.sort(atoms.get_all_distances(mic=True), axis=None)


def test_travels_as_json(domain):
    values = json.loads(json.dumps(domain.to_dict()))
    assert TrainingDomain.from_dict(values) == domain
    older = {name: value for name, value in values.items() if name not in ("frame", "local")}
    assert TrainingDomain.from_dict(older) == dataclasses.replace(domain, alignment=None)
    damaged = values | {"frame": values["frame"] | {"phases": [1.0]}}
    with pytest.raises(InputError, match="damaged"):
        TrainingDomain.from_dict(damaged)
    with pytest.raises(InputError, match="damaged"):
        Aligner.of(values | {"frame": {"cell": 3}})


def test_a_split_without_one_crystal_in_one_place_has_no_alignment():
    rng = np.random.default_rng(0)
    rows = crystals.training_rows()

    def with_one(change) -> list[dict]:
        atoms = crystals.perfect()
        change(atoms)
        return [*rows, crystals.row(atoms)]

    assert fit_alignment(rows) is not None
    assert fit_alignment(with_one(lambda atoms: atoms.set_cell(atoms.cell * 1.01, scale_atoms=True))) is None
    assert fit_alignment(with_one(lambda atoms: atoms.set_pbc([True, True, False]))) is None
    assert fit_alignment([row | {"positions": row["positions"] + rng.normal(size=3)} for row in rows]) is None
    gas = Atoms("Si64", rng.uniform(0, crystals.EDGE, (64, 3)), cell=crystals.PERFECT.cell, pbc=True)
    assert fit_alignment([crystals.row(gas)]) is None
    assert fit_alignment([crystals.row(Atoms("Si2", [[0, 0, 0], [2.3, 0, 0]]))]) is None
    assert fit_alignment([]) is None


@pytest.mark.parametrize(
    ("config", "augmentation", "local", "aligned"),
    [
        (ADAPTConfig(architecture="cartesian"), [], False, True),
        (ADAPTConfig(architecture="fourier"), [], False, True),
        (ADAPTConfig(architecture="cartesian"), ["translation"], False, False),
        (ADAPTConfig(architecture="pairwise"), [], True, False),
        (ADAPTEnergyConfig(architecture="pairwise"), [], True, False),
        (ADAPTEnergyConfig(architecture="mlp"), [], False, True),  # reads tokens whatever it says
    ],
)
def test_training_fits_an_alignment_for_models_that_read_coordinates_as_they_are(config, augmentation, local, aligned):
    rows = [row | {"energy": 1.0} for row in crystals.training_rows()]
    train = datasets.Dataset.from_list(rows, features=STRUCTURE_FEATURES)
    config.force_loss = "mse"
    prepare_config(config, RunArguments(dataset="", augmentation=augmentation), {"train": train.with_format("numpy")})
    domain = TrainingDomain.from_dict(config.training_domain)
    assert (domain.local, domain.alignment is not None) == (local, aligned)


def test_what_cannot_be_mapped_stays_as_it_is(domain):
    unmapped = [crystals.perfect() * (2, 1, 1), Atoms("Si", [[1, 2, 3]]), crystals.sheared(crystals.perfect())]
    for atoms in unmapped:
        (mapped,), (rotation,) = Aligner(domain.alignment)([structure_of(atoms)])
        np.testing.assert_array_equal(mapped["positions"], atoms.positions)
        np.testing.assert_array_equal(rotation, np.eye(3))
    mapping = {"atomic_numbers": [14], "positions": [[np.nan, 0, 0]], "cell": crystals.PERFECT.cell.array}
    assert Aligner(domain.alignment)([mapping])[0] == [mapping]


def test_cells_of_trained_size_but_other_crystals_are_noticed(domain):
    (line,) = domain.check(_simple_cubic())
    assert re.search(
        r"the host crystal is not as in training: its diffraction peaks have \d% of the intensity", line
    ), line
    tetragonal = bulk("Si", cubic=True) * (2, 2, 3)
    trained = fit_domain([crystals.row(tetragonal)], reads_coordinates=True)
    cube = crystals.perfect()
    cube.set_cell(cube.cell * 1.5 ** (1 / 3), scale_atoms=True)
    cube = dataclasses.replace(trained, number_of_atoms=(64, 96), volume_per_atom=None).check(cube)
    assert len(cube) == 1 and "training had only one cell, with edges of 10.860, 10.860, 16.290 Å" in cube[0]


def _simple_cubic() -> Atoms:
    """64 atoms in the trained cell, as far apart as in training, but no diamond."""
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3)
    return crystals.rattled(Atoms("Si64", grid * crystals.EDGE / 4, cell=crystals.PERFECT.cell, pbc=True))
