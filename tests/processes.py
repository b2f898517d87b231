"""Two processes that work together, as a launcher would start them, but forks of one that has the packages loaded."""

import socket
from typing import NamedTuple

from documentation_runner import Runner

_COMMAND = """
import sys
from importlib import import_module
from modeling_adapt.cli.command_line import run_command
command = import_module(f"modeling_adapt.cli.{sys.argv[1]}")
sys.exit(run_command(lambda: command.main(sys.argv[2:])))
"""


class Ended(NamedTuple):
    """The first status that is not 0, and what both have printed."""

    status: int
    stdout: str
    stderr: str


def launched(forks: Runner, command: str, *arguments: str) -> Ended:
    """A command of `modeling_adapt.cli` in two processes, which find each other as `torchrun` has it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = ({"RANK": rank, "LOCAL_RANK": rank} for rank in "01")
    both = [forks.start(_COMMAND, command, *arguments, **meeting, **rank) for rank in ranks]
    try:
        printed = [process.communicate(timeout=300) for process in both]
    finally:
        for process in both:  # one that waits for another which has died
            process.kill()
    status = next((process.returncode for process in both if process.returncode), 0)
    return Ended(status, "".join(out for out, _ in printed), "".join(error for _, error in printed))
