"""Fixtures shared by the tests: real data beside the checkout, and small seeded models."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder_or_skip(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no {name} folder beside the checkout")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real DFT data (`../shared/data`); the test is skipped where it is absent."""
    return _folder_or_skip("data")


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Reference outputs of the published code (`../shared/reference`); the test is skipped where it is absent."""
    return _folder_or_skip("reference")
