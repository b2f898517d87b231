"""
What would go to the Hugging Face Hub, and the card as it would be: a dry run, which needs no token and no network; the
same command without `--dry-run` publishes. Give the folder of your run and ORG/NAME, or it is the model in the box.
"""

import sys
from importlib.resources import files

from modeling_adapt.cli import hub_upload
from modeling_adapt.cli.command_line import run_command


def main(model: str | None = None, repository: str = "my-name/adapt-si") -> int:
    """Exit status of the command. The box itself is the folder of a checkpoint, as train.py writes it."""
    model = model or str(files("modeling_adapt") / "pretrained" / "adapt-si")
    return run_command(lambda: hub_upload.main([model, repository, "--license", "mit", "--dry-run"]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
