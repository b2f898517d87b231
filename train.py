"""The command `train.py`; it is written in `modeling_adapt/cli/train.py`."""

import sys

from modeling_adapt.cli.console import train

if __name__ == "__main__":
    sys.exit(train())
