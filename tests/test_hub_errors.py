"""Which line an error comes to when something is read from the Hub; over HTTP see test_hub_loading.py."""

import errno

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError

from modeling_adapt.hub_access import hub_problem, is_full_disk

MISSING_FILE = "org/x does not appear to have a file named model.safetensors."


def wrapped(cause: Exception) -> OSError:
    """As transformers hands it on."""
    try:
        raise OSError("cannot be loaded") from cause
    except OSError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        OfflineModeIsEnabled("offline"),
        LocalEntryNotFoundError("not in the cache"),
        wrapped(LocalEntryNotFoundError("not in the cache")),
        ConnectionError("Couldn't reach the Hub"),
        OSError(MISSING_FILE),
    ],
)
def test_offline_what_the_cache_lacks_is_said(monkeypatch, error):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "org/x is not, or not whole, in the cache" in str(hub_problem(error, "org/x"))


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "/cache/config.json"),
        IsADirectoryError(errno.EISDIR, "Is a directory", "/cache/config.json"),
        OSError("It looks like the config file at '/cache/config.json' is not a valid JSON file."),
        ValueError(MISSING_FILE),
    ],
)
def test_offline_other_errors_are_not_those_of_the_cache(monkeypatch, error):
    """The remedy, to run without HF_HUB_OFFLINE, would not help."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub_problem(error, "org/x") is None


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (SafetensorError("Error while deserializing header: header too small"), False),
        (OSError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_full_disks(error, full):
    assert is_full_disk(error) == full
