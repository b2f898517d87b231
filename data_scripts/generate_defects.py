"""The command `data_scripts/generate_defects.py`; it is written in `modeling_adapt/cli/generate_defects.py`."""

import sys

from modeling_adapt.cli.console import generate

if __name__ == "__main__":
    sys.exit(generate())
