"""The command `data_scripts/split_dataset.py`; it is written in `modeling_adapt/cli/split_dataset.py`."""

import sys

from modeling_adapt.cli.console import split

if __name__ == "__main__":
    sys.exit(split())
