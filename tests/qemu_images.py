"""What qemu-img says of images."""

from __future__ import annotations

import subprocess
from pathlib import Path

from deadlines import DEADLINE_S


def qemu_img(*arguments: str | Path) -> str:
    """Run qemu-img; fail unless it succeeds. Return what it printed."""
    ended = subprocess.run(
        ["qemu-img", *arguments], check=False, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def check_content(image: Path, raw: Path) -> None:
    """Check that a qcow2 image, with those below it, has the bytes of the file `raw`."""
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, image)
