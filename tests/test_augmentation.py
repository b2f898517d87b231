"""Augmented structures have the forces that the reference potential gives them, whoever makes them."""

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk, diamond100
from safetensors.torch import load_file
from scipy.stats import chisquare, kstest
from torch.utils.data import DataLoader

from modeling_adapt.cli import train
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.defects.labelling import erhart_albe
from modeling_adapt.data.load import augmentation
from modeling_adapt.data.load.augmentation import (
    OCTAHEDRAL_OPERATIONS,
    augmentation_steps,
    inversion,
    noise,
    octahedral,
    rotation,
    translation,
)
from modeling_adapt.data.load.batching import StructureCollator, StructureDataset
from modeling_adapt.data.load.importance import ImportanceWeighting
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.load.survey import require_cubic_cells
from modeling_adapt.data.structures import structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.feature_extraction_adapt import ADAPTFeatureExtractor
from modeling_adapt.training.arguments import parse_arguments


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    atoms.symbols[1] = "C"
    atoms.positions += np.random.default_rng(seed).normal(scale=0.1, size=atoms.positions.shape)
    return atoms


def cubic() -> Atoms:
    return rattled((bulk("Si", a=5.43, cubic=True) * 2)[1:])


def slanted() -> Atoms:
    return rattled(bulk("Si", a=5.43) * (3, 3, 2))


def slab() -> Atoms:
    """Periodic along two of its cell vectors; the third is not periodic and leans."""
    atoms = diamond100("Si", (2, 2, 5), a=5.43, vacuum=6.0)
    atoms.cell[2] = [1.0, 2.0, 20.0]
    return rattled(atoms)


def labelled(atoms: Atoms, dtype: str) -> dict:
    """The structure as [`StructureDataset`] gives it, in `dtype`, with the forces of the reference potential."""
    calculator = erhart_albe()
    return {
        "atomic_numbers": atoms.numbers,
        "positions": atoms.positions.astype(dtype),
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        "forces": calculator.get_forces(atoms).astype(dtype),
        "energy": calculator.get_potential_energy(atoms),
    }


def reference(structure: dict) -> tuple[np.ndarray, float]:
    """Forces (N, 3) and energy of the reference potential."""
    numbers, positions, cell, pbc = (structure[name] for name in ("atomic_numbers", "positions", "cell", "pbc"))
    atoms = Atoms(numbers, positions.astype(np.float64), cell=cell, pbc=pbc)
    calculator = erhart_albe()
    return calculator.get_forces(atoms), calculator.get_potential_energy(atoms)


# Rounding a coordinate of 10 Å to float32 moves it by up to 5e-7 Å; the stiffest bonds have about 100 eV/Å^2.
TOLERANCES = {"float64": 1e-9, "float32": 2e-4}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("make", "names"),
    [
        (cubic, ["octahedral"]),
        (cubic, ["octahedral", "translation", "rotation"]),
        *[(make, [name]) for make in (slanted, slab) for name in ("rotation", "inversion", "translation")],
        (slanted, ["rotation", "inversion", "translation"]),
    ],
)
def test_forces_are_those_of_the_reference_potential(make, names, dtype):
    structure, rng, steps = labelled(make(), dtype), np.random.default_rng(3), augmentation_steps(names)
    for _ in range(4):
        moved = structure
        for step in steps:
            moved = step(moved, rng)
        assert moved["positions"].dtype == moved["forces"].dtype == dtype
        forces, energy = reference(moved)
        np.testing.assert_allclose(moved["forces"], forces, atol=TOLERANCES[dtype])
        assert energy == pytest.approx(structure["energy"], abs=10 * TOLERANCES[dtype])


@pytest.mark.parametrize("names", [["octahedral"], ["rotation"], ["inversion"], ["translation"]])
def test_structures_do_change(names):
    structure, rng = labelled(cubic(), "float64"), np.random.default_rng(0)
    (step,) = augmentation_steps(names)
    moved = [step(structure, rng)["positions"] for _ in range(16)]
    assert any(np.abs(positions - structure["positions"]).max() > 1.0 for positions in moved)
    assert len({positions.tobytes() for positions in moved}) > 1


def test_the_48_operations_are_the_group():
    flat = {operation.tobytes() for operation in OCTAHEDRAL_OPERATIONS + 0.0}
    assert len(flat) == 48
    products = np.einsum("aij,bjk->abik", OCTAHEDRAL_OPERATIONS, OCTAHEDRAL_OPERATIONS).reshape(-1, 3, 3) + 0.0
    assert {operation.tobytes() for operation in products} == flat  # + 0.0 turns -0 into 0
    np.testing.assert_array_equal(np.abs(np.linalg.det(OCTAHEDRAL_OPERATIONS)), np.ones(48))
    assert np.linalg.det(OCTAHEDRAL_OPERATIONS).sum() == 0


def test_octahedral_is_exact_and_draws_all_operations_alike():
    structure, rng = labelled(cubic(), "float32"), np.random.default_rng(1)
    edge = structure["cell"][0, 0]
    counts = np.zeros(48)
    turned = structure["forces"] @ OCTAHEDRAL_OPERATIONS.astype(np.float32)
    for _ in range(2400):
        moved = octahedral(structure, rng)
        (drawn,) = np.flatnonzero((moved["forces"] == turned).all(axis=(1, 2)))  # to the bit
        counts[drawn] += 1
        difference = moved["positions"] - structure["positions"].astype(float) @ OCTAHEDRAL_OPERATIONS[drawn]
        assert np.abs(difference - edge * np.rint(difference / edge)).max() < 1e-6
        assert moved["positions"].min() >= 0 and moved["positions"].max() <= np.float32(edge)
        assert moved["cell"] is structure["cell"]
    assert chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("make", [cubic, slanted, slab])
def test_wrapped_atoms_are_in_the_cell(make):
    structure, rng = labelled(make(), "float64"), np.random.default_rng(1)
    atoms = Atoms(positions=structure["positions"], cell=structure["cell"], pbc=structure["pbc"])
    for _ in range(20):
        atoms.positions = translation(structure, rng)["positions"]
        periodic = atoms.cell.scaled_positions(atoms.positions)[:, structure["pbc"]]
        if structure["pbc"].all():
            assert periodic.min() > -1e-12 and periodic.max() < 1 + 1e-12
        normal = np.cross(*structure["cell"][:2])  # nothing moves away from the plane of a slab
        if not structure["pbc"].all():
            np.testing.assert_allclose(atoms.positions @ normal, structure["positions"] @ normal)


def test_molecules_stay_whole():
    molecule = labelled(cubic(), "float64") | {"pbc": np.zeros(3, dtype=bool), "cell": np.zeros((3, 3))}
    np.testing.assert_array_equal(translation(molecule, np.random.default_rng(0))["positions"], molecule["positions"])


def test_translation_is_uniform():
    structure, rng = labelled(cubic(), "float64"), np.random.default_rng(2)
    first = np.array([translation(structure, rng)["positions"][0] for _ in range(1000)]) / structure["cell"][0, 0]
    assert all(kstest(column, "uniform").pvalue > 0.001 for column in first.T)


def test_rotations_are_uniform_on_so3_and_with_inversion_on_o3():
    """Under the Haar measure the angle has the density (1 - cos) / pi, and every image of an axis is uniform."""
    frame = {"positions": np.eye(3), "forces": np.eye(3), "cell": np.eye(3), "pbc": np.zeros(3, dtype=bool)}
    rng = np.random.default_rng(5)
    rotations = np.array([rotation(frame, rng)["forces"] for _ in range(3000)])
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3)[None].repeat(3000, 0), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0)
    angles = np.arccos(np.clip((np.trace(rotations, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert kstest(angles, lambda angle: (angle - np.sin(angle)) / np.pi).pvalue > 0.001
    for component in rotations.reshape(-1, 9).T:
        assert kstest(component, "uniform", args=(-1, 2)).pvalue > 0.001
    improper = np.array([inversion(frame, rng)["forces"] for _ in range(1000)])
    assert 440 < (np.linalg.det(improper) < 0).sum() < 560


def test_noise_moves_positions_alone():
    structure, rng = labelled(cubic(), "float64"), np.random.default_rng(0)
    moved = [noise(structure, rng, 0.03) for _ in range(50)]
    steps = np.array([each["positions"] - structure["positions"] for each in moved])
    assert steps.std() == pytest.approx(0.03, rel=0.03) and abs(steps.mean()) < 1e-3
    assert moved[0]["forces"] is structure["forces"]


def test_missing_forces_stay_missing():
    structure, rng = labelled(cubic(), "float32") | {"forces": None}, np.random.default_rng(0)
    for step in augmentation_steps([*augmentation.STEPS], 0.01):
        assert step(structure, rng)["forces"] is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """Cubic cells of 63 and 7 atoms with a vacancy."""
    rows = []
    for index in range(16):
        atoms = (bulk("Si", a=5.43, cubic=True) * (1 + index % 2))[1:]
        vacancy = [np.zeros(3)]
        atoms = rattled(atoms, seed=index)
        forces = np.random.default_rng(index).normal(size=(len(atoms), 3))
        rows.append(structure_row(atoms, forces, -5.0 * len(atoms), defect_sites=vacancy, source=f"made#{index}"))
    folder = tmp_path_factory.mktemp("augmentation") / "set"
    write_dataset({"train": rows, "validation": rows[:2], "slanted": [structure_row(slanted(), None, 1.0)]}, folder)
    return str(folder)


def augmented(folder: str, seed: int = 7) -> StructureDataset:
    steps = augmentation_steps(["octahedral", "translation"], 0.01)
    return StructureDataset(read_split(folder, "train"), ImportanceWeighting(), steps, seed)


def batches(dataset: StructureDataset, **options) -> list[bytes]:
    loader = DataLoader(dataset, 5, collate_fn=StructureCollator(ADAPTFeatureExtractor()), **options)
    return [b"".join(batch[name].numpy().tobytes() for name in sorted(batch)) for batch in loader]


def test_any_number_of_workers_gives_the_same_batches(folder):
    dataset = augmented(folder)
    loader = DataLoader(
        dataset, 5, collate_fn=StructureCollator(ADAPTFeatureExtractor()), num_workers=2, persistent_workers=True
    )
    seen = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        here = batches(dataset)
        there = [b"".join(batch[name].numpy().tobytes() for name in sorted(batch)) for batch in loader]
        assert here == there  # workers that outlive an epoch know the next one
        seen.append(here)
    assert set(seen[0]).isdisjoint(seen[1])
    dataset.set_epoch(0)
    assert batches(dataset) == seen[0] == batches(augmented(folder))
    assert set(batches(augmented(folder, seed=8))).isdisjoint(seen[0])


def test_a_row_does_not_depend_on_its_batch(folder):
    dataset = augmented(folder)
    together = dataset.__getitems__([4, 9, 2])
    for item, index in zip(together, (4, 9, 2 - len(dataset)), strict=True):
        alone = dataset[index]
        assert all(np.array_equal(item[name], alone[name]) for name in item)


def test_weights_and_distances_belong_to_the_atoms(folder):
    plain = StructureDataset(read_split(folder, "train"), ImportanceWeighting())[3]
    moved = augmented(folder)[3]
    assert not np.array_equal(plain["positions"], moved["positions"])
    for name in ("importance_weights", "nearest_defect", "atomic_numbers", "energy"):
        np.testing.assert_array_equal(plain[name], moved[name])


def test_bad_augmentation_is_an_error(folder):
    arguments = ["--model", "fourier-small", "--dataset", "x", "--output_dir", "y"]
    with pytest.raises(InputError, match="no augmentation 'mirror'; there are octahedral, rotation"):
        parse_arguments([*arguments, "--augmentation", "mirror"])
    with pytest.raises(InputError, match="octahedral goes before rotation"):
        parse_arguments([*arguments, "--augmentation", "rotation", "octahedral"])
    with pytest.raises(InputError, match="position_noise must be a distance in Å, not -0.1"):
        parse_arguments([*arguments, "--position_noise", "-0.1"])
    _, run, _ = parse_arguments([*arguments, "--augmentation", "octahedral", "translation"])
    assert run.augmentation == ["octahedral", "translation"]
    require_cubic_cells(read_split(folder, "train"))
    with pytest.raises(InputError, match="row 0 .*needs periodic cubic cells"):
        require_cubic_cells(read_split(folder, "slanted"))
    with pytest.raises(InputError, match="not cubic"):
        octahedral(labelled(slanted(), "float32"), np.random.default_rng(0))


@pytest.mark.parametrize("names", ["octahedral", ["octahedral", "translation"], None])
def test_augmentation_in_a_recipe(tmp_path, names):
    fields = {"model": "fourier-small", "dataset": "x", "output_dir": "y", "augmentation": names}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields))
    _, run, _ = parse_arguments([str(tmp_path / "recipe.yaml")])
    assert run.augmentation == ([] if names is None else [names] if isinstance(names, str) else names)


def tiny_run(folder: str, output: str, *more: str) -> dict:
    """Trains two epochs of four steps on augmented structures; the weights it ends with."""
    options = (
        "--model fourier-small --embedding_sizes [16] --hidden_size 16 --num_hidden_layers 1 --num_attention_heads 2 "
        "--intermediate_size 16 --num_train_epochs 2 --per_device_train_batch_size 4 --learning_rate 3e-3 "
        "--save_steps 6 --augmentation octahedral translation --position_noise 0.01"
    )
    train.main([*options.split(), "--dataset", folder, "--output_dir", output, *more])
    return load_file(f"{output}/model.safetensors")


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_resume_in_the_middle_of_an_epoch_sees_the_same_structures(folder, tmp_path, monkeypatch, strategy):
    """Were the rest of a resumed epoch augmented or ordered differently, the weights would differ."""
    epochs = []
    set_epoch = StructureDataset.set_epoch

    def watched(self, epoch: int) -> None:
        set_epoch(self, epoch)
        if self.augmentation:
            epochs.append(self.epoch)

    monkeypatch.setattr(StructureDataset, "set_epoch", watched)
    output, options = str(tmp_path / "run"), ("--train_sampling_strategy", strategy)
    whole = tiny_run(folder, output, *options)
    assert epochs == sorted(epochs) and set(epochs) == {0, 1}  # each epoch is augmented anew
    resumed = tiny_run(folder, output, *options, "--resume_from_checkpoint", f"{output}/checkpoint-6")
    assert all((whole[name] == resumed[name]).all() for name in whole)


def test_training_refuses_octahedral_without_cubes(folder, tmp_path):
    more = ("--dataset", folder, "--output_dir", str(tmp_path / "run"), "--train_split", "slanted")
    with pytest.raises(InputError, match="needs periodic cubic cells"):
        train.main(["--model", "published-energy", "--augmentation", "octahedral", *more])
    assert not (tmp_path / "run").exists()


def test_training_refuses_turned_forces_for_tokens_that_stay(folder, tmp_path):
    """Fractional coordinates do not see a rotation of everything; the forces would be random."""
    with pytest.raises(InputError, match="rotation turns the forces"):
        tiny_run(folder, str(tmp_path / "run"), "--architecture", "fourier", "--augmentation", "rotation")
    assert not (tmp_path / "run").exists()
