"""The command `data_scripts/check_splits.py`; it is written in `modeling_adapt/cli/check_splits.py`."""

import sys

from modeling_adapt.cli.check_splits import main
from modeling_adapt.cli.command_line import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
