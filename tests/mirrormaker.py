"""MirrorMaker 2 as a process: the real connect-mirror from Maven, by the properties in the docs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from mirrorlog.broker.artifacts import JARS
from mirrorlog.broker.runtime import Runtime, resolve_runtime
from mirrorlog.processes.dies_with_parent import dies_with_parent

_HERE: Final = Path(__file__).resolve().parent
_PAGE: Final = _HERE.parent / "docs" / "multi-site.md"
_LOGGING: Final = ("log4j-api", "log4j-core", "log4j-slf4j-impl")
_MAIN: Final = "org.apache.kafka.connect.mirror.MirrorMaker"


def mirrormaker_runtime(cache_dir: Path) -> Runtime:
    """Return Java and the jars of connect-mirror. Raise KafkaFailed if Maven's can't be had."""
    lines = (_HERE / "mirrormaker_jars.txt").read_text("utf-8").split("\n")
    jars = dict(line.split() for line in lines if line)
    jars |= {name: digest for name, digest in JARS.items() if name.split(":")[1] in _LOGGING}
    return resolve_runtime(cache_dir / "mirrormaker", jars=jars)


def documented_properties() -> list[str]:
    """Return the blocks of properties in docs/multi-site.md: base, identity, exactly-once."""
    page = _PAGE.read_text("utf-8")
    blocks = re.findall(r"```properties\n(.*?)```", page, re.DOTALL)
    return [re.sub(r"^ {3}", "", block, flags=re.MULTILINE) for block in blocks]


class MirrorMaker:
    """One MirrorMaker 2 between the clusters `source` and `berlin`.

    properties: of the documentation, with `replaced` put in the place of their values.
    """

    def __init__(self, folder: Path, runtime: Runtime, properties: str) -> None:
        folder.mkdir(parents=True)
        (folder / "log").mkdir()
        log4j = (_HERE.parent / "mirrorlog" / "broker" / "log4j2.properties").read_text("utf-8")
        (folder / "log4j2.properties").write_text(log4j, "utf-8")
        (folder / "mm2.properties").write_text(properties, "utf-8")
        self._folder, self._runtime = folder, runtime
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again."""
        command = self._runtime.command(_MAIN, "mm2.properties")
        command[1:1] = ["-Dlog4j2.configurationFile=log4j2.properties"]
        with (self._folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                dies_with_parent(command), cwd=self._folder, stdout=output, stderr=output
            )

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def check(self) -> None:
        """Fail if it was started, and has ended by itself."""
        ended = self._process is not None and self._process.poll() is not None
        assert not ended, (self._folder / "output.log").read_text()[-2000:]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


def with_values(properties: str, values: Mapping[str, str]) -> str:
    """Return the properties with other values, each of which they must hold already."""
    for name, value in values.items():
        pattern = re.compile(rf"^{re.escape(name)} = .*$", re.MULTILINE)
        assert pattern.search(properties), name
        properties = pattern.sub(lambda _, line=f"{name} = {value}": line, properties)
    return properties
