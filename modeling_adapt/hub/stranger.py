"""Loads a folder as somebody does who has only transformers, and says whether it computes what its example says."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError

TOLERANCE = 1e-5  # eV/Å or eV, and of the value

# Runs in a process of its own. Our packages are refused there, so that only what the folder brings along counts.
_PROGRAM = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_adapt", "configuration", "data_scripts"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
import numpy as np
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, pipeline
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
folder, subfolders, tolerance = json.loads(sys.argv[1])
remote = {"trust_remote_code": True}
found = {}
for subfolder in subfolders:
    where = remote | {"subfolder": subfolder}
    config = AutoConfig.from_pretrained(folder, **where)
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True, dtype=torch.float32, **where)
    model.eval()
    problems = [str(key) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[kind]]
    if problems:
        raise SystemExit(f"weights that do not fit: {problems[0]} and {len(problems) - 1} more")
    extract = AutoFeatureExtractor.from_pretrained(folder, **where)
    with open("/".join(filter(None, (folder, subfolder, "example.json"))), encoding="utf-8") as file:
        example = json.load(file)
    options = {"compute_forces": True} if "energy" in example and "forces" in example else {}
    output = model(**extract(example), **options)
    answers = {name: output[name][0].detach().numpy() for name in ("forces", "energy") if name in example}
    if not subfolder and getattr(config, "custom_pipelines", None):
        said = pipeline(model=folder, **remote)(example)
        answers |= {f"pipeline {name}": values for name, values in said.items() if name in example}
    for name, values in answers.items():
        expected = np.asarray(example[name.split()[-1]])
        if not np.allclose(values, expected, rtol=tolerance, atol=tolerance):
            raise SystemExit(f"{name} differ from the example by {np.abs(values - expected).max():.2e}")
        found[f"{subfolder or 'root'} {name}"] = float(np.abs(values - expected).max())
print(json.dumps(found))
"""


def check_as_stranger(folder: str | Path, subfolders: Sequence[str] = ("",)) -> dict[str, float]:
    """Loads every model of `folder` in a clean process, without network, cache or our package.

    Returns:
        `dict[str, float]`: Largest deviation from the example of everything that was compared.

    Raises:
        [`InputError`]: It does not load, has weights too many or too few, or computes something else.
    """
    with tempfile.TemporaryDirectory(prefix="adapt-stranger-") as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
        # Environment modules of clusters, and pip's --target, bring what transformers needs by PYTHONPATH.
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
        environment |= {"HF_HOME": home, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        run = subprocess.run(
            [sys.executable, "-c", _PROGRAM, json.dumps([str(folder), list(subfolders), TOLERANCE])],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
        )
    if run.returncode != 0:
        lines = run.stderr.strip().splitlines() or [f"exit status {run.returncode}"]
        raise InputError(f"the folder to be published does not work for a stranger: {lines[-1]}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found
