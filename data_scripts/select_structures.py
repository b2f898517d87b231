"""The command `data_scripts/select_structures.py`; it is written in `modeling_adapt/cli/select_structures.py`."""

import sys

from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.select_structures import main

if __name__ == "__main__":
    sys.exit(run_command(main))
