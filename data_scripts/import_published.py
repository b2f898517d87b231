"""The command `data_scripts/import_published.py`; it is written in `modeling_adapt/cli/import_published.py`."""

import sys

from modeling_adapt.cli.console import import_published

if __name__ == "__main__":
    sys.exit(import_published())
