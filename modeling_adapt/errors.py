"""The one exception for input that the user can put right."""


class InputError(ValueError):
    """Bad input: one clear line that names the file, row or atom and the remedy. Commands print it and exit with 2."""
