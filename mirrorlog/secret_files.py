"""Secrets in files: passwords and tokens that are in no environment, file of settings or option."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

MAX_SECRET_BYTES: Final = 64 << 10
_BY_FILE: Final = "_file"
_SECRET: Final = re.compile(
    r"password|passphrase|secret|token|credential|private|jaas|user\.info|ssl\.key\.pem"
    r"|oauthbearer\.config"
)
_NO_SECRET: Final = (".file", ".location", ".url", _BY_FILE)
"""How the names of settings end that name a place, whatever else is in them."""


def is_secret_name(name: str) -> bool:
    """Return whether a setting of librdkafka, of S3 or of a schema registry holds a secret."""
    return _SECRET.search(name) is not None and not name.endswith(_NO_SECRET)


def with_secrets_from_files(options: Mapping[str, str]) -> dict[str, str]:
    """Return options in which each secret NAME_file is NAME, with what the file holds.

    Raise ValueError, which names the option, if a file can't be used or both options are there.
    """
    known: dict[str, str] = {}
    for name, value in options.items():
        secret = name.removesuffix(_BY_FILE)
        if secret == name or not is_secret_name(secret):
            known[name] = value
            continue
        if secret in options:
            raise ValueError(f"{secret} and {name} are both set")
        try:
            known[secret] = read_secret(Path(value))
        except ValueError as error:
            raise ValueError(f"{name} is '{value[:60]}': {error}") from None
    return known


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
