"""qemu-img reads each kept point after points were removed, whichever these are."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest
from plain_images import BackupWorld
from qcow2_points import FORMS
from qemu_images import check_content, qemu_img

from mirrorlog.adapters.backup_folder import FolderBackups
from mirrorlog.consumers.backup.repository.object_names import image_name

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img isn't installed"),
]


@pytest.mark.parametrize("form", FORMS)
def test_qemu_img_checks_and_compares_what_prunes_of_any_subset_keep(
    form: str, tmp_path: Path
) -> None:
    """The volume grows and shrinks, and points are added between the prunes."""
    images = FORMS[form]
    random, folder, expected = Random(form), tmp_path / "repository", tmp_path / "expected"
    world = BackupWorld(FolderBackups(folder), random, blocks=400, max_depth=5, images=images)
    merged = 0
    for _ in range(3):
        for _ in range(4):
            world.write_some(40)
            world.backup()
        drop = {point for point in world.visible()[:-1] if random.random() < 0.5}
        merged += len(world.prune(drop).merged)
        for point in drop:
            del world.points[point]
        assert world.visible() == list(world.points)
        for point, content in world.points.items():
            image = folder / image_name(world.volume, point, images.suffix)
            expected.write_bytes(images.octets(content))
            assert "No errors were found" in qemu_img("check", image)
            check_content(image, expected)
    assert merged >= 2
