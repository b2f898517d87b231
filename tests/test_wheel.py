"""What is built and installed: one package, with all it reads, and commands that run outside the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from ase.build import bulk
from hub_uploads import EXPECTED

import modeling_adapt
from configuration.versions_adapt import ADAPT_VERSION

ROOT = Path(modeling_adapt.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS, VERSION = PROJECT["scripts"], PROJECT["version"]


def _run(*command: str | Path, folder: Path, status: int = 0, seconds: int = 300, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        command, cwd=folder, env=inherited | environment, capture_output=True, text=True, timeout=seconds
    )
    assert ended.returncode == status, ended.stdout[-1000:] + ended.stderr[-2000:]
    return ended.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what a wheel is made of: building writes beside its sources."""
    copy = tmp_path_factory.mktemp("build") / "source"
    for name in ("configuration", "data_scripts", "modeling_adapt", "pretrained"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("CITATION.cff", "LICENSE", "README.md", "pyproject.toml", "train.py"):
        shutil.copy(ROOT / name, copy)
    return copy


def _wheel(source: Path, folder: Path) -> Path:
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder)
    _run(sys.executable, "-m", "pip", "wheel", *options, source, folder=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return _wheel(source, tmp_path_factory.mktemp("wheel"))


def _content(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_one_top_level_name_with_all_files_that_are_read(wheel):
    names = _content(wheel)
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2 and "modeling_adapt" in tops and any(top.endswith(".dist-info") for top in tops)
    there = {
        path.relative_to(ROOT).as_posix()
        for folder in (
            ROOT / "modeling_adapt",
            *(ROOT / "modeling_adapt" / name for name in ("configuration", "pretrained")),
        )
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert any(name.endswith(".json") for name in there) and any(name.endswith(".html.jinja") for name in there)
    assert {name for name in names if name.startswith("modeling_adapt/")} == there


def test_the_version_is_the_same_everywhere():
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert told["version"] == VERSION == ADAPT_VERSION
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"## {VERSION} ({told['date-released']})" in changes
    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == VERSION
    wanted = {re.sub(r"^torch\b", "pytorch", line).replace(" ", "") for line in PROJECT["dependencies"]}
    assert {line.replace(" ", "") for line in recipe["requirements"]["run"]} == wanted | {"python>=${{python_min}}"}


def test_a_source_distribution_builds_the_same_wheel(source, wheel, tmp_path):
    _run(
        sys.executable,
        "-c",
        "import sys, setuptools.build_meta as b; b.build_sdist(sys.argv[1])",
        tmp_path,
        folder=source,
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    assert _content(_wheel(archive, tmp_path)) == _content(wheel)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the package and, in `bin`, its commands."""
    folder = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--no-deps", "--no-index", "--target", folder)
    _run(sys.executable, "-m", "pip", "install", *options, wheel, folder=folder)
    return folder


def test_every_command_is_installed(installed):
    assert {path.name for path in (installed / "bin").iterdir()} == set(COMMANDS)


def test_commands_run_outside_the_checkout(installed, make_force_model, tmp_path):
    outside = {"folder": tmp_path, "PYTHONPATH": str(installed)}
    place = _run(sys.executable, "-c", "import modeling_adapt; print(modeling_adapt.__file__)", **outside)
    assert Path(place.strip()).is_relative_to(installed)
    assert _run(installed / "bin" / "adapt-relax", "--help", **outside).startswith("usage: adapt-relax ")
    make_force_model().save_pretrained(tmp_path / "model")
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.write(tmp_path / "atoms.extxyz")
    arguments = ("atoms.extxyz", "--model", "model", "--steps", "1", "--report", "--output", "relaxed")
    said = _run(installed / "bin" / "adapt-relax", *arguments, status=1, **outside)  # a step is not enough
    assert re.search("structures saved to: relaxed", said) and (tmp_path / "relaxed" / "report.html").is_file()


def test_the_model_in_the_box_is_there_by_name(installed, tmp_path):
    """
    Without the checkout on the path, without the Hub: the forces of its example, and all that goes out when it is
    published.
    """
    program = """if True:
        import json, sys, numpy as np
        from pathlib import Path
        import modeling_adapt
        from modeling_adapt import ADAPTFeatureExtractor, ADAPTForEnergy
        from modeling_adapt.hub.run_folder import open_runs
        from modeling_adapt.hub.staging import stage_repository
        box = Path(modeling_adapt.__file__).parent / "pretrained" / "adapt-si"
        example = json.loads((box / "example.json").read_text())
        model = ADAPTForEnergy.from_pretrained("adapt-si").eval()
        inputs = ADAPTFeatureExtractor.from_pretrained("adapt-si")(example)
        forces = model(**inputs, compute_forces=True).forces[0].detach().numpy()
        stage_repository(open_runs([box]), Path(sys.argv[1]), "org/adapt-si")
        print(modeling_adapt.__file__, np.abs(forces - example["forces"]).max())
    """
    staged, outside = tmp_path / "staged", {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
    said = _run(sys.executable, "-c", program, staged, folder=tmp_path, **outside)
    place, deviation = said.split()[-2:]
    assert Path(place).is_relative_to(installed) and float(deviation) < 1e-5
    names = {path.name for path in staged.iterdir()}
    assert EXPECTED <= names
    assert (staged / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert "10.48550/arXiv.2509.24115" in (staged / "README.md").read_text()


@pytest.mark.slow
def test_what_goes_to_an_index_installs_and_runs_where_nothing_else_is(source, tmp_path):
    """By the commands of `make dist`, and with pip from an index; skipped where none can be reached."""
    shutil.copy(ROOT / "Makefile", source)
    (source / ".venv" / "bin").mkdir(parents=True)
    (source / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (source / ".venv" / ".ready").touch()
    (source / "constraints.txt").write_text("")
    _run("make", "dist", "--assume-old=.venv/.ready", f"PYTHON={sys.executable}", folder=source)
    archive, wheel = sorted((source / "dist").iterdir(), key=lambda path: path.suffix)
    assert archive.name == f"adapt_force_field-{VERSION}.tar.gz" and wheel.name.startswith(
        f"adapt_force_field-{VERSION}-"
    )

    home = {"HOME": str(tmp_path / "home"), "PYTHONNOUSERSITE": "1"}
    for number, distribution in enumerate((wheel, archive)):
        clean = tmp_path / f"clean{number}"
        options = ("--system-site-packages",) if number else ()  # the second one takes what the first one needed
        _run(sys.executable, "-m", "venv", *options, clean, folder=tmp_path)
        python = clean / "bin" / "python"
        try:
            if not number:
                _run(python, "-m", "pip", "install", "--quiet", "torch", folder=tmp_path, seconds=1800, **home)
            _run(python, "-m", "pip", "install", "--quiet", distribution, folder=tmp_path, seconds=1800, **home)
        except AssertionError as error:
            if re.search("Could not find a version|connection|Connection|retries", str(error)):
                pytest.skip("no package index can be reached")
            raise
        for name in ("vacancy", "host"):
            shutil.copy(ROOT / "examples" / "silicon" / f"{name}.vasp", tmp_path)
        arguments = ("vacancy.vasp", "--host", "host.vasp", "--output", f"relaxed{number}")
        said = _run(clean / "bin" / "adapt-relax", *arguments, folder=tmp_path, seconds=900, **home)
        assert re.search(r"vacancy +63 +converged", said) and "E_f (eV)" in said


HELP = """
import sys
from importlib import import_module
module, _, name = sys.argv.pop(1).partition(":")
try:
    getattr(import_module(module), name)()
except SystemExit as end:
    assert not end.code
heavy = {"accelerate", "ase", "datasets", "matplotlib", "pandas", "scipy", "torch", "transformers"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "command",
    COMMANDS,
)
def test_help_waits_for_nothing_heavy(command):
    said = _run(sys.executable, "-c", HELP, COMMANDS[command], "--help", folder=ROOT)
    assert said.startswith("usage: ") and "example" in said
