"""Packages of mirrorlog's optional parts (extras), imported where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mirrorlog.errors import BadUse


def require_module(module: str, *, extra: str, purpose: str) -> Any:
    """Return a module, imported.

    extra: of mirrorlog's, which brings it. purpose: what needs it, as in "an archive in S3". Raise
    BadUse, which says how to install it, if it isn't installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise BadUse(
            f"{purpose} needs {package}, which isn't installed",
            next=f"Install the extra: pip install 'mirrorlog[{extra}]'.",
        ) from error
