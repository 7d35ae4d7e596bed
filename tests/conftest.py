"""Settings and fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The machine may be busy: no example fails because it takes long.
settings.register_profile("mirrorlog", deadline=None)
settings.load_profile("mirrorlog")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Return the folder of real recordings, which aren't part of the project.

    A test that needs it is marked `traces`.
    """
    folder = REPOSITORY / os.environ.get("MIRRORLOG_TRACES", "../shared/traces")
    if not folder.is_dir():
        pytest.skip(f"MIRRORLOG_TRACES: the recordings aren't at {folder}")
    return folder
