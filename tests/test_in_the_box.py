"""The model that comes with the package: by its bare name, or without any; and the numbers of its card."""

import json
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase.build import bulk
from transformers import pipeline

import modeling_adapt
from modeling_adapt import ADAPTEnergyConfig, ADAPTFeatureExtractor, ADAPTForEnergy
from modeling_adapt.cli import evaluate, hub_upload, relax
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.hub.card import write_model_card
from modeling_adapt.loading import load_model, weights_hash
from modeling_adapt.modeling_adapt import forces_of
from modeling_adapt.pretrained_adapt import DEFAULT_MODEL, in_the_box
from modeling_adapt.simulation.calculator import ADAPTCalculator

README = Path(__file__).parents[1] / "README.md"
BOX = Path(modeling_adapt.__file__).parent / "pretrained" / DEFAULT_MODEL


@pytest.fixture
def example() -> dict:
    return json.loads((BOX / "example.json").read_text())


def test_it_is_small_and_has_no_code():
    assert sum(path.stat().st_size for path in BOX.iterdir()) < 4e6
    assert not list(BOX.glob("*.py")) and not list(BOX.glob("*.bin"))


def test_the_bare_name_gives_the_answer_of_its_example(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ADAPTForEnergy.from_pretrained(DEFAULT_MODEL).eval()
    extract = ADAPTFeatureExtractor.from_pretrained(DEFAULT_MODEL)
    output = forces_of(model, **extract(example))
    assert np.abs(output.forces[0].numpy() - example["forces"]).max() < 1e-5
    assert output.energy.item() == pytest.approx(example["energy"], abs=1e-4)
    assert ADAPTEnergyConfig.from_pretrained(DEFAULT_MODEL).pairwise_cutoff == model.config.cutoff == extract.cutoff


def test_a_folder_of_that_name_is_meant_by_its_path(tmp_path, monkeypatch, make_energy_model):
    monkeypatch.chdir(tmp_path)
    make_energy_model(architecture="pairwise", num_vector_channels=8).save_pretrained(DEFAULT_MODEL)
    assert load_model(DEFAULT_MODEL)[0].config.num_vector_channels == 32
    assert load_model(f"./{DEFAULT_MODEL}")[0].config.num_vector_channels == 8
    assert load_model(Path(DEFAULT_MODEL))[0].config.num_vector_channels == 8
    assert ADAPTForEnergy.from_pretrained(Path(DEFAULT_MODEL)).config.num_vector_channels == 8
    assert ADAPTForEnergy.from_pretrained(tmp_path / DEFAULT_MODEL).config.num_vector_channels == 8
    assert in_the_box(f"org/{DEFAULT_MODEL}") == f"org/{DEFAULT_MODEL}"
    assert in_the_box("runs") == "runs" and in_the_box(None) is None and in_the_box("..") == ".."


def test_no_name_means_it(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    atoms = bulk("Si", cubic=True)
    del atoms[0]
    atoms.calc = ADAPTCalculator()
    assert atoms.get_potential_energy() < 0 and atoms.calc.domain is not None
    said = pipeline("atom-forces")(example)
    assert np.abs(np.array(said["forces"]) - example["forces"]).max() < 1e-5
    ase.io.write("POSCAR", atoms)
    assert run_command(lambda: relax.main(["POSCAR", "--steps", "1"])) in (0, 1)
    assert "poscar" in capsys.readouterr().out
    assert len(ase.io.read("relaxed/poscar.relaxed.extxyz")) == 7


def test_the_card_has_the_numbers_of_the_files():
    card = (BOX / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    metrics = json.loads((BOX / "metrics.json").read_text())
    said = {metric["name"]: metric["value"] for metric in header["model-index"][0]["results"][0]["metrics"]}
    assert said["Force MAE (meV/Å)"] == pytest.approx(metrics["force_mae_mev_per_ang"])
    assert said["Energy MAE (meV/atom)"] == pytest.approx(metrics["energy_mae_mev_per_atom"])
    answers = json.loads((BOX / "answers.json").read_text())
    assert answers["weights_sha256"] == weights_hash(BOX)
    recipe = yaml.safe_load((BOX / "recipe.yaml").read_text())
    assert recipe["message_degree"] >= 1 and "si-dft" in card
    parameters = sum(weight.numel() for weight in ADAPTForEnergy.from_pretrained(BOX).parameters())
    assert re.search(rf"\({parameters:,} parameters\)|\({parameters} parameters\)", card)


def test_the_card_is_what_its_files_give(tmp_path):
    """Made anew from them it says the same, but for the versions of what wrote it."""
    for path in BOX.iterdir():
        if path.name != "model.safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    anew = write_model_card(tmp_path, "org/adapt-si", license="mit")
    of_versions = re.compile(r"\nWritten and checked with .*?\n.*?\n")
    assert of_versions.sub("\n", anew) == of_versions.sub("\n", (BOX / "README.md").read_text())


def test_it_is_of_the_recipe_that_is_here():
    """What stands in `configuration/recipes/si-dft-pairwise.yaml` is what it was trained with."""
    recipe = yaml.safe_load((BOX.parents[1] / "configuration/recipes/si-dft-pairwise.yaml").read_text())
    written = yaml.safe_load((BOX / "recipe.yaml").read_text())
    defaults = {"save_strategy": "steps"}  # what is written leaves out
    assert {name: (defaults | written)[name] for name in recipe} == recipe


def test_it_is_published_as_it_is(tmp_path):
    command = [str(BOX), "org/adapt-si", "--license", "mit", "--save", str(tmp_path / "out")]
    assert run_command(lambda: hub_upload.main(command)) == 0
    assert weights_hash(tmp_path / "out") == weights_hash(BOX)
    for name in ("recipe.yaml", "example.json", "config.json"):
        assert (tmp_path / "out" / name).is_file()


@pytest.mark.parametrize("option", [["--dry-run"], ["--private"], ["--dataset", "data"]])
def test_what_keeps_a_model_here_says_what_it_would_ignore(tmp_path, capsys, option):
    command = [str(BOX), "org/adapt-si", *option, "--save", str(tmp_path / "out")]
    assert run_command(lambda: hub_upload.main(command)) == 2
    assert f"leave out {option[0]}" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_its_doubt_is_not_written_over(springs, capsys):
    before = (BOX / "doubt.safetensors").read_bytes()
    assert (
        run_command(lambda: evaluate.main([DEFAULT_MODEL, str(springs), "--split", "validation", "--calibrate"])) == 2
    )
    assert "comes with the package" in capsys.readouterr().err
    assert (BOX / "doubt.safetensors").read_bytes() == before


def test_readme_has_the_answers_of_this_model():
    """README.md is written by hand: whoever trains the box anew writes its tables anew."""
    error = json.loads((BOX / "metrics.json").read_text())["force_mae_mev_per_ang"]
    assert f"| **{error:.1f}** after" in README.read_text()
    told = json.loads((BOX / "answers.json").read_text())["answers"]
    rows = re.findall(r"^\| ([^|]+?) \((?:Å|eV|GPa)\) \| ([^|]+) \| ([^|]+) \|", README.read_text(), re.MULTILINE)
    assert len(rows) == 7
    for names, ours, reference in rows:
        for name, value, dft in zip(names.split(", "), ours.split(", "), reference.split(", "), strict=True):
            value, _, uncertainty = value.partition(" ± ")
            answer, digits = told[name], len(value.partition(".")[2])
            assert value == f"{answer['value']:.{digits}f}", name
            assert dft == f"{answer['references']['DFT']['value']:.{digits}f}", name
            assert not uncertainty or uncertainty == f"{answer['uncertainty']:.2f}", name
