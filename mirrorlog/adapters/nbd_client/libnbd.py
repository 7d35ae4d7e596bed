"""The functions of libnbd's C library that mirrorlog uses, by ctypes.

The C API is stable (libnbd(3)). No binding is on PyPI, and those of the distributions load in one
version of Python each. Every call releases Python's lock (the GIL) while it runs.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Any, ClassVar, Final

from mirrorlog.errors import BadUse

INSTALL_HINT: Final = (
    "On Debian and Ubuntu: apt install libnbd0. On Fedora and RHEL: dnf install libnbd."
)
SIZE_MINIMUM: Final = 0  # LIBNBD_SIZE_MINIMUM
SIZE_MAXIMUM: Final = 2
DIRECTION_READ: Final = 1  # LIBNBD_AIO_DIRECTION_READ
DIRECTION_WRITE: Final = 2
STATE_ZERO: Final = 2  # LIBNBD_STATE_ZERO: the extent reads as zeros
BASE_ALLOCATION: Final = b"base:allocation"
_free = ctypes.CDLL(None).free
_free.restype, _free.argtypes = None, (c_void_p,)
_FUNCTION_NAME: Final = re.compile(r"^nbd_[a-z_]+: ")
"""What libnbd puts before the text of an error."""

_COMPLETED = ctypes.CFUNCTYPE(c_int, c_void_p, ctypes.POINTER(c_int))
_FREED = ctypes.CFUNCTYPE(None, c_void_p)
_EXTENTS = ctypes.CFUNCTYPE(
    c_int,
    c_void_p,
    c_char_p,
    c_uint64,
    ctypes.POINTER(c_uint32),
    c_size_t,
    ctypes.POINTER(c_int),
)


class CompletionCallback(ctypes.Structure):
    """nbd_completion_callback. All NULL: nothing is called."""

    _fields_: ClassVar = [("callback", _COMPLETED), ("user_data", c_void_p), ("free", _FREED)]


class ExtentCallback(ctypes.Structure):
    """nbd_extent_callback."""

    _fields_: ClassVar = [("callback", _EXTENTS), ("user_data", c_void_p), ("free", _FREED)]


NO_COMPLETION: Final = CompletionCallback()
extents_function: Final = _EXTENTS

_FUNCTIONS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "nbd_create": (c_void_p, ()),
    "nbd_close": (None, (c_void_p,)),
    "nbd_get_error": (c_char_p, ()),
    "nbd_get_errno": (c_int, ()),
    "nbd_supports_tls": (c_int, (c_void_p,)),
    "nbd_set_tls_certificates": (c_int, (c_void_p, c_char_p)),
    "nbd_set_tls_psk_file": (c_int, (c_void_p, c_char_p)),
    "nbd_set_tls_verify_peer": (c_int, (c_void_p, ctypes.c_bool)),
    "nbd_add_meta_context": (c_int, (c_void_p, c_char_p)),
    "nbd_set_pread_initialize": (c_int, (c_void_p, ctypes.c_bool)),
    "nbd_set_full_info": (c_int, (c_void_p, ctypes.c_bool)),
    "nbd_get_export_description": (c_void_p, (c_void_p,)),
    "nbd_aio_connect_uri": (c_int, (c_void_p, c_char_p)),
    "nbd_aio_is_ready": (c_int, (c_void_p,)),
    "nbd_aio_is_connecting": (c_int, (c_void_p,)),
    "nbd_aio_is_processing": (c_int, (c_void_p,)),
    "nbd_aio_get_fd": (c_int, (c_void_p,)),
    "nbd_aio_get_direction": (c_int, (c_void_p,)),
    "nbd_aio_notify_read": (c_int, (c_void_p,)),
    "nbd_aio_notify_write": (c_int, (c_void_p,)),
    "nbd_aio_disconnect": (c_int, (c_void_p, c_uint32)),
    "nbd_aio_command_completed": (c_int, (c_void_p, c_uint64)),
    "nbd_aio_peek_command_completed": (c_int64, (c_void_p,)),
    "nbd_poll": (c_int, (c_void_p, c_int)),
    "nbd_get_size": (c_int64, (c_void_p,)),
    "nbd_get_block_size": (c_int64, (c_void_p, c_int)),
    "nbd_is_read_only": (c_int, (c_void_p,)),
    "nbd_can_flush": (c_int, (c_void_p,)),
    "nbd_can_zero": (c_int, (c_void_p,)),
    "nbd_can_multi_conn": (c_int, (c_void_p,)),
    "nbd_can_meta_context": (c_int, (c_void_p, c_char_p)),
    "nbd_aio_pread": (
        c_int64,
        (c_void_p, c_void_p, c_size_t, c_uint64, CompletionCallback, c_uint32),
    ),
    "nbd_aio_pwrite": (
        c_int64,
        (c_void_p, c_void_p, c_size_t, c_uint64, CompletionCallback, c_uint32),
    ),
    "nbd_aio_zero": (c_int64, (c_void_p, c_uint64, c_uint64, CompletionCallback, c_uint32)),
    "nbd_aio_flush": (c_int64, (c_void_p, CompletionCallback, c_uint32)),
    "nbd_aio_block_status": (
        c_int64,
        (c_void_p, c_uint64, c_uint64, ExtentCallback, CompletionCallback, c_uint32),
    ),
}
_NEWER: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "nbd_set_tls_hostname": (c_int, (c_void_p, c_char_p)),  # since 1.22
}


@cache
def load_libnbd() -> Any:
    """Return the library, whose functions have their types set. Those of _NEWER may be missing.

    Raise BadUse, which names what to install, if there is none or if it is too old.
    """
    try:
        library = ctypes.CDLL("libnbd.so.0")
    except OSError:
        name = ctypes.util.find_library("nbd")
        if name is None:
            raise BadUse(
                "libnbd isn't installed, and an NBD address needs it", next=INSTALL_HINT
            ) from None
        library = ctypes.CDLL(name)
    for name, (result, arguments) in (_FUNCTIONS | _NEWER).items():
        function = getattr(library, name, None)
        if function is None and name in _NEWER:
            continue
        if function is None:
            raise BadUse(
                f"the installed libnbd is too old: it lacks {name}",
                next=f"It must be 1.12 or later. {INSTALL_HINT}",
            )
        function.restype, function.argtypes = result, arguments
    return library


def take_string(pointer: int | None) -> str | None:
    """Return the string at a pointer that libnbd returned, and free it. None for NULL."""
    if pointer is None:
        return None
    try:
        return ctypes.string_at(pointer).decode("utf-8", "replace")
    finally:
        _free(pointer)


def last_error(library: Any) -> tuple[str, int]:
    """Return the text and the errno of this thread's last failed call; 0 if it has no errno."""
    text = library.nbd_get_error()
    words = "unknown error" if text is None else text.decode("utf-8", "replace")
    return _FUNCTION_NAME.sub("", words), library.nbd_get_errno()
