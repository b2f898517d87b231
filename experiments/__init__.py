"""Experiments of the paper and beyond it, as commands: `python -m experiments NAME`."""
