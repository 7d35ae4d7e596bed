"""Contracts of real devices and folders are about the disk."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a new folder on the disk."""
    return tmp_path_factory.mktemp("contract", numbered=True)
