"""Auto classes and pipelines find ours, whichever package is imported first; each order in a process of its own."""

import json
import subprocess
import sys

import pytest

from modeling_adapt import ADAPTFeatureExtractor

# What every user may then expect: of a folder without code, so that nothing but what is installed can serve it.
USE = """
import sys
from pathlib import Path
from ase.build import bulk
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor, pipeline
import modeling_adapt
from modeling_adapt import auto_classes

folder = sys.argv[1]
found = [one.from_pretrained(folder) for one in (AutoConfig, AutoModel, AutoFeatureExtractor, AutoProcessor)]
forces = pipeline("atom-forces", model=folder)
for one in (*found, forces, forces.model):
    assert type(one).__module__.startswith("modeling_adapt."), type(one)
assert forces(bulk("Si"))["forces"].shape == (2, 3)
assert not any(isinstance(finder, auto_classes._Watcher) for finder in sys.meta_path)  # it has nothing left to do
"""


# Torch and ASE take seconds and have no part in it: one process has them, and each order is tried in a fork of it.
LOADED = """
import json, os, sys, traceback
import ase.build, torch
for line in sys.stdin:
    code, *sys.argv[1:] = json.loads(line)
    if child := os.fork():
        print(json.dumps(os.waitpid(child, 0)[1] == 0), flush=True)
        continue
    try:
        exec(code, {"__name__": "__main__"})
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Function that runs code where nothing of transformers and of ours is imported yet."""
    log = tmp_path_factory.mktemp("loaded") / "log"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with log.open("w") as errors, subprocess.Popen([sys.executable, "-c", LOADED], stderr=errors, **pipes) as loaded:

        def run(code: str, *arguments: str) -> None:
            loaded.stdin.write(json.dumps([code, *arguments]) + "\n")
            loaded.stdin.flush()
            assert loaded.stdout.readline() == "true\n", log.read_text()[-2000:]

        yield run


@pytest.mark.parametrize(
    "first",
    [
        "import modeling_adapt\nfrom transformers import AutoModel, pipeline",
        "from transformers import AutoModel, pipeline\nimport modeling_adapt",
        "import modeling_adapt\nfrom transformers import AutoProcessor",
        "from transformers import AutoConfig\nfrom modeling_adapt import ADAPTForForces",
        "from modeling_adapt.pipeline_adapt import AtomForcesPipeline",
        "import modeling_adapt\nfrom transformers import BertModel",
        "import modeling_adapt.pairwise_adapt",
        "import transformers.pipelines\nfrom modeling_adapt import ADAPTFeatureExtractor",
        "from transformers import Trainer\nfrom modeling_adapt.configuration import ADAPTConfig",
    ],
)
def test_any_order_of_imports(make_force_model, tmp_path, run, first):
    make_force_model().save_pretrained(tmp_path)
    ADAPTFeatureExtractor().save_pretrained(tmp_path)
    for file in tmp_path.glob("*.py"):
        file.unlink()
    for name in ("config.json", "preprocessor_config.json"):
        content = json.loads((tmp_path / name).read_text())
        assert content.pop("auto_map")
        (tmp_path / name).write_text(json.dumps(content))
    run(first + "\n" + USE, str(tmp_path))


def test_what_is_saved_brings_its_code_along(tmp_path, run):
    """With one name of ours imported and none of transformers."""
    small = dict(embedding_sizes=[8], hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    made = f"ADAPTForForces(ADAPTForForces.config_class(**{small}))"
    run(f"import sys\nfrom modeling_adapt import ADAPTForForces\n{made}.save_pretrained(sys.argv[1])", str(tmp_path))
    assert sorted(json.loads((tmp_path / "config.json").read_text())["auto_map"]) == ["AutoConfig", "AutoModel"]


def test_what_computes_nothing_imports_nothing_heavy():
    """The package alone, and all that prepares data, in every process that does."""
    code = """
import sys, modeling_adapt
assert not {"numpy", "torch", "transformers"} & set(sys.modules)
import modeling_adapt.data.build.mixing, modeling_adapt.data.defects.generation, modeling_adapt.data.split.duplicates
assert not {"torch", "transformers"} & set(sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr


def test_names_are_listed_and_others_refused(run):
    code = """
import modeling_adapt
assert set(modeling_adapt.__all__) <= set(dir(modeling_adapt)) and "ADAPTForForces" in modeling_adapt.__all__
assert all(getattr(modeling_adapt, name).__name__ == name for name in modeling_adapt.__all__)
from modeling_adapt import pairwise_adapt
try:
    modeling_adapt.ADAPTForStress
except AttributeError as error:
    assert str(error) == "module 'modeling_adapt' has no attribute 'ADAPTForStress'"
else:
    raise AssertionError
"""
    run(code)
