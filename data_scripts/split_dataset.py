"""The command `data_scripts/split_dataset.py`; it is written in `modeling_adapt/cli/split_dataset.py`."""

import sys

from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.split_dataset import main

if __name__ == "__main__":
    sys.exit(run_command(main))
