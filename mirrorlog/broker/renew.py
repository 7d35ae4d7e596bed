"""Rewrites `artifacts.py`: `python -m mirrorlog.broker.renew [KAFKA_VERSION]`.

It is for developers, and needs the network. Two faults of jgo's resolver must not reach the list
(jgo 3.2.0, found in its source and reproduced):

- It imports the dependency management of all requested coordinates that don't end in `!`. Asked for
  Kafka 4.1.1 and a log4j binding, it answered with kafka-clients 3.9.1.
- It skips a dependency whose POM fails to download, and returns a class path that lacks a branch.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from jgo.maven import MavenContext, PythonResolver

from mirrorlog.broker import artifacts
from mirrorlog.errors import KafkaFailed

if TYPE_CHECKING:
    from jgo.maven import Artifact

LEFT_OUT = frozenset({"org.scala-lang:scala-reflect"})
"""Artifacts that aren't needed. scala-logging's macros use scala-reflect at compile time only."""

HEADER = '''"""The pinned jars of Apache Kafka. Written by `python -m mirrorlog.broker.renew`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

'''


class _StrictResolver(PythonResolver):
    """A resolver that records failed downloads in `missed`."""

    def __init__(self) -> None:
        super().__init__()
        self.missed: list[str] = []

    def download(self, artifact: Artifact) -> Path | None:
        try:
            path: Path | None = super().download(artifact)
        except (OSError, RuntimeError) as error:
            self.missed.append(f"{artifact}: {error}")
            raise
        return path


def resolve(kafka_version: str, repository: Path) -> dict[str, str]:
    """Return the jars of Kafka: coordinate `group:artifact:version` → SHA-256 in hexadecimal.

    They are Kafka, its dependencies at run time, and the binding between its slf4j 1.7 and its
    log4j. The jars are downloaded to `repository`. Raise KafkaFailed if a download fails.
    """
    resolver = _StrictResolver()
    context = MavenContext(resolver=resolver, repo_cache=repository, local_repos=[])
    kafka = context.create_dependency(f"org.apache.kafka:kafka_2.13:{kafka_version}!")
    kafka.scope = "compile"
    inputs, transitive = resolver.resolve([kafka])
    if resolver.missed:
        raise KafkaFailed(
            f"resolving Kafka {kafka_version} failed for {'; '.join(resolver.missed)}",
            next="Run the command again.",
        )
    needed = [
        dependency.artifact
        for dependency in (*inputs, *transitive)
        if dependency.scope in ("compile", "runtime")
    ]
    log4j_version = next(
        artifact.version for artifact in needed if artifact.artifactId == "log4j-api"
    )
    binding = context.create_dependency(
        f"org.apache.logging.log4j:log4j-slf4j-impl:{log4j_version}"
    ).artifact
    return {
        f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}": hashlib.sha256(
            artifact.resolve().read_bytes()
        ).hexdigest()
        for artifact in sorted([*needed, binding], key=str)
        if f"{artifact.groupId}:{artifact.artifactId}" not in LEFT_OUT
    }


def main(arguments: list[str]) -> None:
    """Resolve the jars into an empty folder, and rewrite artifacts.py."""
    version = arguments[0] if arguments else artifacts.KAFKA_VERSION
    with tempfile.TemporaryDirectory() as scratch:
        jars = resolve(version, Path(scratch))
    lines = "".join(f'    "{coordinate}": "{sha256}",\n' for coordinate, sha256 in jars.items())
    table = (
        f'KAFKA_VERSION: Final = "{version}"\n\nJARS: Final[Mapping[str, str]] = {{\n{lines}}}\n'
    )
    doc = '"""Maven coordinate `group:artifact:version` → SHA-256 of the jar, in hexadecimal."""\n'
    Path(artifacts.__file__).write_text(HEADER + table + doc, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
