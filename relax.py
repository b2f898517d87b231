"""The command `relax.py`; it is written in `modeling_adapt/cli/relax.py`."""

import sys

from modeling_adapt.cli.console import relax

if __name__ == "__main__":
    sys.exit(relax())
