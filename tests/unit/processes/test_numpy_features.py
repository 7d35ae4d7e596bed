"""Where NumPy's sort for AVX-512 is slow, the node's process doesn't use it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from mirrorlog.processes import numpy_features
from mirrorlog.processes.numpy_features import avoid_slow_sorts, is_zen_4, numpy_environment

VARIABLE = "NPY_DISABLE_CPU_FEATURES"
ZEN_4 = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
flags\t\t: fpu avx2 avx512f avx512dq avx512vl
bugs\t\t:

processor\t: 1
vendor_id\t: AuthenticAMD
"""
ZEN_3 = ZEN_4.replace(" avx512f avx512dq avx512vl", "")
ZEN_5 = ZEN_4.replace("family\t: 25", "family\t: 26")
INTEL = ZEN_4.replace("AuthenticAMD", "GenuineIntel")


@pytest.mark.parametrize(
    ("cpu_info", "expected"),
    [
        (ZEN_4, True),
        (ZEN_3, False),
        (ZEN_5, False),
        (INTEL, False),
        (ZEN_3 + ZEN_4, False),
        ("processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\n", False),
        ("", False),
    ],
)
def test_zen_4_is_told_from_other_processors(cpu_info: str, expected: bool) -> None:
    assert is_zen_4(cpu_info) is expected


@pytest.fixture
def cpu_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(ZEN_4)
    monkeypatch.setattr(numpy_features, "_CPU_INFO", path)
    monkeypatch.setattr(numpy_features, "version", lambda _: "2.4.6")
    return path


def test_the_feature_is_left_out_only_where_that_is_faster(
    cpu_info: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert numpy_environment() == {VARIABLE: "X86_V4"}
    cpu_info.write_text(INTEL)
    assert numpy_environment() == {}
    cpu_info.unlink()
    assert numpy_environment() == {}
    cpu_info.write_text(ZEN_4)
    monkeypatch.setattr(numpy_features, "version", lambda _: "2.3.9")
    assert numpy_environment() == {}


@pytest.mark.usefixtures("cpu_info")
def test_what_the_environment_says_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "as it was")  # it is set again when the test ends
    monkeypatch.delenv(VARIABLE)
    avoid_slow_sorts()
    assert os.environ[VARIABLE] == "X86_V4"
    monkeypatch.setenv(VARIABLE, "")
    avoid_slow_sorts()
    assert os.environ[VARIABLE] == ""


def test_the_node_command_imports_no_numpy_before_it_says_so() -> None:
    code = (
        "import sys, mirrorlog.cli.main, mirrorlog.cli.commands.node; print('numpy' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ended.stdout == "False\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="it is a feature of x86")
def test_numpy_knows_the_feature_without_a_warning() -> None:
    code = "import numpy; numpy.sort(numpy.array([2, 1]))"
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=True,
        env={VARIABLE: "X86_V4"},
    )
