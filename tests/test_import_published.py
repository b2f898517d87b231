"""import_published.py: the published token files become structures again."""

import numpy as np
import pytest
import torch

from data_scripts.import_published import main
from modeling_adapt.command_line import run_command
from modeling_adapt.data.published import atomic_numbers, read_published
from modeling_adapt.data.reading import read_split
from modeling_adapt.elements_adapt import DESCRIPTORS, descriptors
from modeling_adapt.errors import InputError

NUMBERS = np.array([14, 14, 14, 28, 35])


def tokens(seed: int = 0, weights: bool = True) -> torch.Tensor:
    positions = np.random.default_rng(seed).uniform(0, 10, size=(5, 3))
    columns = [positions, descriptors(NUMBERS), np.arange(5)[:, None] + 1.0]
    return torch.tensor(np.hstack(columns if weights else columns[:2]), dtype=torch.float32)


def padded(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor, torch.zeros(2, tensor.shape[1])])


def save(folder, name: str, content) -> str:
    torch.save(content, folder / name)
    return str(folder / name)


def test_every_element_is_recovered():
    known = np.arange(1, 87)
    rows = np.hstack([np.zeros((86, 3)), DESCRIPTORS[1:]]).astype(np.float32)
    np.testing.assert_array_equal(atomic_numbers(rows), known)
    rows[7, 3] = 19
    with pytest.raises(InputError, match="atom 7 has group 19 and period 2"):
        atomic_numbers(rows)


def test_padding_weights_and_sites(tmp_path):
    forces = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    path = save(tmp_path, "f.pt", {"X": torch.stack([padded(tokens())]), "Y": forces[None]})
    (row,) = read_published(path, cell_edge=11.0)
    np.testing.assert_array_equal(row["atomic_numbers"], NUMBERS)
    np.testing.assert_array_equal(row["forces"], forces[:5].numpy())
    np.testing.assert_array_equal(row["importance_weights"], np.arange(5) + 1)
    np.testing.assert_array_equal(row["defect_sites"], row["positions"][3:].astype(np.float64))
    np.testing.assert_array_equal(row["cell"], np.eye(3) * 11.0)
    assert row["config_type"] == "Ni+Br" and row["pbc"].all()


def test_energies_join_their_structure(tmp_path):
    force_file = save(tmp_path, "f.pt", {"X": [tokens(0), tokens(1)], "Y": [torch.ones(5, 3)] * 2})
    features = save(tmp_path, "x.pt", torch.stack([padded(tokens(seed, weights=False)) for seed in (1, 2)]))
    energies = save(tmp_path, "y.pt", torch.tensor([-10.0, -20.0]))
    rows = read_published(force_file, (features, energies))
    assert [row["energy"] for row in rows] == [None, -10.0, -20.0]
    assert [row["forces"] is None for row in rows] == [False, False, True]
    assert rows[2]["source"] == "x.pt#1" and rows[2]["importance_weights"] is None


def test_bad_files_give_one_line_and_write_nothing(tmp_path, capsys):
    good = save(tmp_path, "good.pt", {"X": [tokens()], "Y": [torch.ones(5, 3)]})
    whole = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("hello")
    broken = tokens()
    broken[2, 1] = torch.nan
    nameless = tokens()
    nameless[1, 3] = 0.5
    groupless = tokens()
    groupless[1, 3] = torch.nan
    full = tmp_path / "full"
    full.mkdir()
    (full / "note").touch()
    x, y = save(tmp_path, "x.pt", tokens(weights=False)[None]), save(tmp_path, "y.pt", torch.ones(2))
    cases = [
        (["missing.pt"], "no such file"),
        (["truncated.pt"], "truncated"),
        (["empty.pt"], "truncated"),
        (["text.pt"], "truncated"),
        ([save(tmp_path, "tensor.pt", tokens())], "not a published force file"),
        ([save(tmp_path, "strings.pt", {"X": "a", "Y": "b"})], "not str"),
        ([save(tmp_path, "one.pt", {"X": [tokens()], "Y": []})], "X has 1 structures, Y has 0"),
        ([save(tmp_path, "atoms.pt", {"X": [tokens()], "Y": [torch.ones(4, 3)]})], "forces of shape (4, 3) for 5"),
        ([save(tmp_path, "wide.pt", {"X": [tokens()[:, :9]], "Y": [torch.ones(5, 3)]})], "shape (5, 9)"),
        ([save(tmp_path, "nan.pt", {"X": [broken], "Y": [torch.ones(5, 3)]})], "frame 0: the position of atom 2 (Si)"),
        ([save(tmp_path, "group.pt", {"X": [groupless], "Y": [torch.ones(5, 3)]})], "a descriptor of atom 1"),
        ([save(tmp_path, "number.pt", {"X": torch.tensor(1.0), "Y": torch.tensor(1.0)})], "a list of tensors"),
        ([save(tmp_path, "odd.pt", {"X": [nameless], "Y": [torch.ones(5, 3)]})], "atom 1 has group 0.5"),
        ([good, "--energies", x, y], "1 structures"),
        ([good, "--lattice-constant", "-1"], "'-1' is not a positive number"),
        ([good, "--lattice-constant", "1e-9"], "Å thick"),
        ([good, "--seed", "-1"], "'-1' is not a whole number"),
    ]
    for (name, *options), message in cases:
        status = run_command(lambda: main([str(tmp_path / name), str(tmp_path / "set"), *options]))  # noqa: B023
        error = capsys.readouterr().err
        assert status == 2 and error.count("\n") == 1 and message in error, error
        assert not (tmp_path / "set").exists()
    assert run_command(lambda: main([good, str(full)])) == 2 and len(list(full.iterdir())) == 1


def test_published_files(shared_data, tmp_path):
    """The sample: 12 frames of one relaxation of Ni + Br, and three energies of another defect (Ir)."""
    files = [str(shared_data / f"adapt_ni_br_{name}.pt") for name in ("frames_0-11", "energy_x", "energy_y")]
    assert run_command(lambda: main([files[0], str(tmp_path / "set"), "--energies", *files[1:]])) == 0
    forces = read_split(tmp_path / "set", "train", "forces").with_format("numpy")
    energies = read_split(tmp_path / "set", "train", "energy")
    assert len(forces) == 12 and len(energies) == 3
    assert len(set(forces["trajectory"])) == 1 and set(energies["config_type"]) == {"Ir"}

    published = torch.load(files[0], weights_only=True)
    for row, frame, labels in zip(forces, published["X"], published["Y"], strict=True):
        rebuilt = np.hstack([np.stack(row["positions"]), descriptors(row["atomic_numbers"])])
        np.testing.assert_allclose(rebuilt, frame[:, :12], atol=1e-4)
        np.testing.assert_array_equal(row["importance_weights"], frame[:, 12])
        np.testing.assert_array_equal(np.stack(row["forces"]), labels)
    assert np.abs(torch.stack(published["Y"]).numpy()).mean() == pytest.approx(0.0299, abs=5e-5)
    matrices, totals = (torch.load(file, weights_only=True) for file in files[1:])
    np.testing.assert_array_equal(energies["energy"], totals.double())
    for row, matrix in zip(energies, matrices, strict=True):
        assert len(row["atomic_numbers"]) == 216  # one row of padding is gone
        np.testing.assert_allclose(descriptors(row["atomic_numbers"]), matrix[:216, 3:], atol=1e-4)
