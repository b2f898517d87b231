"""Barriers: against ASE's own band with one image at a time, all images at once, and the command."""

import csv
import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.mep import NEB
from ase.optimize import FIRE

import modeling_adapt.cli.neb as command
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.neb import BEFORE_CLIMBING, find_path, matched_end, predict_together
from modeling_adapt.simulation.relaxation import relax

PERFECT = bulk("Cu", cubic=True) * 2


def _vacancy(site: int) -> Atoms:
    atoms = PERFECT.copy()
    del atoms[site]
    return atoms


@pytest.fixture(scope="module")
def ends() -> tuple[Atoms, Atoms]:
    """Minima before and after a neighbour has jumped into the vacancy; the order of atoms is that of the start."""
    start, end = (relax(_vacancy(site), EMT(), fmax=0.02).atoms for site in (0, 1))
    return start, matched_end(start, end)[0]


def test_it_is_the_band_of_ase(ends):
    """Which asks for the energy and the forces of one image after the other."""
    found = find_path(*ends, EMT(), images=3, fmax=0.05)
    images = [ends[0].copy(), *(ends[0].copy() for _ in range(3)), ends[1].copy()]
    NEB(images, method="improvedtangent").interpolate("idpp", mic=True)
    for image in images:
        image.calc = EMT()
    band = NEB(images, method="improvedtangent")
    assert FIRE(band, logfile=None).run(fmax=BEFORE_CLIMBING)
    band.climb = True
    assert FIRE(band, logfile=None).run(fmax=0.05)
    energies = np.array([image.get_potential_energy() for image in images])
    assert found.status == "converged" and found.fmax < 0.05 and not found.findings
    np.testing.assert_allclose(found.energies, energies - energies[0], atol=1e-8)
    for ours, theirs in zip(found.images, images, strict=True):
        offset = np.linalg.solve(PERFECT.cell.T, (ours.positions - theirs.positions).T).T
        np.testing.assert_allclose(offset, np.rint(offset), atol=1e-8)
    assert found.barrier.value == pytest.approx(found.reverse_barrier.value + found.energy_change.value)
    assert 0.4 < found.barrier.value < 1.0 and found.barrier.uncertainty is None
    assert find_path(*ends, EMT(), images=1, steps=1, fmax=1e-6).status == "not converged"


def test_images_at_once_are_as_one_by_one(make_energy_model, structures):
    models = [make_energy_model(seed, architecture="pairwise", num_vector_channels=8) for seed in range(2)]
    images = [structures[0].copy() for _ in range(3)]
    for seed, image in enumerate(images):
        image.rattle(0.05, seed=seed)
    for several in (models[:1], models):
        calculator = ADAPTCalculator(several, outside_domain="ignore")
        energies, forces = predict_together(calculator, images)
        for image, energy, force in zip(images, energies, forces, strict=True):
            assert energy == pytest.approx(calculator.get_property("energy", image), abs=1e-4)
            np.testing.assert_allclose(force, calculator.get_property("forces", image), atol=1e-5)


class TestEnds:
    def test_any_order_of_atoms(self):
        start, end = _vacancy(0), _vacancy(1)
        shuffled = end[np.random.default_rng(0).permutation(len(end))]
        found, reordered = matched_end(start, shuffled)
        moved = np.linalg.norm(found.positions - start.positions, axis=1)
        assert (moved > 0.1).sum() == 1 and reordered > 20
        assert matched_end(start, end, keep_order=True)[1] == 0

    def test_no_path(self):
        start = _vacancy(0)
        with pytest.raises(InputError, match="the start is Cu31 and the end Cu32; a path is between the same atoms"):
            matched_end(start, PERFECT)
        charged = _vacancy(1)
        charged.info["charge"] = 1
        with pytest.raises(InputError, match=r"start has a charge of \+0 and the end one of \+1; a path is in one"):
            matched_end(start, charged)
        strained = _vacancy(1)
        strained.set_cell(1.01 * strained.cell, scale_atoms=True)
        with pytest.raises(InputError, match="different cells"):
            matched_end(start, strained)
        swapped = start.copy()
        swapped.positions[[3, 4]] = swapped.positions[[4, 3]]
        with pytest.raises(InputError, match="one structure.*--keep-order"):
            matched_end(start, swapped)
        assert matched_end(start, swapped, keep_order=True)[1] == 0
        alloys = start.copy(), start.copy()
        alloys[0].symbols[2], alloys[1].symbols[3] = "Au", "Au"
        with pytest.raises(InputError, match="elements are in another order"):
            matched_end(*alloys, keep_order=True)


class TestCommand:
    @pytest.fixture(autouse=True)
    def copper(self, monkeypatch):
        calculator = EMT()
        calculator.domain, calculator.conservative = None, True
        monkeypatch.setattr("modeling_adapt.simulation.relaxation.can_batch", lambda *_: False)
        monkeypatch.setattr(ADAPTCalculator, "from_pretrained", lambda *_, **__: calculator)
        return calculator

    @pytest.fixture
    def run(self, tmp_path):
        for name, site in (("a", 0), ("b", 1), ("c", 2)):
            ase.io.write(tmp_path / f"{name}.relaxed.extxyz", _vacancy(site))
        options = ("--images", "1", "--fmax", "0.1", "--output", tmp_path / "out")
        return lambda *argv: run_command(lambda: command.main([str(one) for one in (*argv, *options)]))

    def test_a_path(self, run, tmp_path, capsys):
        files = [tmp_path / f"{name}.relaxed.extxyz" for name in "ab"]
        assert run(*files, "--report") == 0
        record = json.loads((tmp_path / "out" / "a-to-b.path.json").read_text())
        assert record["status"] == "converged" and 0.4 < record["barrier_ev"] < 1.0
        frames = ase.io.read(tmp_path / "out" / "a-to-b.path.extxyz", ":")
        energies = np.array([frame.get_potential_energy() for frame in frames])
        np.testing.assert_allclose(energies - energies[0], record["energies_ev"], atol=1e-6)
        assert (tmp_path / "out" / "a-to-b.path.png").stat().st_size > 5_000
        out = capsys.readouterr().out
        assert f"a-to-b: converged after {record['steps']} steps, barrier {record['barrier_ev']:.3f} eV" in out
        page = (tmp_path / "out" / "report.html").read_text()
        assert f">{record['barrier_ev']:.3f}</td>" in page and "energy above the start (eV)" in page
        assert [f'data-shows="{name}"' in page for name in ("start", "saddle", "end")] == [True] * 3
        assert "At the start: v_Cu." in page and str(tmp_path) not in page

    @pytest.mark.parametrize(("low_precision", "above", "below"), [(False, 0, 0.002), (True, 0.002, 0.01)])
    def test_ends_are_relaxed_as_far_as_the_precision_tells(self, run, copper, tmp_path, low_precision, above, below):
        copper.low_precision = low_precision
        assert run(*[tmp_path / f"{name}.relaxed.extxyz" for name in "ab"]) == 0
        start, *_, end = ase.io.read(tmp_path / "out" / "a-to-b.path.extxyz", ":")
        for one in (start, end):
            assert above < np.linalg.norm(one.get_forces(), axis=1).max() < below

    def test_a_table_goes_on(self, run, tmp_path, capsys):
        rows = "start,end,name\na.relaxed.extxyz,b.relaxed.extxyz,\nb.relaxed.extxyz,c.relaxed.extxyz,second\n"
        (tmp_path / "pairs.csv").write_text(rows)
        assert run(tmp_path / "pairs.csv") == 0
        (tmp_path / "out" / "second.path.json").unlink()
        before = (tmp_path / "out" / "a-to-b.path.json").stat().st_mtime_ns
        assert run(tmp_path / "pairs.csv") == 0
        assert (tmp_path / "out" / "a-to-b.path.json").stat().st_mtime_ns == before
        assert "1 of 2 paths were found before" in capsys.readouterr().out
        lines = list(csv.DictReader((tmp_path / "out" / "barriers.csv").read_text().splitlines()))
        assert [line["name"] for line in lines] == ["a-to-b", "second"]
        assert float(lines[0]["barrier_ev"]) == pytest.approx(float(lines[1]["barrier_ev"]), abs=0.02)
        assert run(tmp_path / "pairs.csv", "--keep-ends") == 2
        assert "results of another command (keep_ends False, not True)" in capsys.readouterr().err

    def test_ends_that_are_one_minimum_do_not_stop_the_others(self, run, tmp_path, capsys):
        near = _vacancy(0)
        near.positions[5] += (0.15, 0, 0)
        ase.io.write(tmp_path / "near.extxyz", near)
        rows = (
            "\ufeffstart,end\na.relaxed.extxyz,near.extxyz\na.relaxed.extxyz,b.relaxed.extxyz\n"  # as Excel writes it
        )
        (tmp_path / "pairs.csv").write_text(rows, encoding="utf-8")
        assert run(tmp_path / "pairs.csv") == 1
        assert "error: a-to-near, relaxed: start and end are one structure" in capsys.readouterr().err
        assert (tmp_path / "out" / "a-to-b.path.json").is_file()

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            (["a.relaxed.extxyz"], "a path has two ends"),
            (["a.relaxed.extxyz", "a.relaxed.extxyz"], "start and end are one structure"),
            (["a.relaxed.extxyz", "perfect.extxyz"], "the start is Cu31 and the end Cu32"),
            (["a.relaxed.extxyz", "none.extxyz"], "no such file"),
            (["pairs.csv"], "row 2: there is no start or no end"),
            (["two", "b.relaxed.extxyz"], "two holds 2 structures; an end is one"),
        ],
    )
    def test_bad_input_is_one_line_and_writes_nothing(self, run, tmp_path, capsys, files, message):
        ase.io.write(tmp_path / "perfect.extxyz", PERFECT)
        (tmp_path / "two").mkdir()
        for name in "xy":
            ase.io.write(tmp_path / "two" / f"{name}.extxyz", _vacancy(0))
        (tmp_path / "pairs.csv").write_text("start,end\na.relaxed.extxyz,b.relaxed.extxyz\nb.relaxed.extxyz\n")
        assert run(*(tmp_path / name for name in files)) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()

    def test_a_model_without_energies(self, run, tmp_path, copper, capsys):
        copper.conservative = False
        assert run(*(tmp_path / f"{name}.relaxed.extxyz" for name in "ab")) == 2
        assert "has no energies" in capsys.readouterr().err
