"""The command `neb.py`; it is written in `modeling_adapt/cli/neb.py`."""

import sys

from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.neb import main

if __name__ == "__main__":
    sys.exit(run_command(main))
