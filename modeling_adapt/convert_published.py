"""The command `python -m modeling_adapt.convert_published`; it is written in `cli/convert_published.py`."""

import sys

from .cli.console import convert

if __name__ == "__main__":
    sys.exit(convert())
