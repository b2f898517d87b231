"""The element table: published rows, agreement with independent sources, and rules that hold for every element."""

import ase.data
import numpy as np
import pytest
import torch

from modeling_adapt.elements_adapt import DESCRIPTOR_NAMES, DESCRIPTORS, SYMBOLS, ZERO_AFFINITY, descriptors

KNOWN = np.arange(1, 87)
NOBLE_GASES = np.array([0, 2, 10, 18, 36, 54])  # and the empty core of the first period
COLUMN = {name: index for index, name in enumerate(DESCRIPTOR_NAMES)}


def column(name: str) -> np.ndarray:
    return DESCRIPTORS[1:, COLUMN[name]]


@pytest.mark.parametrize(
    ("symbol", "row"),
    [
        ("Si", [14, 3, 1.90, 111, 4, 8.15168, 133.6, 1.10, 12.06]),
        ("Ni", [10, 4, 1.91, 124, 10, 7.6398, 112.0, 1.35, 6.59]),
        ("Br", [17, 4, 2.96, 120, 17, 11.8138, 324.6, 1.15, 19.78]),
        ("Ir", [9, 6, 2.20, 141, 23, 8.96702, 151.0, 1.35, 8.52]),
    ],
)
def test_published_rows(symbol, row):
    assert descriptors(ase.data.atomic_numbers[symbol]).tolist() == row


def test_published_columns_are_reproduced_to_the_bit(shared_data):
    frames = torch.load(shared_data / "adapt_ni_br_frames_0-11.pt", weights_only=True)["X"]
    energies = torch.load(shared_data / "adapt_ni_br_energy_x.pt", weights_only=True)
    ours = {tuple(row) for row in DESCRIPTORS[1:].astype(np.float32).tolist()}
    published = {tuple(row) for frame in [*frames, *energies] for row in frame[:, 3:12].float().tolist()}
    published.discard((0.0,) * 9)  # padding of the energy set
    assert len(published) == 4
    assert published <= ours


def test_symbols_and_covalent_radii_agree_with_ase():
    assert list(SYMBOLS) == ase.data.chemical_symbols[:87]
    np.testing.assert_allclose(column("covalent_radius_pm"), 100 * ase.data.covalent_radii[1:87], atol=0.5)


def test_group_period_and_valence_follow_the_shells():
    core = NOBLE_GASES[np.searchsorted(NOBLE_GASES, KNOWN) - 1]
    valence = KNOWN - core
    period = np.searchsorted(NOBLE_GASES, KNOWN)
    # d and f elements are inserted after group 2: none in periods 1-3, ten d in 4 and 5, fourteen f more in 6.
    group = np.select(
        [KNOWN == 2, valence <= 2, period <= 3, period <= 5, valence <= 17],
        [18, valence, valence + 10, valence, 3],
        default=valence - 14,
    )
    np.testing.assert_array_equal(column("period"), period)
    np.testing.assert_array_equal(column("valence_electrons"), valence)
    np.testing.assert_array_equal(column("group"), group)


def test_every_value_is_positive_except_the_listed_affinities():
    assert DESCRIPTORS.shape == (87, 9)
    assert np.isfinite(DESCRIPTORS).all()
    assert not DESCRIPTORS[0].any()
    zero = {(SYMBOLS[number], DESCRIPTOR_NAMES[name]) for number, name in np.argwhere(DESCRIPTORS[1:] <= 0) + [1, 0]}
    assert zero == {(symbol, "electron_affinity_kj_mol") for symbol in ZERO_AFFINITY}
    assert (DESCRIPTORS >= 0).all()


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("pauling_electronegativity", 0.7, 5.0),
        ("covalent_radius_pm", 28, 260),
        ("first_ionization_energy_ev", 3.8, 24.6),
        ("electron_affinity_kj_mol", 0.0, 350),
        ("atomic_radius_ang", 0.25, 2.7),
        ("molar_volume_cm3_mol", 4, 75),
    ],
)
def test_units_keep_values_in_range(name, low, high):
    assert low <= column(name).min()
    assert column(name).max() <= high


def test_shapes_and_integer_kinds():
    batch = np.array([[14, 14, 28], [35, 6, 1]], dtype=np.uint8)
    assert descriptors(batch).shape == (2, 3, 9)
    np.testing.assert_array_equal(descriptors(batch)[1, 0], descriptors(35))
    np.testing.assert_array_equal(descriptors([14, 28]), descriptors(torch.tensor([14, 28])))
    assert descriptors([]).shape == (0, 9)


def test_the_table_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        DESCRIPTORS[14, 0] = 0.0
    descriptors([14, 14])[0, 0] = -1.0  # a copy, so the caller may
    assert DESCRIPTORS[14, 0] == 14


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([14, 14, 92, 87], ["atom 2:", "element U ", "atomic number 92"]),
        ([[14, 6], [14, 87]], ["atom 1, 1:", "element Fr ", "atomic number 87"]),
        ([14, 0], ["atom 1:", "0 is not the atomic number of an element"]),
        ([-1], ["atom 0:", "-1 is not the atomic number of an element"]),
        ([200], ["atom 0:", "200 is not the atomic number of an element"]),
        ([14.0], ["atomic numbers must be integers", "float64"]),
    ],
)
def test_unknown_elements_are_named(numbers, words):
    with pytest.raises(ValueError) as error:
        descriptors(numbers)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_module_needs_numpy_only():
    """The file travels inside checkpoints, where a further import would become a requirement of loading them."""
    import ast
    import inspect

    import modeling_adapt.elements_adapt as module

    tree = ast.parse(inspect.getsource(module))
    imported = [n.names[0].name for n in ast.walk(tree) if isinstance(n, ast.Import)]
    imported += [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert {name.split(".")[0] for name in imported} == {"numpy"}
