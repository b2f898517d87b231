"""import_published.py: the published token files become structures again."""

import os
import signal
import time

import numpy as np
import pytest
import torch
from ase.build import bulk
from published_rows import read_published

from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.import_published import main
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.read import published
from modeling_adapt.data.read.published import atomic_numbers
from modeling_adapt.data.structures import structure_row
from modeling_adapt.elements_adapt import DESCRIPTORS, descriptors
from modeling_adapt.errors import InputError

NUMBERS = np.array([14, 14, 14, 28, 35])


def tokens(seed: int = 0, weights: bool = True) -> torch.Tensor:
    positions = np.random.default_rng(seed).uniform(0, 10, size=(5, 3))
    columns = [positions, descriptors(NUMBERS), np.arange(5)[:, None] + 1.0]
    return torch.tensor(np.hstack(columns if weights else columns[:2]), dtype=torch.float32)


def silicon(seed: int, frame: int = 0, rows: int = 66) -> torch.Tensor:
    """Tokens of a frame of a trajectory: a silicon cell with a Ni interstitial and a vacancy, padded."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Si", "diamond", a=5.43, cubic=True).repeat(2)
    positions = np.vstack([atoms.positions[1:], atoms.positions[rng.integers(1, 64)] + 5.43 / 2])
    positions += np.random.default_rng([seed, frame]).normal(scale=0.05, size=positions.shape)
    numbers = np.append(atoms.numbers[1:], 28)
    matrix = np.hstack([positions % 10.86, descriptors(numbers), np.ones((64, 1))])
    return torch.tensor(np.vstack([matrix, np.zeros((rows - 64, 13))]), dtype=torch.float32)


def trajectories(folder) -> tuple[str, str, str]:
    """A force file with trajectories of 5, 1 and 4 frames, and energies of two of these frames and two others."""
    frames = [silicon(seed, frame, 64 + frame % 3) for seed, count in enumerate((5, 1, 4)) for frame in range(count)]
    labels = [torch.full((len(frame), 3), 0.125 * index) for index, frame in enumerate(frames)]
    forces = save(folder, "f.pt", {"X": frames, "Y": labels})
    known = torch.stack([silicon(0, 3)[:, :12], silicon(2, 4)[:, :12], silicon(2, 2)[:, :12], silicon(7)[:, :12]])
    energies = torch.tensor([-1169.1234567890123, -2.0, -3.0, -4.0], dtype=torch.float64)
    return forces, save(folder, "x.pt", known), save(folder, "y.pt", energies)


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


def test_a_trajectory_goes_on_in_the_next_part(tmp_path, monkeypatch):
    """Parts of any size give the same rows, named by the first frame of their trajectory."""
    forces, *energies = trajectories(tmp_path)
    whole = read_published(forces, energies, 10.86)
    monkeypatch.setattr(published, "STRUCTURES_PER_PART", 2)
    pieces = read_published(forces, energies, 10.86)
    starts = [*[0] * 5, 5, *[6] * 4]
    assert [row["trajectory"] for row in whole] == [*(f"f.pt#{start}" for start in starts), "f.pt#6", "x.pt#3"]
    assert [row["source"] for row in whole[-3:]] == ["f.pt#9", "x.pt#1", "x.pt#3"]
    assert [row["energy"] for row in whole if row["energy"] is not None] == [-1169.1234567890123, -3.0, -2.0, -4.0]
    for one, other in zip(whole, pieces, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            if name == "defect_sites":  # of the vacancy the host's, which is found from the first frame of a part
                np.testing.assert_allclose(one[name], other[name], atol=0.05)
            else:
                np.testing.assert_array_equal(one[name], other[name])


def test_defects_are_found_where_there_is_a_host(tmp_path):
    frames = {"X": [silicon(0), silicon(0, 1), tokens()], "Y": [torch.ones(66, 3)] * 2 + [torch.ones(5, 3)]}
    path = save(tmp_path, "f.pt", frames)
    *crystals, molecule = read_published(path, cell_edge=10.86)
    for row in crystals:
        assert row["defect_kinds"] == ["v_Si", "Ni_i"]
        np.testing.assert_allclose((row["defect_sites"][0] + 1) % 10.86, np.ones(3), atol=0.1)  # the origin
        np.testing.assert_array_equal(row["defect_sites"][1], row["positions"][-1].astype(np.float64))
    assert molecule["defect_kinds"] == [] and len(molecule["defect_sites"]) == 2  # the foreign atoms
    assert all(len(row["defect_sites"]) == 0 for row in read_published(path, cell_edge=10.86, host="none"))


def test_tensors_are_read_wherever_they_lie(tmp_path):
    """Views of one tensor, transposed ones, other precisions: what `torch.load` gives."""
    frames = torch.stack([silicon(0, frame) for frame in range(3)])
    expected = [
        row["positions"] for row in read_published(save(tmp_path, "a.pt", {"X": frames, "Y": frames[..., :3]}))
    ]
    for name, features in {
        "views.pt": list(frames),
        "transposed.pt": [frame.t().contiguous().t() for frame in frames],
        "double.pt": frames.double(),
        "strided.pt": torch.stack([frames, frames + 1], dim=1)[:, 0],
    }.items():
        rows = read_published(save(tmp_path, name, {"X": features, "Y": list(frames[..., :3])}))
        np.testing.assert_array_equal([row["positions"] for row in rows], expected)
        np.testing.assert_array_equal(rows[2]["forces"], frames[2, :64, :3])


SLOW = """
import os, sys, time
from modeling_adapt.cli.import_published import main
from modeling_adapt.data.build import building
from modeling_adapt.data.read import published
published.STRUCTURES_PER_PART = 3
make = building._make_part
building._make_part = lambda *call: (time.sleep(0.5), make(*call))[1]
print(os.getpid(), flush=True)
main(sys.argv[1:])
"""


def test_killed_it_goes_on_and_ends_with_the_same_data(tmp_path, monkeypatch, forks):
    forces, *energies = trajectories(tmp_path)
    options = ["--energies", *energies, "--cell-edge", "10.86", "--split", "train"]
    first = forks.start(SLOW, forces, tmp_path / "killed", *options)
    number = int(first.stdout.readline())
    parts = tmp_path / ".killed.unfinished"
    while not (done := list(parts.glob("*.parquet"))):
        assert first.poll() is None
        time.sleep(0.02)
    os.kill(number, signal.SIGKILL)
    first.communicate(timeout=60)
    assert not (tmp_path / "killed").exists()

    monkeypatch.setattr(published, "STRUCTURES_PER_PART", 3)
    made = []
    monkeypatch.setattr(
        published,
        "structure_row",
        lambda *given, **named: made.append(named["source"]) or structure_row(*given, **named),
    )
    for name in ("killed", "whole"):
        assert run_command(lambda: main([forces, str(tmp_path / name), *options])) == 0  # noqa: B023
    assert len(made) == 12 + 12 - 3 * len(done)
    assert not parts.exists()
    one, other = (read_split(tmp_path / name, "train") for name in ("killed", "whole"))
    assert len(one) == 12 and one[:] == other[:]


def test_bad_files_give_one_line_and_write_nothing(tmp_path, capsys):
    good = save(tmp_path, "good.pt", {"X": [tokens()], "Y": [torch.ones(5, 3)]})
    whole = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("hello")
    old = tmp_path / "old.pt"
    torch.save({"X": [tokens()], "Y": [torch.ones(5, 3)]}, old, _use_new_zipfile_serialization=False)
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
        ([save(tmp_path, "half.pt", {"X": [tokens().bfloat16()], "Y": [torch.ones(5, 3)]})], "torch.bfloat16"),
        ([str(old)], "a torch before 1.6 wrote it"),
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
        ([good, "--cell-edge", "-1"], "'-1' is not a positive number"),
        ([good, "--cell-edge", "1e-9"], "Å thick"),
        ([good, "--host", str(tmp_path / "none.cif")], "none.cif: no such file"),
        ([good, "--num-proc", "0"], "'0' is not a whole number"),
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

    published_data = torch.load(files[0], weights_only=True)
    for row, frame, labels in zip(forces, published_data["X"], published_data["Y"], strict=True):
        rebuilt = np.hstack([np.stack(row["positions"]), descriptors(row["atomic_numbers"])])
        np.testing.assert_allclose(rebuilt, frame[:, :12], atol=1e-4)
        np.testing.assert_array_equal(row["importance_weights"], frame[:, 12])
        np.testing.assert_array_equal(np.stack(row["forces"]), labels)
        assert list(row["defect_kinds"]) == ["Br_Si", "Ni_i"]
        np.testing.assert_array_equal(np.stack(row["defect_sites"]), frame[[216, 215], :3].double())
    assert np.abs(torch.stack(published_data["Y"]).numpy()).mean() == pytest.approx(0.0299, abs=5e-5)
    matrices, totals = (torch.load(file, weights_only=True) for file in files[1:])
    np.testing.assert_array_equal(energies["energy"], totals.double())
    for row, matrix in zip(energies, matrices, strict=True):
        assert len(row["atomic_numbers"]) == 216  # one row of padding is gone
        np.testing.assert_allclose(descriptors(row["atomic_numbers"]), matrix[:216, 3:], atol=1e-4)
