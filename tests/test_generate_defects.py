"""The generator: ideal defects, distortion without absurd starts, relaxations thinned, a data set by seed."""

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes

from data_scripts.generate_defects import main
from modeling_adapt.command_line import run_command
from modeling_adapt.data.defects import (
    DEFECT_KINDS,
    SILICON_LATTICE_CONSTANT,
    distort,
    silicon_supercell,
    too_close,
)
from modeling_adapt.data.generation import generate_structures
from modeling_adapt.data.labelling import (
    LabelledFrame,
    erhart_albe,
    relaxation_trajectory,
    spread,
)
from modeling_adapt.data.reading import read_split
from modeling_adapt.data.structures import atoms_from_row
from modeling_adapt.errors import InputError

SIZES = dict(zip(DEFECT_KINDS, (215, 217, 217, 217, 216, 217), strict=True))
# Distance to the nearest atom (Å) and neighbours within 2.6 Å of the last atom, which is the defect; geometry alone.
IDEAL = {
    "interstitial_tetrahedral": (2.351, 4),
    "interstitial_hexagonal": (2.251, 6),
    "carbon_substitutional": (2.351, 4),
}


class Springs(Calculator):
    """Every coordinate bound to the nearest quarter of the lattice constant: fast, and without memory."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, stiffness: float = 5.0):
        super().__init__()
        self.stiffness = stiffness

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        step = SILICON_LATTICE_CONSTANT / 4
        displacement = atoms.positions - step * np.rint(atoms.positions / step)
        self.results = {
            "energy": 0.5 * self.stiffness * (displacement**2).sum(),
            "forces": -self.stiffness * displacement,
        }


def absurd() -> Springs:
    return Springs(stiffness=1e4)


def test_lattice_constant_is_the_equilibrium():
    """The pressure of the Erhart-Albe potential changes sign within 0.001 Å of the constant."""
    pressures = []
    for change in (-0.001, 0.001):
        atoms = silicon_supercell(SILICON_LATTICE_CONSTANT + change, repeat=1)
        atoms.calc = erhart_albe()
        pressures.append(-atoms.get_stress()[:3].mean())
    assert pressures[0] > 0 > pressures[1]


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_ideal_defects(kind):
    host = silicon_supercell()
    sites = set()
    for seed in range(6):
        defect = DEFECT_KINDS[kind](host, np.random.default_rng(seed))
        atoms = defect.atoms
        assert len(host) == 216 and len(atoms) == SIZES[kind] and defect.kind == kind
        assert not too_close(atoms)
        sites.add(tuple(np.round(defect.site, 3)))
        if kind in IDEAL:
            distances = np.sort(atoms.get_distances(-1, range(len(atoms) - 1), mic=True))
            assert distances[0] == pytest.approx(IDEAL[kind][0], abs=2e-3)
            assert (distances < 2.6).sum() == IDEAL[kind][1]
        assert (atoms.symbols == "C").sum() == ("carbon" in kind)
        assert len(defect.sites(atoms.positions)) == max(1, len(defect.members))
    assert len(sites) >= 5  # everywhere in the cell


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_distortion_moves_the_neighbours_and_keeps_atoms_apart(kind):
    host = silicon_supercell()
    for seed in range(4):
        rng = np.random.default_rng(seed)
        defect = DEFECT_KINDS[kind](host, rng)
        distorted = distort(defect, rng)
        assert not too_close(distorted.atoms)
        moved = np.linalg.norm(distorted.atoms.positions - defect.atoms.positions, axis=1)
        assert 0.005 < np.median(moved) < 0.15 and 0.1 < moved.max() < 1.2
        assert (distorted.site == defect.site).all()


def test_impossible_lattice_is_an_error():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="too close"):
        distort(DEFECT_KINDS["vacancy"](silicon_supercell(3.0), rng), rng)


def test_relaxation_lowers_energy_and_spreads_frames():
    rng = np.random.default_rng(0)
    start = distort(DEFECT_KINDS["vacancy"](silicon_supercell(repeat=2), rng), rng).atoms
    frames, dropped = relaxation_trajectory(start, erhart_albe(), frames=8, max_steps=40)
    assert dropped == 0 and 5 <= len(frames) <= 8
    np.testing.assert_array_equal(frames[0].atoms.positions, start.positions)
    assert frames[-1].energy < frames[0].energy - 1.0
    largest = [np.abs(frame.forces).max() for frame in frames]
    assert largest[-1] < 0.1 * largest[0]
    changes = [np.abs(b.forces - a.forces).mean() for a, b in zip(frames, frames[1:], strict=False)]
    assert min(changes) > 0.02 * max(changes)
    frame = frames[3]
    atoms = frame.atoms.copy()
    atoms.calc = erhart_albe()
    np.testing.assert_allclose(atoms.get_forces(), frame.forces, atol=1e-10)  # each label belongs to its structure
    assert atoms.get_potential_energy() == pytest.approx(frame.energy)


def test_spread_takes_ends_and_big_changes():
    forces = [np.full((1, 3), value) for value in (9.0, 4.0, 1.0, *np.linspace(0.9, 0.0, 40))]
    path = [LabelledFrame(None, force, 0.0) for force in forces]
    chosen = spread(path, 8)
    assert 7 <= len(chosen) <= 8 and chosen[:2] == [0, 1] and chosen[-1] == len(path) - 1
    assert 3 <= sum(index > 12 for index in chosen) <= 5  # the long quiet end has its share, and not more
    assert spread(path[:3], 8) == [0, 1, 2]
    assert spread([path[0]] * 20, 8)[0] == 0  # nothing changes


def test_absurd_frames_are_dropped_and_counted():
    start = silicon_supercell(repeat=1)
    start.positions += 0.2 * np.sin(np.arange(24)).reshape(8, 3)
    frames, dropped = relaxation_trajectory(start, Springs(), max_steps=30, absurd_force=0.5)
    assert dropped >= 1 and all(np.linalg.norm(frame.forces, axis=1).max() <= 0.5 for frame in frames)
    total = relaxation_trajectory(start, Springs(), max_steps=30, frames=1000)
    assert total.dropped == 0 and len(total.frames) >= dropped + len(frames)
    with pytest.raises(InputError, match="absurd forces"):
        generate_structures(5, absurd(), max_steps=1)


def test_generated_rows_are_reproducible():
    options = {"seed": 7, "frames": 3, "max_steps": 4}
    rows, _ = generate_structures(7, Springs(), **options)
    again, _ = generate_structures(10, Springs(), **options)
    other, _ = generate_structures(7, Springs(), **(options | {"seed": 8}))
    assert len(rows) == 7 and len(again) == 10
    for row, same in zip(rows, again, strict=False):
        np.testing.assert_array_equal(row["positions"], same["positions"])
    assert not np.array_equal(rows[0]["positions"], other[0]["positions"])
    assert [row["config_type"] for row in rows[::3]] == list(DEFECT_KINDS)[:3]
    carbon = generate_structures(1, Springs(), kinds=["carbon_substitutional"], **options)[0][0]
    np.testing.assert_allclose(carbon["defect_sites"], carbon["positions"][carbon["atomic_numbers"] == 6], atol=1e-6)


def test_command(tmp_path, capsys):
    factory = f"{__name__}:Springs"
    arguments = [str(tmp_path / "set"), "--structures", "31", "--frames", "3", "--steps", "3", "--calculator", factory]
    assert run_command(lambda: main(arguments)) == 0
    output = capsys.readouterr().out
    assert "frames dropped for forces above 30 eV/Å: 0" in output
    splits = {split: read_split(tmp_path / "set", split) for split in ("train", "validation", "test")}
    assert sum(map(len, splits.values())) == 31
    names = [set(rows["trajectory"]) for rows in splits.values()]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    assert all(sites for rows in splits.values() for sites in rows["defect_sites"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--structures", "0"], "--structures: '0' is not a whole number of at least 1"),
        (["--frames", "0"], "--frames: '0' is not a whole number of at least 1"),
        (["--strain", "-1"], "--strain: '-1' is not a number of at least 0"),
        (["--lattice-constant", "nan"], "'nan' is not a positive number"),
        (["--lattice-constant", "3"], "vacancy: atoms are too close even without distortion"),
        (["--split", "0.5,0.1"], "three fractions"),  # before the relaxations, not after
        (["--calculator", "nonsense"], "module:factory"),
        (["--calculator", "no.such.module:make"], "ModuleNotFoundError"),
        (["--calculator", "ase.calculators.emt:Nothing"], "AttributeError"),
        (["--calculator", "ase:Atoms"], "no ASE calculator"),
        (["--calculator", f"{__name__}:absurd", "--steps", "0"], "absurd forces"),
        (["--calculator", "ase.calculators.emt:EMT"], "calculator fails on vacancy"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, capsys, options, message):
    structures = [] if "--structures" in options else ["--structures", "3"]
    assert run_command(lambda: main([str(tmp_path / "set"), *structures, *options])) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_rattled_and_strained_starts_of_small_cells(tmp_path):
    options = "--structures 4 --repeat 2 --kinds vacancy,bulk --rattle 0.2 --strain 0.02 --steps 0 --split train"
    main([str(tmp_path / "data"), *options.split()])
    rows = read_split(tmp_path / "data", "train")
    assert [len(numbers) for numbers in rows["atomic_numbers"]] == [63, 64, 63, 64]
    assert len(set(rows["trajectory"])) == 4
    assert rows["defect_sites"][1] == [] and len(rows["defect_sites"][0]) == 1
    edges = np.linalg.norm(rows["cell"], axis=2) / (2 * SILICON_LATTICE_CONSTANT)
    assert 0.001 < np.abs(edges - 1).max() <= 0.021
    # Labels are those of the potential at the stored positions.
    atoms = atoms_from_row(rows[0])
    atoms.calc = erhart_albe()
    assert np.abs(atoms.get_forces() - np.array(rows[0]["forces"])).max() < 1e-4


def test_unknown_kind_is_named(tmp_path):
    with pytest.raises(InputError, match="there is no kind 'dislocation'; there are vacancy"):
        main([str(tmp_path / "data"), "--structures", "1", "--kinds", "vacancy,dislocation"])
    assert not (tmp_path / "data").exists()
