"""The command `data_scripts/build_dataset.py`; it is written in `modeling_adapt/cli/build_dataset.py`."""

import sys

from modeling_adapt.cli.build_dataset import main
from modeling_adapt.cli.command_line import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
