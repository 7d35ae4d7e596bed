"""What NumPy uses of the processor, where its own choice is slow.

On AMD's Zen 4, a store of the lanes that a mask selects (VPCOMPRESSD to memory) is microcode, and
NumPy's sort for AVX-512 consists of such stores. Measured with NumPy 2.4 and 2.5 on an EPYC of that
family, a number of 32 bits takes 25 ns in an array of 250,000, and 4 ns by the sort for AVX2. The
node sorts every block number that it records.
"""

from __future__ import annotations

import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Final

_CPU_INFO: Final = Path("/proc/cpuinfo")  # proc(5)
_VARIABLE: Final = "NPY_DISABLE_CPU_FEATURES"
_AVX512: Final = "X86_V4"
_NAMED_SINCE: Final = (2, 4)
"""The first version of NumPy whose features have such names."""
_READ_BYTES: Final = 8192
"""The file describes one processor after the other, in about 1.5 KB each."""


def avoid_slow_sorts() -> None:
    """Let NumPy sort without AVX-512 where that is faster.

    NumPy looks into the environment when it is imported. Call this before, or it changes nothing.
    What the environment says of NumPy's features already is left as it is.
    """
    for name, value in numpy_environment().items():
        os.environ.setdefault(name, value)


def numpy_environment() -> dict[str, str]:
    """Return the environment variables with which NumPy sorts faster here; none on most machines.

    NumPy knows no such feature on processors other than x86, or before version 2.4.
    """
    return {_VARIABLE: _AVX512} if is_zen_4(_cpu_info()) and _has_feature_names() else {}


def is_zen_4(cpu_info: str) -> bool:
    """Return whether the first processor in `cpu_info` (/proc/cpuinfo) is of AMD's Zen 4.

    Its family is that of Zen 3, which has no AVX-512.
    """
    first = cpu_info.split("\n\n", 1)[0]
    fields = dict(re.findall(r"^(\S[^\t:]*)\s*: ?(.*)$", first, re.MULTILINE))
    return (
        fields.get("vendor_id") == "AuthenticAMD"
        and fields.get("cpu family") == "25"
        and "avx512f" in fields.get("flags", "").split()
    )


def _cpu_info() -> str:
    try:
        with _CPU_INFO.open(errors="replace") as file:
            return file.read(_READ_BYTES)
    except OSError:
        return ""


def _has_feature_names() -> bool:
    parts = version("numpy").split(".")
    return tuple(int(part) for part in parts[:2]) >= _NAMED_SINCE
