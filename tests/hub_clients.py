"""Processes to which the Hub of the tests is the Hub: one that keeps our package loaded, and strangers without it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# Where the packages are, without the editable install that would make this repository importable.
_BLIND = f"""\
import sys
sys.meta_path = [finder for finder in sys.meta_path if '__editable__' not in repr(finder)]
sys.path = [folder for folder in sys.path if folder != {str(ROOT)!r}]
"""

_LOOP = """
import contextlib, io, json, sys, types
sys.path.insert(0, sys.argv[1])
from huggingface_hub import file_download
from huggingface_hub.utils import _http
for module in (file_download, _http):  # between attempts
    module.time = types.SimpleNamespace(**vars(module.time) | {"sleep": lambda seconds: None})

import modeling_adapt
from modeling_adapt.errors import InputError

names = {}
answers = sys.stdout
for line in sys.stdin:
    printed = io.StringIO()
    names["result"] = error = None
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            exec(json.loads(line), names)
        except Exception as caught:
            error = [type(caught).__name__, str(caught)]
    answer = {"result": names["result"], "error": error, "printed": printed.getvalue()}
    print(json.dumps(answer), file=answers, flush=True)
"""


# How a stranger begins, who has neither our package nor ASE: `automatic` gives a model and its feature extractor.
STRANGER = """
import sys
sys.modules["ase"] = sys.modules["matscipy"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, pipeline

try:
    import modeling_adapt
    raise SystemExit("the package must not be importable here")
except ImportError:
    pass

def automatic(name, **options):
    options["trust_remote_code"] = True
    config = AutoConfig.from_pretrained(name, **options)
    model, info = AutoModel.from_pretrained(name, output_loading_info=True, **options)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert model.config.model_type == config.model_type
    return model.eval(), AutoFeatureExtractor.from_pretrained(name, **options)
"""


class Client:
    """
    A process with our package loaded that runs what it is given: loading takes seconds, and each test needs little.

    It does not wait between attempts of one request.
    """

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.home = Path(environment["HF_HOME"])
        self.log = folder / "client.log"
        folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOOP, str(ROOT)],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
        )

    def ask(self, code: str) -> dict[str, Any]:
        """Runs `code`; its variable `result` comes back, with what it printed and the type and text of an error."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        return json.loads(line)

    def run(self, code: str) -> Any:
        """As [`ask`], for what must go well: only the result."""
        answer = self.ask(code)
        assert answer["error"] is None, f"{answer['error']}\n{answer['printed'][-3000:]}"
        return answer["result"]

    def refused(self, code: str) -> str:
        """As [`ask`], for what must end in an [`InputError`] of one line: its text."""
        kind, text = self.ask(code)["error"] or ("nothing", "it went well")
        assert kind == "InputError" and "\n" not in text, f"{kind}: {text}"
        return text

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def run_stranger(code: str, environment: dict[str, str], *arguments: str | Path, cwd: str | Path = "/") -> str:
    """Runs `code` where our package cannot be imported; returns what it printed."""
    command = [sys.executable, "-c", _BLIND + code, *map(str, arguments)]
    run = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr[-4000:]
    return run.stdout
