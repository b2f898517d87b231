"""The command `data_scripts/check_splits.py`; it is written in `modeling_adapt/cli/check_splits.py`."""

import sys

from modeling_adapt.cli.console import check_splits

if __name__ == "__main__":
    sys.exit(check_splits())
