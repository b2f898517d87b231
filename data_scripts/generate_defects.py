"""The command `data_scripts/generate_defects.py`; it is written in `modeling_adapt/cli/generate_defects.py`."""

import sys

from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.generate_defects import main

if __name__ == "__main__":
    sys.exit(run_command(main))
