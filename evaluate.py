"""The command `evaluate.py`; it is written in `modeling_adapt/cli/evaluate.py`."""

import sys

from modeling_adapt.cli.console import evaluate

if __name__ == "__main__":
    sys.exit(evaluate())
