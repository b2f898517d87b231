"""Answers: measured on potentials whose own are published, and what a model and a card make of them."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import units
from ase.calculators.emt import EMT
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import (
    Stillinger_Weber_PRB_31_5262_Si,
    StillingerWeber,
)

from modeling_adapt.cli import evaluate
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.evaluate import main
from modeling_adapt.cli.train import main as train
from modeling_adapt.data.defects.labelling import erhart_albe
from modeling_adapt.errors import InputError
from modeling_adapt.evaluation.answers import Answer, answer, answer_cells, answers_text, write_answers
from modeling_adapt.evaluation.compare import is_of_others
from modeling_adapt.evaluation.measurements import Crystal
from modeling_adapt.evaluation.questions import HOSTS, Reference, read_questions
from modeling_adapt.loading import weights_hash

COPPER = {
    "formula": "Cu",
    "structure": "fcc",
    "lattice_constant": 3.55,
    "cells": [1, 2],
    "fmax": 0.02,
    "quick": ["vacancy"],
    "sources": {"book": "of a book"},
    "answers": {
        "bulk modulus": {"kind": "bulk modulus", "references": {"DFT": [140, "book"], "other": [130, "book"]}},
        "vacancy": {"kind": "defect", "remove": [[0, 0, 0]], "references": {"DFT": [1.0, "book"]}},
        "hop": {
            "kind": "barrier",
            "remove": [0, 0, 0],
            "hop": [0.5, 0.5, 0],
            "cells": [2],
            "images": 1,
            "references": {"DFT": [0.7, "book"]},
        },
        "split": {"kind": "defect", "remove": [[0, 0, 0]], "add": [[0.2, 0, 0], ["Cu", -0.2, 0, 0]], "cells": [2]},
    },
}


def stillinger_weber() -> Manybody:
    """Phys. Rev. B 31, 5262 (1985)."""
    return Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))


@pytest.fixture(scope="module")
def small() -> Crystal:
    return Crystal(stillinger_weber(), "Si", "diamond", 5.5, 1)


@pytest.fixture(scope="module")
def larger() -> Crystal:
    return Crystal(stillinger_weber(), "Si", "diamond", 5.43, 2)


@pytest.fixture
def questions(tmp_path):
    """Function from changes to a file of questions about copper."""

    def write(**changes) -> str:
        path = tmp_path / "copper.yaml"
        path.write_text(yaml.safe_dump({name: one for name, one in (COPPER | changes).items() if one is not None}))
        return str(path)

    return write


@pytest.fixture(scope="module")
def copper(tmp_path_factory) -> dict[str, Answer]:
    path = tmp_path_factory.mktemp("copper") / "copper.yaml"
    path.write_text(yaml.safe_dump(COPPER, sort_keys=False))
    return answer(read_questions(str(path)), EMT())


def test_crystal_of_stillinger_and_weber(small):
    """Elastic constants: Cowley, Phys. Rev. Lett. 60, 2379 (1988); C44 is 117 GPa without the internal relaxation."""
    assert small.lattice_constant == pytest.approx(5.431, abs=1e-3)
    assert small.host.energy / 8 == pytest.approx(-2 * 2.1683, rel=1e-4)  # four bonds of depth epsilon, each shared
    elastic, notes = small.elastic_constants
    assert notes == ()
    assert elastic == pytest.approx({"C11": 151.4, "C12": 76.4, "C44": 56.4}, abs=0.2)
    assert small.bulk_modulus == pytest.approx((elastic["C11"] + 2 * elastic["C12"]) / 3, abs=0.3)


def test_phonons_are_among_those_of_the_whole_cell(small):
    """A cubic cell has the waves of Γ and of the three X; its Hessian is analytic."""
    hessian = small.calculator.get_hessian(small.perfect, format="sparse").todense()
    squares = np.linalg.eigvalsh(hessian) / small.perfect.get_masses()[0]
    whole = np.sqrt(np.abs(squares)) * np.sqrt(units._e / units._amu) * 1e10 / (2e12 * np.pi)
    ours = [small.phonons(wave) for wave in ([0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1])]
    np.testing.assert_allclose(np.sort(np.abs(np.concatenate(ours))), np.sort(whole), atol=0.01)
    with pytest.raises(InputError, match="does not fit into 1 cells"):
        small.phonons([0.5, 0, 0])


def test_surface_of_stillinger_and_weber(small):
    """0.1035 eV/Å^2 by the silicon-testing-framework, for an epsilon of 2.1675 eV."""
    found = small.surface_energy([1, 1, 0], 4, 12.0)
    assert found.value == pytest.approx(1.658, abs=0.01) and len(found.structure) % 4 == 0
    for face, bonds in (([1, 1, 1], 1), ([1, 0, 0], 2)):  # so many are cut for each atom of the surface cell
        slab = small.surface_energy(face, 3, 12.0).structure
        area = np.linalg.norm(np.cross(slab.cell[0], slab.cell[1]))
        cut = small.energy(slab) - len(slab) * small.host.energy / 8
        assert cut < 1.05 * 2 * bonds * 2.1683 * area / (
            small.lattice_constant**2 * (3**0.5 / 4 if bonds == 1 else 0.5)
        )


def test_vacancy_of_stillinger_and_weber(larger):
    """Unrelaxed, four bonds are lost; the relaxed one starts the path of the framework in 64 atoms, at 2.832 eV."""
    asked = read_questions("silicon").answers
    unrelaxed = larger.with_defect([(0, 0, 0)], [])
    assert larger.formation_energy(unrelaxed, relaxed=False).value == pytest.approx(2 * 2.1683, rel=1e-4)
    options = asked["vacancy"].options
    start = larger.with_defect(options["remove"], [("Si", place) for place in options["add"]])
    found = larger.formation_energy(start)
    assert found.value == pytest.approx(2.832, abs=0.03) and found.notes == () and len(found.structure) == 63


@pytest.mark.slow
def test_barrier_of_stillinger_and_weber(larger):
    """3.349 - 2.832 eV by the framework in 64 atoms."""
    found = larger.migration_barrier((0, 0, 0), (0.25, 0.25, 0.25), 3)
    assert found.value == pytest.approx(0.517, abs=0.03) and found.notes == ()


@pytest.mark.parametrize(
    "name", [name for name, one in read_questions("silicon").answers.items() if one.kind == "defect"]
)
def test_starts_of_silicon_are_structures(name):
    """With the atoms that the name says, none of them on another."""
    options = read_questions("silicon").answers[name].options
    crystal = Crystal(erhart_albe(), "Si", "diamond", 5.43, 2)
    atoms = crystal.with_defect(options["remove"], [("Si", place) for place in options["add"]])
    expected = -1 if "vacancy" in name else 2 if name.startswith("di-") else 1
    assert len(atoms) == 64 + expected
    distances = atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)]
    assert distances.min() > (1.75 if expected == 2 else 1.9)


def test_every_reference_of_silicon_says_where_it_is_from():
    found = read_questions("silicon")
    assert set(found.quick) <= set(found.answers) and found.lattice_constant == 5.469
    for name, one in found.answers.items():
        assert "DFT" in one.references or name == "vacancy, unrelaxed"
        assert all(len(reference.source) > 10 for reference in one.references.values())
    interstitials = ("dumbbell", "hexagonal", "tetrahedral")
    assert [found.answers[name].references["DFT"].value for name in interstitials] == [3.662, 3.724, 3.910]


def test_another_host_and_another_calculator(copper):
    """Of EMT (Jacobsen, Stoltze and Norskov, Surf. Sci. 366, 394 (1996)) for copper."""
    assert list(copper) == ["bulk modulus", "vacancy", "hop", "split"]
    assert list(copper["bulk modulus"].values) == [4] and list(copper["vacancy"].values) == [4, 32]
    assert copper["bulk modulus"].value == pytest.approx(134.8, abs=0.5) and copper["bulk modulus"].unit == "GPa"
    assert 0.9 < copper["vacancy"].value < 1.3 and 0.4 < copper["hop"].value < 1.0
    assert copper["split"].value > copper["vacancy"].value
    assert copper["vacancy"].error == pytest.approx(copper["vacancy"].value - 1.0)


def test_both_ends_of_a_path_are_the_same_structure(copper):
    """Else the barrier would be of neither."""
    crystal = Crystal(EMT(), "Cu", "fcc", 3.6, 2)
    site, moving = crystal.site((0, 0, 0)), crystal.site((0.5, 0.5, 0))
    start = crystal.perfect.copy()
    start.positions = crystal._pulled(site)
    start.rattle(0.05, seed=0)
    del start[site]
    end = crystal._hopped(start, site, moving)
    assert crystal.energy(end) == pytest.approx(crystal.energy(start), abs=1e-9)
    moved = np.linalg.norm(end.positions - start.positions, axis=1)
    assert (moved > 1).sum() == 1  # the atom that hops


def test_the_table_shows_what_there_is(copper):
    header, rows = answer_cells(copper)
    assert header == ["answer", "unit", "this model", "4 to 32 atoms", "DFT", "error", "other"]
    assert rows[0][2:] == ["135", "-", "140", "-5", "130"] and rows[3][-3:] == ["-", "-", "-"]
    doubted = {"vacancy": Answer("eV", {32: 1.234}, {"DFT": Reference(1.0, "of a book")}, 0.05, ("a note",))}
    header, rows = answer_cells(doubted)
    assert header == ["answer", "unit", "this model", "±", "DFT", "error"]
    assert rows == [["vacancy", "eV", "1.23", "0.05", "1.00", "+0.23"]]
    assert answers_text(doubted).splitlines()[-2:] == ["vacancy: a note", "DFT: of a book"]


def test_what_is_written_is_read_again(copper, tmp_path):
    write_answers(tmp_path, copper, {"model": "m"})
    record = json.loads((tmp_path / "answers.json").read_text())
    assert record["model"] == "m" and (tmp_path / "answers.png").stat().st_size > 10_000
    assert {name: Answer.of_record(one) for name, one in record["answers"].items()} == copper
    assert record["answers"]["vacancy"]["uncertainty"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latice_constant": 3}, "there is no 'latice_constant'; did you mean 'lattice_constant'?"),
        ({"formula": None}, "formula is missing"),
        ({"fmax": "small"}, "fmax cannot be 'small'"),
        ({"cells": [0]}, "cells must be whole numbers of at least 1"),
        ({"quick": ["vacancies"]}, "there is no 'vacancies'; did you mean 'vacancy'?"),
        ({"answers": {"a": {"kind": "defects"}}}, "a: its kind must be one of lattice constant, "),
        ({"answers": {"a": {"kind": "defect", "relaxed": True}}}, "a: there is no 'relaxed'; did you mean 'relax'?"),
        ({"answers": {"a": {"kind": "defect", "add": [[0, 0]]}}}, r"a: add has \[0, 0\], which is no place"),
        ({"answers": {"a": {"kind": "phonon", "q": [0, 0, 0]}}}, "a: branch is missing"),
        ({"answers": {"a": {"kind": "elastic", "constant": "C55"}}}, "must be C11, C12 or C44"),
        ({"answers": {"a": {"kind": "bulk modulus", "references": {"DFT": [1, "boook"]}}}}, "did you mean 'book'"),
        ({"answers": {"a": {"kind": "bulk modulus", "references": {"DFT": 1}}}}, "DFT must be a number and a key"),
    ],
)
def test_bad_questions_are_one_line(questions, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        read_questions(questions(**changes))
    assert "\n" not in str(caught.value)


def test_questions_that_do_not_fit_the_crystal(questions):
    with pytest.raises(InputError, match="a: there is no atom at 0.1, 0, 0"):
        answers = {"a": {"kind": "defect", "remove": [[0.1, 0, 0]]}}
        answer(read_questions(questions(answers=answers, quick=["a"])), EMT())
    with pytest.raises(InputError, match="Cu .hcp. is no cubic crystal"):
        answer(read_questions(questions(structure="hcp")), EMT())
    with pytest.raises(InputError, match="there are no answers of 'germanium'; name a YAML file, or one of: silicon"):
        read_questions("germanium")


def run(*argv: object) -> int:
    return run_command(lambda: main([str(word) for word in argv]))


def test_the_command_asks_any_calculator(questions, tmp_path, capsys):
    assert run("ase.calculators.emt:EMT", "--answers", questions(), "--output", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "bulk modulus" in printed and "DFT, other: of a book" in printed and "answers saved to" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"answers.json"}
    record = json.loads((tmp_path / "out" / "answers.json").read_text())
    assert record["model"] == "ase.calculators.emt:EMT" and record["host"].endswith("copper.yaml")


@pytest.fixture
def models(make_force_model, make_energy_model, structures, tmp_path) -> Path:
    """Models of forces, of energies of carbon, and of energies of silicon."""
    from modeling_adapt.crystal.trained_region import fit_domain
    from modeling_adapt.data.structures import structure_row

    kinds = {"forces": make_force_model, "carbon": make_energy_model, "silicon": make_energy_model}
    for name, make in kinds.items():
        model = make(architecture="pairwise", num_vector_channels=8)
        atoms = structures[0].copy()
        atoms.numbers[:] = 6 if name == "carbon" else 14
        model.config.training_domain = fit_domain([structure_row(atoms, np.zeros((len(atoms), 3)))]).to_dict()
        model.save_pretrained(tmp_path / name)
    return tmp_path


def test_models_that_cannot_answer_are_one_line(models, capsys):
    for name, message in (("forces", "gives forces and no energy"), ("carbon", "was trained on C only")):
        assert run(models / name, "--answers", "silicon", "--output", models / "out") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error and not (models / "out").exists()
    assert run(models / "silicon") == 2 and "name a data set, or what to answer" in capsys.readouterr().err
    assert run(models / "silicon", "--answers", "silicon", "--num-images", 2) == 2
    assert "leave out --ensemble" in capsys.readouterr().err
    for ignored in (["--energy-model", models / "carbon"], ["--dataset-revision", "v1"]):
        assert run(models / "silicon", "--answers", "silicon", *ignored) == 2
        assert ignored[0] in capsys.readouterr().err
    assert run(models / "silicon", "--answers", "silicon", "--revision", "v1") == 2
    assert "is a folder, which has no revision v1" in capsys.readouterr().err


def test_a_folder_of_ours_may_have_any_name(models, capsys, tmp_path):
    """Its answers have the hash of its weights, by which a card finds them; a calculator of others has none."""
    for name in ("mine.model", "one:two"):
        (models / "silicon").rename(models / name)
        assert not is_of_others(str(models / name))
        arguments = argparse.Namespace(model=str(models / name), subfolder="", revision=None)
        assert evaluate._which(arguments)["weights_sha256"] == weights_hash(models / name)
        (models / name).rename(models / "silicon")
    assert is_of_others("mine.model") and is_of_others("one:two") and not is_of_others("hf://datasets/a/b")


def test_a_model_of_ours_answers_in_double_precision(models, capsys, tmp_path):
    """Whatever an untrained one says; a note tells that it does not know the like."""
    one = {"kind": "defect", "remove": [[0, 0, 0]], "relax": False}
    content = {"formula": "Si", "structure": "diamond", "lattice_constant": 5.43, "cells": [1], "fmax": 0.1}
    (tmp_path / "q.yaml").write_text(yaml.safe_dump(content | {"answers": {"vacancy": one}}))
    status = run(models / "silicon", "--answers", tmp_path / "q.yaml", "--output", tmp_path / "out")
    printed = capsys.readouterr()
    if status == 2:
        assert "no minimum of the energy of Si (diamond)" in printed.err
    else:
        record = json.loads((tmp_path / "out" / "answers.json").read_text())
        assert record["weights_sha256"] and np.isfinite(record["answers"]["vacancy"]["value"])


def test_a_recipe_that_cannot_answer_is_refused_before_it_trains(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: pairwise-small\ndataset: nowhere\nanswers: silicon\n")
    assert run_command(lambda: train([str(recipe), "--output_dir", str(tmp_path / "run")])) == 2
    assert "the model of this recipe gives forces and no energy" in capsys.readouterr().err
    assert run_command(lambda: train([str(recipe), "--output_dir", str(tmp_path / "run"), "--answers", "gold"])) == 2
    assert "there are no answers of 'gold'" in capsys.readouterr().err


def test_questions_are_shipped_with_the_package():
    configured = Path(__file__).parents[1] / "configuration" / "answers"
    assert HOSTS.resolve() == configured.resolve()
