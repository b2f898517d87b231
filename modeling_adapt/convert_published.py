"""The command `python -m modeling_adapt.convert_published`; it is written in `cli/convert_published.py`."""

import sys

from .cli.command_line import run_command
from .cli.convert_published import main

if __name__ == "__main__":
    sys.exit(run_command(main))
