"""The command `data_scripts/import_published.py`; it is written in `modeling_adapt/cli/import_published.py`."""

import sys

from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.import_published import main

if __name__ == "__main__":
    sys.exit(run_command(main))
