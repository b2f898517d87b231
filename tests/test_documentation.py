"""Every block of README.md and docs/ is run as printed, at a small size, and prints what it is said to print."""

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import hub_server
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import write
from conftest import SHARED, STATISTICS
from documentation import ROOT, Block, blocks, is_command, not_printed, pages, skeleton, steps
from documentation_runner import VISIBLE, Runner
from hub_server import Hub, running_hub
from test_import_vasp import steps as ionic_steps
from test_import_vasp import vasprun

from modeling_adapt import ADAPTEnergyConfig, ADAPTForEnergy
from modeling_adapt.data.sources import read_sources

HUB = "https://huggingface.co"  # for which the Hub of the tests stands
OUTPUT = "only its form is looked at"

# What is not run, or is not told what it is by its fence and its first line -> (how it is checked, why).
EXCEPTIONS: dict[tuple[str, str], tuple[str, str]] = {
    (
        "docs/scaling.md",
        "training in 2 processes on cpu; 8 structures a step (4 x 2 processes x 1 accumulated)",
    ): (OUTPUT, "what two processes print; test_two_processes (slow) starts them"),
    ("docs/train_your_own.md", "$ python evaluate.py runs/silicon --answers silicon --output results/answers"): (
        OUTPUT,
        "minutes, of a model that was trained to the end; test_answers asks quicker ones",
    ),
}
# Pages of commands as they were run for hours, whose data sets and models the tests have not.
LONG = {"docs/results.md": "its commands are those of the experiments"}
# Blocks that read real data, which lie beside the checkout and not in it.
NEEDS_PACKAGE = {"from pymatgen": "pymatgen", "from matcalc": "matcalc"}  # that may not be installed
NEEDS_SHARED = ("adapt_ni_br_frames_0-11.pt", "force_weights.pth")

# What a page finds in its folder, of what the fixture `prepared` makes; the rest it makes itself.
GIVEN: dict[str, dict[str, str]] = {
    "docs/use_a_model.md": {"runs/silicon": "energy", "runs/second": "energy", "runs/defects": "forces"},
    "docs/train_your_own.md": {"runs/demo/model": "forces"},
    "docs/share_it.md": {
        "runs/silicon": "energy",
        "runs/defects": "forces",
        "datasets/silicon": "data",
        "results/silicon": "results",
    },
    "docs/geometry.md": {"datasets/silicon": "data"},
    "docs/relaxing.md": {"runs/si-energy": "energy"},
    "docs/scaling.md": {"DATASET": "data"},
}
ON_THE_HUB = ("docs/use_a_model.md",)  # pages for which organisation/adapt-si-defects is there already

# Lines that depend on how a run ends.
VARIES = (
    r"^\w+: step \d+: ",  # where a relaxation left the trained region
    r"^  (Yes|No): ",
    r"^  vacancy: ",
    r"^config types: ",
    r"^ +[\d.]+ [kM]B  ",  # which figures and records a run has
)
# Commands that a block leaves to the reader's imagination: a line that begins their output -> the command.
UNSAID = {
    "What came out": 'python -c "from pathlib import Path; from examples.demo import summarise; '
    "summarise(Path('runs/demo/relaxed'), converged=True)\"",
}
# A structure that is not like the small data, or a relaxation of two steps, is no fault of the documentation.
MAY_END_WITH_1 = ("relax.py", "neb.py", "check_splits.py")


def write_inputs(folder: Path) -> None:
    """The files that the pages name: structures, labelled structures, weights of the published code."""
    crystal = bulk("Si", cubic=True, a=5.43).repeat(2)
    vacancy, interstitial = crystal.copy()[1:], crystal.copy()
    interstitial.append("Si")
    interstitial.positions[-1] = crystal.positions[0] + 2.715
    for number, atoms in enumerate((vacancy, interstitial)):
        atoms.rattle(0.05, seed=number)
    for name, atoms in {"vacancy": vacancy, "interstitial": interstitial, "host": crystal}.items():
        write(folder / f"{name}.extxyz", atoms)
        write(folder / f"{name}.cif", atoms)
    write(folder / "silicon.extxyz", crystal)
    for name, site in (("before", 0), ("after", 1)):
        write(folder / f"{name}.cif", crystal[[number for number in range(len(crystal)) if number != site]])
    (folder / "pairs.csv").write_text("start,end\nbefore.cif,after.cif\n")
    write(folder / "POSCAR", vacancy, format="vasp")
    for place in ("candidates", "interstitials"):
        (folder / place).mkdir()
        for number in range(3):
            interstitial.rattle(0.02, seed=number)
            write(folder / place / f"{number}.cif", interstitial)
    rng = np.random.default_rng(0)
    for name, count in (("si-dft-train", 10), ("si-dft-valid", 3), ("new-defect", 10)):
        frames = []
        for index in range(count):
            perfect = bulk("Si", cubic=True).repeat((1 + index % 2, 1, 1))[1 + index % 3 :]
            atoms = perfect.copy()
            atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
            moved = atoms.positions - perfect.positions
            atoms.arrays["REF_forces"] = -5.0 * moved
            atoms.info |= {"REF_energy": -5.0 * len(atoms) + 2.5 * float((moved**2).sum()), "config_type": "rattled"}
            frames.append(atoms)
        write(folder / f"{name}.extxyz", frames)
    write_published(folder)
    write_open_data(folder / "FOLDER")
    for number in range(10):
        run = folder / "RUNS" / f"vacancy_{number}"
        run.mkdir(parents=True)
        (run / "vasprun.xml").write_text(vasprun(ionic_steps(2, seed=number)))
    if SHARED.is_dir():
        for path in (SHARED / "data").glob("adapt_*"):
            (folder / path.name).symlink_to(path)
        for path in (SHARED / "reference").glob("*.pth"):
            (folder / path.name).symlink_to(path)


def write_open_data(folder: Path) -> None:
    """Small files in place of those that `open-defects.yaml` lists, with what it reads of their frames."""
    runs = {"gan": "x/v_N/q=0/vasprun.xml", "zns": "x/v_S_0/vasp_std/OUTCAR", "mgo": "x/Mg_O_0/vasp_std/OUTCAR"}
    runs["cdte"] = "x/Cd_i_0/vasp_gam/vasprun.xml"
    for source in read_sources(ROOT / "configuration/datasets/open-defects.yaml").sources:
        path = folder / source.files[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        atoms = bulk("Si", cubic=True)
        atoms.arrays["REF_forces"] = np.ones((8, 3))
        atoms.info = {"REF_energy": -40.0, "config_type": "v_Si", "charge": 0}
        atoms.info["source"] = next((run for name, run in runs.items() if path.name.startswith(name)), "x")
        write(path, atoms)


def write_published(folder: Path) -> None:
    """Weights and statistics as the published code saves them, of small networks."""
    generator = torch.Generator().manual_seed(0)

    def linear(name: str, inputs: int, outputs: int) -> dict[str, torch.Tensor]:
        weight = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(outputs)}

    def norm(name: str, size: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": torch.ones(size), f"{name}.bias": torch.zeros(size)}

    forces = linear("lin1", 12, 16) | linear("lin2", 16, 16) | linear("lin3", 16, 16) | norm("embed_norm", 16)
    for layer in ("layers.0", "layers.1"):
        forces |= linear(f"{layer}.self_attn.out_proj", 16, 16) | linear(f"{layer}.linear1", 16, 24)
        forces |= linear(f"{layer}.linear2", 24, 16) | norm(f"{layer}.norm1", 16) | norm(f"{layer}.norm2", 16)
        packed = linear(f"{layer}.self_attn.in_proj", 16, 48)
        forces |= {name.replace("in_proj.", "in_proj_"): value for name, value in packed.items()}
    forces |= norm("norm", 16) | linear("output_linear", 16, 3)
    torch.save(forces, folder / "force.pth")
    mlp = ADAPTForEnergy(ADAPTEnergyConfig(max_atoms=24, energy_hidden_sizes=(16, 8)))
    names = {f"adapt.trunk.blocks.{block}.": f"model.{block + 1}." for block in (0, 1)}
    names["energy_head.linear."] = "model.3."
    energy = {}
    for name, value in mlp.state_dict().items():
        ours = next(one for one in names if name.startswith(one))
        energy[name.replace(ours, names[ours])] = value
    torch.save(energy, folder / "energy.pth")
    statistics = {"x_mean": STATISTICS["feature_mean"], "x_std": STATISTICS["feature_std"]}
    statistics |= {"y_mean_force": STATISTICS["force_mean"], "y_std_force": STATISTICS["force_std"]}
    (folder / "stats.json").write_text(json.dumps(statistics | {"y_mean_energy": [-1170.0], "y_std_energy": [5.0]}))


@pytest.fixture(scope="module")
def shared_hub() -> Iterator[Hub]:
    """A Hub on which `organisation` may be written to."""
    known = dict(hub_server.USERS)
    hub_server.USERS["hf_writer"] = ("writer", ("organisation", "org"), True)
    hub_server.USERS["hf_reader"] = ("reader", ("organisation", "org"), False)
    with running_hub() as hub:
        yield hub
    hub_server.USERS.clear()
    hub_server.USERS.update(known)


@pytest.fixture(scope="module")
def runner(shared_hub, tmp_path_factory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("runner")
    runner = Runner(folder, shared_hub.env(folder / "hf"))
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for name in VISIBLE:
        (folder / name).symlink_to(ROOT / name)
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(runner, inputs, shared_hub) -> Path:
    """Data, two trained models and an evaluation, for the pages that begin with them; both models are on the Hub."""
    script = """
    python data_scripts/import_structures.py train=si-dft-train.extxyz validation=si-dft-valid.extxyz datasets/silicon
    python train.py configuration/recipes/si-dft-pairwise.yaml --dataset datasets/silicon --output_dir runs/silicon
    python train.py configuration/recipes/demo.yaml --dataset datasets/silicon --output_dir runs/defects
    python evaluate.py runs/silicon datasets/silicon --split validation --output results/silicon
    python hub_upload.py runs/defects organisation/adapt-si-defects --energy runs/silicon --license mit --tag v1
    """
    done = runner.shell(script, inputs, DOCUMENTATION_STRANGERS="1")
    assert done.status == 0, done.output
    kept = inputs.parent / "prepared"
    kept.mkdir()
    names = {"datasets/silicon": "data", "runs/silicon": "energy", "runs/defects": "forces"}
    for source, name in (names | {"results/silicon": "results"}).items():
        (inputs / source).rename(kept / name)
    for name in ("datasets", "runs", "results"):
        (inputs / name).rmdir()
    shared_hub.prepared = shared_hub.repositories
    return kept


class Reader:
    """Runs a page from top to bottom in a folder of its own."""

    def __init__(self, runner: Runner, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.runner, self.folder, self.environment = runner, folder, dict(environment or {})
        self.python = runner.python(folder, **self.environment)
        self.printed = ""  # by the block before

    def problems(self, block: Block) -> list[str]:
        """What is wrong with a block, each in a few lines."""
        how, _ = EXCEPTIONS.get((block.page, block.first_line), (None, ""))
        if how == OUTPUT:
            return []
        if block.page in LONG:
            return self._run(block, DOCUMENTATION_CHECK="options")
        return self._run(block)

    def _run(self, block: Block, **changes: str) -> list[str]:
        if block.kind == "data":
            return []
        if block.kind == "output":
            return [f"{block}: not printed: {line}" for line in not_printed(block.text, self.printed, VARIES)]
        if block.kind == "python":
            status, self.printed = self.python.run(block.text)
            return [f"{block}: {self.printed}"] if status else []
        if block.kind == "script":
            names = {"SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_NNODES": "2", "SLURM_NODEID": "0", "SLURM_JOB_ID": "1"}
            status, self.printed = self.runner.shell(block.text, self.folder, **self.environment, **changes, **names)
            return [f"{block}: {self.printed}"] if status else []
        if block.kind not in ("session", "commands"):
            return [f"{block}: nothing says what this block is: {block.first_line}"]
        found: list[str] = []
        self.printed = ""
        for step in steps(block):
            status, printed = self.runner.shell(step.command, self.folder, **self.environment, **changes)
            self.printed += printed
            shown = step.output or ""
            expected = status == 0 or status == 1 and any(name in step.command for name in MAY_END_WITH_1)
            if shown.startswith("error: "):
                expected = status == 2
            if not expected or "Traceback" in printed:
                return [*found, f"{block}: '{step.command}' ended with status {status}:\n{printed}"]
            for begin, command in UNSAID.items():
                if re.search(rf"^{begin}$", shown, re.MULTILINE):
                    printed += self.runner.shell(command, self.folder, **self.environment).output
            found += [
                f"{block}: '{step.command}' does not print: {line}\nbut\n{printed}"
                for line in not_printed(shown.replace(HUB, self.runner.environment["HF_ENDPOINT"]), printed, VARIES)
            ]
        return found

    def close(self) -> None:
        self.python.close()


@pytest.fixture
def read(runner, inputs, prepared, shared_hub, tmp_path) -> Iterator:
    """Function from a page, and where it is, to what is wrong with it."""
    readers = []

    def read(name: str, path: Path | None = None) -> list[str]:
        folder = tmp_path / "work"
        shutil.copytree(inputs, folder, symlinks=True)
        for target, source in GIVEN.get(name, {}).items():
            shutil.copytree(prepared / source, folder / target)
        shared_hub.repositories = copy.deepcopy(shared_hub.prepared) if name in ON_THE_HUB else {}
        readers.append(reader := Reader(runner, folder))
        found: list[str] = []
        for block in blocks(path or ROOT / name, name):
            if any(file in block.text for file in NEEDS_SHARED) and not SHARED.is_dir():
                continue
            if any(text in block.text and find_spec(package) is None for text, package in NEEDS_PACKAGE.items()):
                continue
            found += reader.problems(block)
        return found

    yield read
    for reader in readers:
        reader.close()


@pytest.mark.parametrize("page", pages())
def test_the_blocks_of_a_page_run_and_print_what_they_say(page, read):
    problems = read(page)
    assert not problems, "\n\n".join(problems)


def test_every_block_is_of_a_class_and_every_exception_of_a_block():
    found = [block for page in pages() for block in blocks(ROOT / page, page)]
    named = {(block.page, block.first_line) for block in found}
    assert set(EXCEPTIONS) <= named
    unknown = [
        str(block) for block in found if block.kind is None and (block.page, block.first_line) not in EXCEPTIONS
    ]
    assert not unknown, unknown
    for page in ("use_a_model", "train_your_own", "share_it", "convert_published_weights"):
        assert sum(block.page == f"docs/{page}.md" for block in found) > 3


PLANTED = {
    "python evaluate.py runs/silicon datasets/silicon --splitt validation": "unrecognized arguments: --splitt",
    "python train.py configuration/recipes/demo.yaml --dataset datasets/silicon --learning 1": "no field '--learning'",
    "python data_scripts/no_such.py": "No such file",
    "make demonstration": "No rule to make target",
    "accelerate launch --config_file configuration/accelerate/tpu.yaml train.py": "tpu.yaml",
    "$ python data_scripts/check_splits.py datasets/silicon\nshared atoms: none": "does not print: shared atoms: none",
    "$ python data_scripts/check_splits.py datasets/silicon\nerror: no splits": "ended with status 0",
    "curl -O somewhere": "nothing says what this block is",
    "$ curl -O somewhere": "begins with no program",
    "```python\nfrom modeling_adapt import NoSuchModel\n```": "ImportError",
    "```python\nprint(1)\n```\n```text\none\n```": "not printed: one",
    "```rust\nfn main() {}\n```": "nothing says what this block is",
    "```\npython train.py": "the fence is not closed",
}


@pytest.mark.parametrize("text", PLANTED)
def test_what_is_wrong_is_found(text, runner, inputs, prepared, tmp_path):
    shutil.copytree(inputs, tmp_path / "work", symlinks=True)
    for target, source in {"runs/silicon": "energy", "datasets/silicon": "data"}.items():
        shutil.copytree(prepared / source, tmp_path / "work" / target)
    page = tmp_path / "page.md"
    page.write_text(text if text.startswith("```") else f"```\n{text}\n```\n")
    reader = Reader(runner, tmp_path / "work")
    try:
        problems = [problem for block in blocks(page, "page.md") for problem in reader.problems(block)]
    except ValueError as error:
        problems = [str(error)]
    finally:
        reader.close()
    assert PLANTED[text] in "\n".join(problems), problems


def test_numbers_may_differ_and_words_may_not():
    printed = (
        "step  2  epoch 0.4  MAE 12.5 (zero 30.1)\nname  atoms  status\n----  -----  ------\na  7  left\nsaved to: x"
    )
    assert not not_printed("step 160 epoch 1.0 MAE 48.6 ...\nname  atoms  status\n----  -----  ------", printed)
    assert not not_printed("name  atoms  status\n----  -----  ------\nb         3  left", printed)
    assert not_printed("name  atoms  state\n----  -----  -----", printed) == ["name  atoms  state"]
    assert not_printed("saved to: y", printed) == ["saved to: y"]
    assert not_printed("step 160 epoch 1.0 RMSE 48.6 ...", printed)
    assert skeleton("a 1.5e-07 b-2 (3 %)") == "a # b-# (# %)"
    assert is_command('A_B=1 python x.py "a b"') and not is_command("the python")


@pytest.mark.slow
def test_two_processes(runner, inputs, prepared, tmp_path):
    """`accelerate` itself, which the pages are checked without."""
    (tmp_path / "runs").mkdir()
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(ROOT / "configuration/accelerate/cpu.yaml"), str(ROOT / "train.py")]
    command += [str(ROOT / "configuration/recipes/si-dft-pairwise.yaml"), "--dataset", str(prepared / "data")]
    command += [
        "--max_steps",
        "2",
        "--eval_strategy",
        "no",
        "--save_strategy",
        "no",
        "--load_best_model_at_end",
        "false",
    ]
    command += ["--output_dir", str(tmp_path / "run")]
    done = subprocess.run(command, env=runner.environment, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    shown = next(first for page, first in EXCEPTIONS if page == "docs/scaling.md")
    assert skeleton(shown) in {skeleton(line) for line in done.stdout.split("\n")}, done.stdout
