"""
Runs what the documentation says as a reader would: by bash, in a folder where the names that it uses exist.

Starting Python costs seconds and the documentation has many commands. So `python` and `accelerate` are here small
programs that ask a process which has the packages loaded to fork one that goes on as the command. Where a command is
too long for a test, it gets the options of `SMALLER` in addition, of which the last counts; nothing else is changed.
"""

import contextlib
import io
import json
import os
import runpy
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]
VISIBLE = ("configuration", "data_scripts", "modeling_adapt", "benchmarks", "examples", "space", "tests", "Makefile")
VISIBLE += ("train.py", "evaluate.py", "relax.py", "neb.py", "hub_upload.py", "pyproject.toml", "constraints.txt")

# What a script gets in addition, as its last options.
SMALLER = {
    "train.py": "--max_steps 2 --eval_strategy steps --eval_steps 2 --save_strategy steps --save_steps 2 "
    "--warmup_steps 1 --per_device_train_batch_size 2 --per_device_eval_batch_size 4 "
    "--train_subset 100 --disable_tqdm true",
    "data_scripts/generate_defects.py": "--structures 10 --frames 1 --steps 1 --md-steps 1 --repeat 2 --num-proc 1",
    "relax.py": "--steps 2 --fmax 100",
    "neb.py": "--steps 2 --fmax 100 --images 1",
}
UNLESS_GIVEN = {"evaluate.py": "--checks 1"}  # what a script gets where the command does not say it
_ENVIRONMENT_OF_IMPORTS = ("HF_HUB_OFFLINE", "HF_HOME", "HF_ENDPOINT")  # read when the packages are imported


class Finished(NamedTuple):
    """
    Args:
        status (`int`): Exit status of the shell, or 1 where Python code raised.
        output (`str`): What was printed, stdout and stderr in order.
    """

    status: int
    output: str


class Runner:
    """The loaded process, and the shell whose `python` it is."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.socket, self.log = folder / "socket", folder / "log"
        bin_folder = self.programs = folder / "bin"
        bin_folder.mkdir(parents=True)
        for name in ("python", "accelerate", "hf"):
            _write_program(bin_folder / name, f"#!{sys.executable} -IS\nSOCKET = {str(self.socket)!r}\n{_ASK}")
        _write_program(bin_folder / "make", f'#!/bin/sh\nexec {shutil.which("make")} -C {ROOT} --dry-run "$@"\n')
        _write_program(bin_folder / "srun", '#!/bin/sh\nexec "$@"\n')  # one machine stands for all of them
        _write_program(bin_folder / "scontrol", "#!/bin/sh\necho node-1\n")
        self.environment = dict(environment) | {
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "PYTHONIOENCODING": "utf-8",
            "DOCUMENTATION_PYTHON": sys.executable,
            "DOCUMENTATION_RUNNER": __file__,
            "DOCUMENTATION_LOADED": json.dumps({name: environment.get(name) for name in _ENVIRONMENT_OF_IMPORTS}),
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__, "serve", str(self.socket)],
            env=self.environment,
            stdin=subprocess.PIPE,  # its end is the end of the process
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
        )

    def wait(self) -> None:
        """Until the packages are loaded."""
        while not self.socket.exists():
            assert self._process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def shell(self, script: str, folder: Path, timeout: float = 900, **changes: str) -> Finished:
        """Runs lines of bash in `folder`; the first one that fails ends them."""
        self.wait()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=self.environment | changes,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
        return Finished(done.returncode, done.stdout.decode("utf-8", "replace"))

    def start(self, code: str, *arguments: str | Path, **changes: str) -> "subprocess.Popen[str]":
        """A process that runs `code` with arguments in this checkout, as `python -c` would."""
        self.wait()
        return subprocess.Popen(
            [self.programs / "python", "-c", code, *arguments],
            cwd=ROOT,
            env=self.environment | changes,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def python(self, folder: Path, **changes: str) -> "PythonSession":
        """A process that runs blocks of Python, which share their names."""
        self.wait()
        return PythonSession(str(self.socket), folder, self.environment | changes)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


class PythonSession:
    """One process for the Python of a page."""

    def __init__(self, address: str, folder: Path, environment: Mapping[str, str]) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(address)
        request = {"program": "session", "arguments": [], "folder": str(folder), "environment": dict(environment)}
        _send(self._connection, request, [0, 1, 2])
        self._answers = self._connection.makefile("r", encoding="utf-8")

    def run(self, code: str) -> Finished:
        line = ""
        with contextlib.suppress(OSError):  # a process that has died is told below
            self._connection.sendall((json.dumps(code) + "\n").encode())
            line = self._answers.readline()
        return Finished(*json.loads(line)) if line else Finished(1, "the process has died")

    def close(self) -> None:
        self._answers.close()
        self._connection.close()


# The program that stands for `python`: hands its files, folder and environment over, and waits for the exit status.
_ASK = """
import json, os, socket, struct, sys
loaded = json.loads(os.environ["DOCUMENTATION_LOADED"])
program = os.path.basename(sys.argv[0])
if any(os.environ.get(name) != value for name, value in loaded.items()):
    python, runner = os.environ["DOCUMENTATION_PYTHON"], os.environ["DOCUMENTATION_RUNNER"]
    os.execv(python, [python, runner, program, *sys.argv[1:]])
connection = socket.socket(socket.AF_UNIX)
connection.connect(SOCKET)
request = {"program": program, "arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}
content = json.dumps(request).encode()
socket.send_fds(connection, [struct.pack("!Q", len(content))], [0, 1, 2])
connection.sendall(content)
sys.exit(int(connection.recv(16) or 139))
"""


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _send(connection: socket.socket, request: Mapping[str, Any], files: Sequence[int]) -> None:
    content = json.dumps(request).encode()
    socket.send_fds(connection, [struct.pack("!Q", len(content))], files)
    connection.sendall(content)


# ---------------------------------------------------------------------------------------------- the loaded process


def _serve(address: str) -> None:
    _load()
    server = socket.socket(socket.AF_UNIX)
    server.bind(address + "~")
    server.listen(16)
    os.rename(address + "~", address)  # now it answers
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    if os.fork() == 0:  # a process that ends with the tests, however they end, and takes the other along
        server.close()
        os.read(0, 1)
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(0)
    while True:
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            _answer(connection)
        connection.close()


def _load() -> None:
    """Imports what the commands import."""
    os.environ["MPLBACKEND"] = "Agg"
    sys.path.insert(0, str(ROOT))
    import accelerate.commands.launch
    import ase.optimize
    import datasets
    import matplotlib.figure
    import matplotlib.pyplot
    import transformers
    from hub_uploads import PIXEL

    import modeling_adapt.cli.build_dataset
    import modeling_adapt.cli.check_splits
    import modeling_adapt.cli.describe_dataset
    import modeling_adapt.cli.generate_defects
    import modeling_adapt.cli.import_published
    import modeling_adapt.cli.import_structures
    import modeling_adapt.cli.split_dataset
    import modeling_adapt.convert_published
    import modeling_adapt.evaluation.compare
    import modeling_adapt.evaluation.report
    import modeling_adapt.simulation.inputs
    import modeling_adapt.simulation.neb
    import modeling_adapt.simulation.report
    import modeling_adapt.training.preparation
    from modeling_adapt.cli import evaluate, hub_upload, relax, train

    # Drawing is the longest part of many commands, and no page shows what it draws.
    matplotlib.figure.Figure.savefig = lambda self, path, **_: Path(path).write_bytes(PIXEL)

    # Parts of transformers are loaded when they are first named.
    parts = (transformers.AutoModel, transformers.AutoFeatureExtractor, transformers.pipeline)
    parts += (accelerate, ase, datasets, matplotlib, evaluate, hub_upload, modeling_adapt, relax, train)
    assert all(parts)


def _answer(connection: socket.socket) -> NoReturn:
    """Becomes the process that is asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    header, files, _, _ = socket.recv_fds(connection, 8, 3)
    (length,), content = struct.unpack("!Q", header), b""
    while len(content) < length:
        content += connection.recv(length - len(content))
    request = json.loads(content)
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["program"] == "session":
        _session(connection)
    status = _run(request["program"], request["arguments"])
    with contextlib.suppress(OSError):
        connection.sendall(str(status).encode())
    os._exit(status)


def _run(program: str, arguments: list[str]) -> int:
    try:
        {"python": _python, "accelerate": _accelerate, "hf": _hf}[program](arguments)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _python(arguments: list[str]) -> None:
    if not arguments:
        raise SystemExit("python without a script would wait for input")
    first, *rest = arguments
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        if os.environ.get("DOCUMENTATION_CHECK") == "options" or first.startswith("benchmarks/"):
            _end_after_the_options()
        if first == "hub_upload.py" and "DOCUMENTATION_STRANGERS" not in os.environ:
            _trust_the_folder()
        more = UNLESS_GIVEN.get(first, "").split()
        more = more if not set(more) & set(rest) else []
        sys.argv = [first, *rest, *more, *SMALLER.get(first, "").split()]
        sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")


def _end_after_the_options() -> None:
    """The command reads its options, or says what is wrong with them, and does no more."""
    import argparse

    import modeling_adapt.training.arguments as of_training

    def ending(read: Any) -> Any:
        def read_and_end(*arguments: Any, **options: Any) -> NoReturn:
            read(*arguments, **options)
            raise SystemExit(0)

        return read_and_end

    of_training.parse_arguments = ending(of_training.parse_arguments)
    argparse.ArgumentParser.parse_args = ending(argparse.ArgumentParser.parse_args)  # type: ignore[method-assign]


def _trust_the_folder() -> None:
    """Loading what goes out in a process of its own takes ten seconds; one upload of the tests does it."""
    import modeling_adapt.hub.stranger

    modeling_adapt.hub.stranger.check_as_stranger = lambda folder, subfolders: {"forces": 1e-9}


def _accelerate(arguments: list[str]) -> None:
    """Reads the launch as `accelerate` does, its configuration too; one process stands for those it would start."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    if arguments[0] != "launch":
        raise SystemExit(f"accelerate {arguments[0]} is not known here")
    launch = launch_command_parser().parse_args(arguments[1:])
    if launch.config_file is not None:
        load_config_from_file(launch.config_file)
    _python([launch.training_script, *launch.training_script_args])


def _hf(arguments: list[str]) -> None:
    sys.argv = ["hf", *arguments]
    from huggingface_hub.cli.hf import main

    main()


def _session(connection: socket.socket) -> NoReturn:
    names: dict[str, Any] = {"__name__": "__main__"}
    sys.argv = [""]
    for line in connection.makefile("r", encoding="utf-8"):
        printed, status = io.StringIO(), 0
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                exec(compile(json.loads(line), "<documentation>", "exec"), names)
            except BaseException:
                traceback.print_exc()
                status = 1
        connection.sendall((json.dumps([status, printed.getvalue()]) + "\n").encode())
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(sys.argv[2])
    sys.path.insert(0, str(ROOT))
    sys.exit(_run(sys.argv[1], sys.argv[2:]))
