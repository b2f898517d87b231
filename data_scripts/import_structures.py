"""The command `data_scripts/import_structures.py`; it is written in `modeling_adapt/cli/import_structures.py`."""

import sys

from modeling_adapt.cli.console import import_structures

if __name__ == "__main__":
    sys.exit(import_structures())
