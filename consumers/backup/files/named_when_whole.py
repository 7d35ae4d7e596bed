"""A new file that gets its name when it is whole, and never replaces another one.

Until then it has no name (O_TMPFILE), so that a kill leaves nothing of it. Where the file system
can't do that, its name is `.restoring-` and random digits, and a kill leaves that.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

_DESCRIPTORS: Final = Path("/proc/self/fd")
_FLAGS: Final = os.O_WRONLY | os.O_CLOEXEC
_NOT_UNNAMED: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})


class NamedWhenWhole:
    """A file in the folder of the descriptor `folder`, which must stay open. fd: to write to it."""

    def __init__(self, folder: int, name: bytes, *, is_unnamed: bool = True) -> None:
        """Create the file. is_unnamed: without a name, if possible.

        Raise FileExistsError if something has the name, other OSErrors.
        """
        self._folder, self._name = folder, name
        self._first_name: bytes | None = None
        _raise_if_there(folder, name)
        if is_unnamed and _DESCRIPTORS.exists():
            try:
                self.fd = os.open(b".", _FLAGS | os.O_TMPFILE, 0o600, dir_fd=folder)
                return
            except OSError as error:
                if error.errno not in _NOT_UNNAMED:
                    raise
        first_name = b".restoring-" + secrets.token_hex(8).encode()
        flags = _FLAGS | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self.fd = os.open(first_name, flags, 0o600, dir_fd=folder)
        self._first_name = first_name

    def finish(self) -> None:
        """Give the file its name, and close it. Raise FileExistsError, OSError: give it up then."""
        first, name, folder = self._first_name, self._name, self._folder
        if first is None:
            # With the flag AT_SYMLINK_FOLLOW, linkat(2) links what the descriptor stands for.
            os.link(_DESCRIPTORS / str(self.fd), name, dst_dir_fd=folder, follow_symlinks=True)
        else:
            try:
                os.link(first, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
                os.unlink(first, dir_fd=folder)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                _raise_if_there(folder, name)
                os.rename(first, name, src_dir_fd=folder, dst_dir_fd=folder)
            self._first_name = None
        os.close(self.fd)

    def give_up(self) -> None:
        """Close and remove the file."""
        os.close(self.fd)
        if self._first_name is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._first_name, dir_fd=self._folder)


def _raise_if_there(folder: int, name: bytes) -> None:
    """Raise FileExistsError if something in the folder has the name."""
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
