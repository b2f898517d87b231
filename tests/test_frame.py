"""The trained frame: what is fitted, that copies of a structure get its forces, and what foreign input comes to."""

import dataclasses
import json
import re

import datasets
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from scipy.spatial.transform import Rotation
from transformers import pipeline

from modeling_adapt import ADAPTConfig, ADAPTEnergyConfig, ADAPTFeatureExtractor
from modeling_adapt.data.structures import STRUCTURE_FEATURES, structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.domain import TrainingDomain, fit_domain
from modeling_adapt.simulation.frame import FrameFinder, fit_frame
from modeling_adapt.simulation.prediction import predict, structure_of
from modeling_adapt.simulation.relaxation import relax
from modeling_adapt.training.arguments import RunArguments
from modeling_adapt.training.preparation import prepare_config

PERFECT = bulk("Si", cubic=True) * 2
EDGE = PERFECT.cell.array[0, 0]
TETRAHEDRAL = np.full(3, EDGE / 4)  # an interstitial site of silicon, on a lattice plane along each edge


def _perfect() -> Atoms:
    return PERFECT.copy()


def _vacancy(site: int = 9) -> Atoms:
    atoms = PERFECT.copy()
    del atoms[site]
    return atoms


def _interstitial() -> Atoms:
    return PERFECT + Atoms("Si", [TETRAHEDRAL])


def _mid_plane() -> Atoms:
    """A hexagonal interstitial, half way between two lattice planes."""
    return PERFECT + Atoms("Si", [EDGE / 2 * np.array([5, 3, 3]) / 8])


def _substitution() -> Atoms:
    atoms = PERFECT.copy()
    atoms.symbols[5] = "C"
    return atoms


def _rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    """Noise carries atoms of the plane at 0 to both sides of the boundary."""
    atoms.rattle(0.08, seed=seed)
    return atoms


STRUCTURES = {
    "perfect": _perfect,
    "vacancy": _vacancy,
    "interstitial": _interstitial,
    "mid plane": _mid_plane,
    "substitution": _substitution,
    "rattled crystal": lambda: _rattled(_perfect()),
    "rattled vacancy": lambda: _rattled(_vacancy()),
}


def _row(atoms: Atoms) -> dict:
    return structure_row(atoms, np.zeros((len(atoms), 3)))


def _training_rows() -> list[dict]:
    makers = (_perfect, _vacancy, _interstitial, _substitution)
    rows = [_row(_rattled(make(), seed)) for seed, make in enumerate(makers)]
    return [*rows, _row(_perfect()), _row(_mid_plane())]


@pytest.fixture(scope="module")
def domain() -> TrainingDomain:
    return fit_domain(_training_rows(), reads_coordinates=True)


@pytest.fixture(params=["cartesian", "fourier"])
def model(request, make_force_model, domain):
    model = make_force_model(geometry=request.param)
    model.config.training_domain = domain.to_dict()
    return model


def _forces(model, atoms: Atoms) -> np.ndarray:
    """Of a fresh calculator, which has seen nothing before."""
    return ADAPTCalculator(model, outside_domain="ignore").get_property("forces", atoms)


def _shifted(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    atoms.positions += rng.normal(scale=5, size=3)
    return np.eye(3)


def _wrapped(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    """Every atom into the cell, then some of them far out of it."""
    atoms.wrap()
    atoms.positions += rng.integers(-2, 3, size=(len(atoms), 3)) @ atoms.cell.array
    return np.eye(3)


def _shifted_and_wrapped(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    _shifted(atoms, rng)
    return _wrapped(atoms, rng)


def _by_a_translation_of_the_host(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    atoms.positions += EDGE / 4 * np.array([1, 3, 0])
    atoms.wrap()
    return np.eye(3)


def _turned(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    rotation = Rotation.random(None, rng).as_matrix()
    atoms.set_cell(atoms.cell.array @ rotation)
    atoms.positions = atoms.positions @ rotation
    return rotation


def _axes_permuted(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    permutation = np.eye(3)[[2, 0, 1]]
    atoms.set_cell(atoms.cell.array @ permutation)
    atoms.positions = atoms.positions @ permutation
    return permutation


def _all_at_once(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    rotation = _turned(atoms, rng)
    _shifted_and_wrapped(atoms, rng)
    return rotation


COPIES = [_shifted, _wrapped, _shifted_and_wrapped, _by_a_translation_of_the_host, _turned, _axes_permuted]
COPIES += [_all_at_once]


@pytest.mark.parametrize("kind", STRUCTURES)
def test_copies_of_a_structure_get_its_forces(model, kind):
    atoms = STRUCTURES[kind]()
    forces = _forces(model, atoms)
    for change in COPIES:
        for seed in range(2):
            copy = atoms.copy()
            rotation = change(copy, np.random.default_rng(seed))
            assert np.abs(_forces(model, copy) - forces @ rotation).max() < 1e-4, change.__name__


def test_without_the_frame_they_do_not(model):
    shifted = _vacancy()
    shifted.positions += [0.5, 1.0, 1.5]
    assert np.abs(_forces(model, shifted) - _forces(model, _vacancy())).max() < 1e-4
    model.config.training_domain = None
    assert np.abs(_forces(model, shifted) - _forces(model, _vacancy())).max() > 0.01


def test_training_structures_stay_within_a_translation_of_the_crystal(domain):
    """Mapping moves a trained crystal onto itself, and a defect to a place where training had one."""
    assert domain.frame is not None
    frame = fit_frame([_row(_rattled(_vacancy(), seed)) for seed in range(4)])  # all vacancies at one site
    atoms = _rattled(_vacancy(), seed=1)
    (mapped,), (rotation,) = FrameFinder(frame)([structure_of(atoms)])
    moved = (mapped["positions"] - atoms.positions) @ np.linalg.inv(atoms.cell.array)
    assert np.abs(moved - np.rint(moved)).max() * EDGE < 0.1  # that one stays, but for the mean of the noise
    np.testing.assert_allclose(rotation, np.eye(3))
    other = _rattled(_vacancy(site=17), seed=1)
    (mapped,), _ = FrameFinder(frame)([structure_of(other)])
    moved = (mapped["positions"] - other.positions) @ np.linalg.inv(other.cell.array)
    step = PERFECT.positions[9] - PERFECT.positions[17]
    assert np.abs((moved - step / EDGE) - np.rint(moved - step / EDGE)).max() * EDGE < 0.1


def test_coordinates_begin_where_those_of_training_do(domain):
    assert domain.frame is not None
    spacing = EDGE / 8
    seam = np.array(domain.frame.seam) * EDGE
    assert ((-spacing < seam) & (seam < -0.2 * spacing)).all()  # atoms of the plane at 0 stay there on either side
    (mapped,), _ = FrameFinder(domain.frame)([structure_of(_perfect())])
    assert mapped["positions"].min() > -0.1 and mapped["positions"].max() < EDGE - spacing / 2
    centred = [row | {"positions": row["positions"] - EDGE / 2} for row in _training_rows()]
    frame = fit_frame(centred)
    assert frame is not None
    assert np.allclose(np.array(frame.seam) * EDGE, seam - EDGE / 2, atol=0.3 * spacing)


def test_a_candidate_is_no_continuation_of_the_last_one(model):
    """Rattled copies are near each other; the forces of each are those of a calculator that has seen nothing else."""
    calculator = ADAPTCalculator(model, outside_domain="ignore")
    for number in range(4):
        atoms = _vacancy(site=9)
        atoms.rattle(0.1, seed=number)
        atoms.positions += np.random.default_rng(number).uniform(-3, 3, 3)
        alone = ADAPTCalculator(model, outside_domain="ignore").get_forces(atoms)
        assert np.array_equal(calculator.get_forces(atoms), alone)
        start = relax(atoms, calculator, steps=0).atoms
        assert np.array_equal(start.get_forces(), alone)


def test_forces_are_continuous_while_a_defect_migrates_and_the_crystal_drifts(model):
    """A vacancy hops to each of its neighbours; at the end another translation would bring it nearer to training."""
    start = _vacancy(site=9)
    bonds = PERFECT.get_distances(9, [*range(9), *range(10, 64)], mic=True, vector=True)
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
        apart.append(np.abs(_forces(model, atoms) - forces[-1]).max() / changes.max())
    assert max(apart) > 5


def test_another_structure_is_not_taken_for_the_last_one(model):
    calculator = ADAPTCalculator(model, outside_domain="ignore")
    for atoms in (_vacancy(site=9), _vacancy(site=40), _interstitial(), _vacancy(site=9)):
        np.testing.assert_array_equal(calculator.get_property("forces", atoms), _forces(model, atoms))


def test_symmetry_images_are_mapped_too(model):
    """Inversion carries diamond out of registry with itself; the mapped mean knows no origin."""
    atoms = _rattled(_vacancy())
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
    atoms = _rattled(_vacancy())
    energy = calculator.get_property("energy", atoms)
    for change in COPIES:
        copy = atoms.copy()
        change(copy, np.random.default_rng(0))
        assert calculator.get_property("energy", copy) == pytest.approx(energy, abs=1e-3)


def test_the_pipeline_maps_as_the_calculator_does(model, tmp_path):
    model.save_pretrained(tmp_path)
    ADAPTFeatureExtractor().save_pretrained(tmp_path)
    atoms = _rattled(_vacancy())
    copies = [atoms, atoms.copy(), _rattled(_interstitial())]
    _all_at_once(copies[1], np.random.default_rng(0))
    results = pipeline("atom-forces", model=str(tmp_path), device="cpu")(copies, outside_domain="ignore")
    for copy, result in zip(copies, results, strict=True):
        np.testing.assert_allclose(result["forces"], _forces(model, copy), atol=1e-4)


def test_an_inverted_compound_is_turned_not_shifted_onto_other_elements():
    """Inverted zincblende scatters like zincblende but for the elements, which no shift brings back."""
    crystal = bulk("SiC", "zincblende", a=4.36, cubic=True) * 2
    frame = fit_frame([_row(crystal)])
    assert frame is not None and frame.elements == ("C", "Si")
    inverted = crystal.copy()
    inverted.positions = -inverted.positions
    (mapped,), _ = FrameFinder(frame)([structure_of(inverted)])
    scaled = (mapped["positions"] / crystal.cell.lengths() * 8).round().astype(int) % 8
    places = {tuple(place): number for place, number in zip(scaled, inverted.numbers, strict=True)}
    expected = (crystal.positions / crystal.cell.lengths() * 8).round().astype(int) % 8
    assert all(places[tuple(place)] == number for place, number in zip(expected, crystal.numbers, strict=True))


def test_cell_vectors_in_another_order_are_recognised():
    long = bulk("Si", cubic=True) * (2, 2, 3)
    del long[11]
    frame = fit_frame([_row(long)])
    other = long.copy()
    other.positions = other.positions[:, [2, 0, 1]]
    other.set_cell(np.diag(other.cell.lengths()[[2, 0, 1]]))
    mapped, _ = FrameFinder(frame)([structure_of(long), structure_of(other)])
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
    assert TrainingDomain.from_dict(older) == dataclasses.replace(domain, frame=None)
    damaged = values | {"frame": values["frame"] | {"phases": [1.0]}}
    with pytest.raises(InputError, match="damaged"):
        TrainingDomain.from_dict(damaged)
    with pytest.raises(InputError, match="damaged"):
        FrameFinder.of(values | {"frame": {"cell": 3}})


def test_a_split_without_one_crystal_in_one_place_has_no_frame():
    rng = np.random.default_rng(0)
    rows = _training_rows()

    def with_one(change) -> list[dict]:
        atoms = _perfect()
        change(atoms)
        return [*rows, _row(atoms)]

    assert fit_frame(rows) is not None
    assert fit_frame(with_one(lambda atoms: atoms.set_cell(atoms.cell * 1.01, scale_atoms=True))) is None
    assert fit_frame(with_one(lambda atoms: atoms.set_pbc([True, True, False]))) is None
    assert fit_frame([row | {"positions": row["positions"] + rng.normal(size=3)} for row in rows]) is None
    gas = Atoms("Si64", rng.uniform(0, EDGE, (64, 3)), cell=PERFECT.cell, pbc=True)
    assert fit_frame([_row(gas)]) is None
    assert fit_frame([_row(Atoms("Si2", [[0, 0, 0], [2.3, 0, 0]]))]) is None
    assert fit_frame([]) is None


@pytest.mark.parametrize(
    ("config", "augmentation", "local", "framed"),
    [
        (ADAPTConfig(geometry="cartesian"), [], False, True),
        (ADAPTConfig(geometry="fourier"), [], False, True),
        (ADAPTConfig(geometry="cartesian"), ["translation"], False, False),
        (ADAPTConfig(geometry="pairwise"), [], True, False),
        (ADAPTEnergyConfig(architecture="pooled", geometry="pairwise"), [], True, False),
        (ADAPTEnergyConfig(architecture="mlp", geometry="pairwise"), [], False, True),  # reads tokens whatever it says
    ],
)
def test_training_fits_a_frame_for_models_that_read_coordinates_as_they_are(config, augmentation, local, framed):
    rows = [row | {"energy": 1.0} for row in _training_rows()]
    train = datasets.Dataset.from_list(rows, features=STRUCTURE_FEATURES)
    config.force_loss = "mse"
    prepare_config(config, RunArguments(dataset="", augmentation=augmentation), {"train": train.with_format("numpy")})
    domain = TrainingDomain.from_dict(config.training_domain)
    assert (domain.local, domain.frame is not None) == (local, framed)


def test_what_cannot_be_mapped_stays_as_it_is(domain):
    unmapped = [_perfect() * (2, 1, 1), Atoms("Si", [[1, 2, 3]]), _sheared(_perfect())]
    for atoms in unmapped:
        (mapped,), (rotation,) = FrameFinder(domain.frame)([structure_of(atoms)])
        np.testing.assert_array_equal(mapped["positions"], atoms.positions)
        np.testing.assert_array_equal(rotation, np.eye(3))
    mapping = {"atomic_numbers": [14], "positions": [[np.nan, 0, 0]], "cell": PERFECT.cell.array}
    assert FrameFinder(domain.frame)([mapping])[0] == [mapping]


def test_cells_of_trained_size_but_other_crystals_are_noticed(domain):
    (line,) = domain.check(_simple_cubic())
    assert re.search(
        r"the host crystal is not as in training: its diffraction peaks have \d% of the intensity", line
    ), line
    tetragonal = bulk("Si", cubic=True) * (2, 2, 3)
    trained = fit_domain([_row(tetragonal)], reads_coordinates=True)
    cube = _perfect()
    cube.set_cell(cube.cell * 1.5 ** (1 / 3), scale_atoms=True)
    cube = dataclasses.replace(trained, number_of_atoms=(64, 96), volume_per_atom=None).check(cube)
    assert len(cube) == 1 and "training had only one cell, with edges of 10.860, 10.860, 16.290 Å" in cube[0]


def _simple_cubic() -> Atoms:
    """64 atoms in the trained cell, as far apart as in training, but no diamond."""
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3)
    return _rattled(Atoms("Si64", grid * EDGE / 4, cell=PERFECT.cell, pbc=True))


# Ten kinds of foreign input ---------------------------------------------------------------------------------------
# What each comes to is the table of docs/relaxing.md: a line of `TrainingDomain.check` that holds the words given, or
# `SAME`: no line, and the forces of the original, turned along. `None`: no line, as a model whose atoms know only
# their neighbours needs no such training.

SAME = "same forces"


def _other_element(atoms: Atoms) -> None:
    atoms.symbols[7] = "Ge"


def _larger_cell(atoms: Atoms) -> Atoms:
    return atoms * (2, 1, 1)


def _strained(atoms: Atoms) -> None:
    atoms.set_cell(atoms.cell * [1.05, 1, 1], scale_atoms=True)


def _sheared(atoms: Atoms) -> Atoms:
    lean = np.radians(85)
    cell = EDGE * np.array([[1, 0, 0], [np.cos(lean), np.sin(lean), 0], [0, 0, 1]])
    atoms.set_cell(cell, scale_atoms=True)
    return atoms


def _too_close(atoms: Atoms) -> None:
    atoms.positions[0] += 0.3 * (atoms.positions[1] - atoms.positions[0])


def _too_many_atoms(atoms: Atoms) -> Atoms:
    """Two more interstitials, at sites that training had."""
    return atoms + Atoms("Si2", [TETRAHEDRAL, TETRAHEDRAL + [EDGE / 2, 0, 0]])


def _no_cell(atoms: Atoms) -> None:
    atoms.set_cell(None)
    atoms.pbc = False


FOREIGN = {
    "other element": (_other_element, "atom 7 is Ge; training had only C, Si", "atom 7 is Ge"),
    "larger cell": (_larger_cell, "128 atoms; training had 63 to 65 | a cell edge of 21.720 Å", None),
    "strained cell": (_strained, "a cell edge of 11.403 Å; training had 10.860 Å", "21.01 Å^3 per atom"),
    "sheared cell": (_sheared, "a cell angle of 85.0 degrees; training had 90.0 degrees", "a cell angle of 85.0"),
    "shifted origin": (_shifted, SAME, SAME),
    "wrapped": (_wrapped, SAME, SAME),
    "rotated": (_turned, SAME, SAME),
    "too close": (_too_close, "atoms 0 and 1 (Si-Si) are 1.65 Å apart", "atoms 0 and 1 (Si-Si) are 1.65 Å apart"),
    "too many atoms": (_too_many_atoms, "66 atoms; training had 63 to 65", None),
    "no cell": (_no_cell, "the structure is not periodic", "the structure is not periodic"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("geometry", ["cartesian", "fourier", "pairwise"])
def test_foreign_input(make_force_model, kind, geometry):
    change, reading_coordinates, pairwise = FOREIGN[kind]
    expected = pairwise if geometry == "pairwise" else reading_coordinates
    model = make_force_model(geometry=geometry, num_vector_channels=8)
    local = geometry == "pairwise"
    domain = fit_domain(_training_rows(), local=local, reads_coordinates=not local)
    model.config.training_domain = domain.to_dict()

    original = _perfect()
    foreign = original.copy()
    rng = np.random.default_rng(0)
    result = change(foreign, rng) if expected == SAME else change(foreign)
    foreign = result if isinstance(result, Atoms) else foreign
    lines = domain.check(foreign)
    if expected == SAME:
        assert lines == []
        original.rattle(0.05, seed=0)
        copy = original.copy()
        rotation = change(copy, rng)
        assert np.abs(_forces(model, copy) - _forces(model, original) @ rotation).max() < 1e-4
    elif expected is None:
        assert lines == []
        assert np.isfinite(_forces(model, foreign)).all()
    else:
        assert len(lines) == len(expected.split(" | "))
        for line, words in zip(lines, expected.split(" | "), strict=True):
            assert words in line
        foreign.calc = ADAPTCalculator(model, outside_domain="raise")
        with pytest.raises(InputError, match=re.escape(lines[0])):
            foreign.get_forces()
