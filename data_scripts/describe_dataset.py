"""The command `data_scripts/describe_dataset.py`; it is written in `modeling_adapt/cli/describe_dataset.py`."""

import sys

from modeling_adapt.cli.console import describe

if __name__ == "__main__":
    sys.exit(describe())
