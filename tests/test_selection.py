"""Of many candidates those are chosen whose labels teach most, and of two that are alike only one."""

import csv

import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixedPlane
from ase.io import read, write

from modeling_adapt.cli.select_structures import main
from modeling_adapt.errors import InputError
from modeling_adapt.evaluation.selection import most_instructive


def entropy_after(rows, names, covariance, noise):
    """ln det of the inverse covariance once the labels of `names` are known, from first principles."""
    information = np.linalg.inv(covariance) + sum((rows[name].T @ rows[name] for name in names), 0.0) / noise**2
    return np.linalg.slogdet(information)[1] / 2


def test_each_choice_is_the_one_that_teaches_most():
    rng = np.random.default_rng(0)
    rows = {f"s{number}": rng.normal(size=(3, 6)) * rng.uniform(0.1, 2) for number in range(12)}
    covariance = np.cov(rng.normal(size=(6, 50)))
    found = most_instructive(rows, 5, covariance, of_differences=1.0, noise=0.7)
    names: list[str] = []
    for name, gain in found:
        before = entropy_after(rows, names, covariance, 0.7)
        gains = {one: entropy_after(rows, [*names, one], covariance, 0.7) - before for one in rows if one not in names}
        assert name == max(gains, key=gains.__getitem__)
        assert gain == pytest.approx(gains[name], rel=1e-9)
        names.append(name)


def test_a_copy_is_not_chosen_before_something_else():
    rows = {"first": np.array([[2.0, 0.0]]), "copy": np.array([[2.0, 0.0]]), "other": np.array([[0.0, 1.0]])}
    found = most_instructive(rows, 3, np.eye(2), 1.0, noise=0.1)
    assert [name for name, _ in found] == ["first", "other", "copy"]


def test_structures_of_a_tree_and_a_folder_that_is_taken(tmp_path):
    (tmp_path / "tree" / "v_Si_0" / "Unperturbed").mkdir(parents=True)
    vacancy = bulk("Si", cubic=True, a=5.469)[1:]
    vacancy.set_constraint(FixedPlane(0, (1, 1, 0)))  # which POSCAR cannot hold
    write(tmp_path / "tree" / "v_Si_0" / "Unperturbed" / "a.extxyz", vacancy)
    write(tmp_path / "tree" / "v_Si_0" / "b.extxyz", vacancy)
    main([str(tmp_path / "tree"), "--output", str(tmp_path / "next")])
    assert len(list((tmp_path / "next").glob("*/POSCAR"))) == 2
    with pytest.raises(InputError, match="next"):
        main([str(tmp_path / "tree"), "--output", str(tmp_path / "next"), "--model", "never-looked-for"])


def test_command_with_the_model_in_the_box(tmp_path, capsys):
    """Of crystals that are alike and one that is melted, the melted one and one crystal."""
    rng = np.random.default_rng(0)
    crystal = bulk("Si", cubic=True, a=5.469)
    for number, amplitude in enumerate((0.02, 0.02, 0.02, 0.35)):
        atoms = crystal.copy()
        atoms.positions += rng.normal(scale=amplitude, size=atoms.positions.shape)
        write(tmp_path / f"c{number}.extxyz", atoms)
    files = [str(tmp_path / f"c{number}.extxyz") for number in range(4)]
    main([*files, "--number", "2", "--output", str(tmp_path / "next")])
    with open(tmp_path / "next" / "selected.csv", newline="") as file:
        chosen = list(csv.DictReader(file))
    assert chosen[0]["structure"] == "c3" and len(chosen) == 2 and chosen[0]["charge"] == "+0"
    assert float(chosen[0]["gain (nats)"]) > 1.5 * float(chosen[1]["gain (nats)"])
    assert float(chosen[0]["largest doubt"]) > float(chosen[1]["largest doubt"])
    same = read(tmp_path / "next" / "001-c3" / "POSCAR")
    assert np.allclose(same.get_all_distances(mic=True), read(files[3]).get_all_distances(mic=True), atol=1e-6)
    assert "2 of 4 structures written to" in capsys.readouterr().out


@pytest.mark.parametrize(("symbol", "message"), [("Ge", "Ge"), (None, "does not say how uncertain it is")])
def test_what_cannot_be_asked(tmp_path, make_energy_model, symbol, message):
    write(tmp_path / "one.extxyz", bulk(symbol or "Si", "diamond", 5.5, cubic=True))
    options = [str(tmp_path / "one.extxyz"), "--output", str(tmp_path / "next")]
    if symbol is None:
        from modeling_adapt import ADAPTFeatureExtractor

        model = make_energy_model(architecture="pairwise")
        model.save_pretrained(tmp_path / "model")
        ADAPTFeatureExtractor.for_model(model.config).save_pretrained(tmp_path / "model")
        options += ["--model", str(tmp_path / "model")]
    with pytest.raises(InputError, match=message):
        main(options)
    assert not (tmp_path / "next").exists()
