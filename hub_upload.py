"""The command `hub_upload.py`; it is written in `modeling_adapt/cli/hub_upload.py`."""

import sys

from modeling_adapt.cli.console import upload

if __name__ == "__main__":
    sys.exit(upload())
