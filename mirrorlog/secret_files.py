"""Secrets in files: passwords and tokens that are in no environment, file of settings or option."""

from __future__ import annotations

from pathlib import Path
from typing import Final

MAX_SECRET_BYTES: Final = 64 << 10


def read_secret(path: Path) -> str:
    """Return the secret that a file holds, without the newline at its end.

    Raise ValueError if the file can't be read, or holds no text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
        secret = content.decode().rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"the file can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("the file isn't text in UTF-8") from None
    if not secret or len(content) > MAX_SECRET_BYTES:
        raise ValueError(f"the file must hold 1 to {MAX_SECRET_BYTES} bytes")
    return secret
