"""The command `hub_upload.py`; it is written in `modeling_adapt/cli/hub_upload.py`."""

import sys

from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.hub_upload import main

if __name__ == "__main__":
    sys.exit(run_command(main))
