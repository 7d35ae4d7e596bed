"""Other programs read files of rows: integers of 64 bits stay exact, names of volumes stay text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from archiving import ArchiveWorld, described

from mirrorlog.adapters.archive_folder import FolderArchive
from mirrorlog.consumers.archive.row_files import RowFiles

pytestmark = [pytest.mark.integration, pytest.mark.slow]
pytest.importorskip("pyarrow")

_PACKAGES = ("pandas==3.1.1", "polars==2.1.0", "pyarrow==26.0.1")
_READ = """
import json, sys, glob
import pandas, polars
paths = sorted(glob.glob(sys.argv[1] + "/rows/**/*.parquet", recursive=True))
together = polars.read_parquet(sys.argv[1] + "/rows/**/*.parquet")
frames = [pandas.read_parquet(path) for path in paths]
def plain(values):
    return [None if value is pandas.NA else int(value) for value in values]
print(json.dumps({
    "pandas": [[f["volume"].astype(str).iloc[0], plain(f["offset"]), plain(f["position"])]
               for f in frames],
    "folder": sorted(set(map(str, pandas.read_parquet(sys.argv[1] + "/rows")["volume"]))),
    "polars": [[p["volume"].cast(str)[0], p["offset"].to_list(), p["position"].to_list()]
               for p in map(polars.read_parquet, paths)],
    "together": sorted(set(together["volume"].cast(str).to_list())),
}))
"""
_LARGE = [(1 << 53) + 1, (1 << 63) - 513]


def test_pandas_and_polars_read_exact_integers_and_names(tmp_path: Path) -> None:
    world = ArchiveWorld()
    volumes = {name: described(name, (1 << 63) - 1) for name in ("012", "12")}
    for name in volumes:
        world.write(name, [(offset, 512) for offset in _LARGE])
        world.write(name, [])
    world.record()
    world.store = FolderArchive(tmp_path / "archive")  # type: ignore[assignment]
    world.archiver(make_rows=RowFiles(volumes)).run_partition(0)

    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    installed = subprocess.run(
        [python, "-m", "pip", "install", "-q", *_PACKAGES], check=False, capture_output=True
    )
    if installed.returncode:
        pytest.skip(f"pandas and polars can't be installed: {installed.stderr[-200:]!r}")
    done = subprocess.run(
        [python, "-c", _READ, str(tmp_path / "archive")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    expected = [["012", [None, *_LARGE], [1, 0, 0]], ["12", [None, *_LARGE], [3, 2, 2]]]
    assert seen["pandas"] == expected
    assert seen["polars"] == expected
    assert seen["folder"] == seen["together"] == ["012", "12"]
