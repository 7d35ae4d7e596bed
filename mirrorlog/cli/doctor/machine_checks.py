"""Judges this machine. Pure: each function takes the snapshot, and yields findings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from mirrorlog.acls import Role
from mirrorlog.adapters.nbd_client.libnbd import INSTALL_HINT
from mirrorlog.adapters.nbd_client.nbd_uri import is_nbd
from mirrorlog.cli.doctor.findings import Finding, failed, not_asked, ok, warning
from mirrorlog.cli.doctor.snapshot import LibraryFacts, NotAsked, PortFacts, Snapshot
from mirrorlog.units import format_size

LEAST_BYTES: Final = 64 << 20
"""With less, nothing can be kept: the node's table and a host's activity log need more."""
LOW_BYTES: Final = 1 << 30
LEAST_OPEN_FILES: Final = 1024
"""A process opens a file for each volume, and one for each connection and RocksDB file."""


def check_libraries(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge the versions of Python and of the libraries by the bounds of mirrorlog's package."""
    if isinstance(snapshot.libraries, NotAsked):
        yield not_asked(snapshot.libraries)
        return
    wrong = [library for library in snapshot.libraries if not _fits(library)]
    for library in wrong:
        has = f"version {library.version} is installed" if library.version else "it isn't installed"
        yield failed(
            f"{library.name} {library.bounds} is needed, and {has}",
            next="Install mirrorlog again in an environment of its own, with its requirements.",
        )
    if not wrong:
        python = next(
            (library.version for library in snapshot.libraries if library.name == "Python"), "?"
        )
        yield ok(f"Python {python} and {len(snapshot.libraries) - 1} libraries have good versions")


def _fits(library: LibraryFacts) -> bool:
    """Return whether the version is within the bounds. No bounds: any version is."""
    if library.version is None:
        return False
    try:
        return SpecifierSet(library.bounds).contains(library.version, prereleases=True)
    except InvalidSpecifier:
        return False


def check_configuration(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge whether the settings could be read, and name those that don't exist."""
    for problem in snapshot.problems:
        yield failed(problem.what, problem.where, problem.next)
    if not snapshot.problems:
        yield ok("every setting is known and has a value that is accepted")


def check_identity(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge by what this machine is told from others: copies of its state are found by that."""
    facts = snapshot.identity
    if isinstance(facts, NotAsked):
        yield not_asked(facts)
        return
    if not facts.machine_id:
        yield warning(
            "the machine has no id: a copy of its state folders on another machine isn't found",
            "/etc/machine-id",
            "Make one with `systemd-machine-id-setup`; a container takes that of its machine "
            "(`--volume /etc/machine-id:/etc/machine-id:ro`).",
        )
    if not facts.boot_id:
        yield warning(
            "nobody knows whether the machine restarted: a site that was killed waits for 12 s, "
            "because it can't prove that it ran here",
            "/proc/sys/kernel/random/boot_id",
            "Let processes read it: no ProcSubset=pid in the unit.",
        )
    if facts.machine_id and facts.boot_id:
        yield ok("the machine has an id, and one of its last start")


def check_state_folder(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge the state folder: writes, fsync, locks, and its room."""
    facts = snapshot.folder
    if isinstance(facts, NotAsked):
        yield not_asked(facts, "Look at the folder, or name another with --state-dir.")
        return
    room = f"{format_size(facts.free_bytes)} ({facts.free_bytes} bytes) free"
    where = str(facts.path)
    move = "Name another folder with --state-dir."
    if facts.problem is not None:
        yield failed(facts.problem, where, f"Mend the folder's rights or its file system. {move}")
    elif facts.free_bytes < LEAST_BYTES:
        yield failed(f"the file system is nearly full: {room}", where, f"Make room. {move}")
    elif facts.free_bytes < LOW_BYTES or facts.free_bytes < _spool_bytes(snapshot):
        text = f"there is little room for spools and tables: {room}"
        yield warning(text, where, f"Make room. {move}")
    elif facts.exists:
        yield ok(f"files can be written, synced and locked, {room}", where)
    else:
        yield ok(f"it doesn't exist yet and can be made, {room}", where)


def _spool_bytes(snapshot: Snapshot) -> int:
    return 0 if snapshot.settings is None else snapshot.settings.host_spool_bytes


def check_ports(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge the addresses at which the role serves HTTP: free, or in use by something that answers.

    Whether what answers is mirrorlog isn't asked.
    """
    if isinstance(snapshot.ports, NotAsked):
        yield not_asked(snapshot.ports)
        return
    for port in snapshot.ports:
        yield _judge_port(port)
    if not snapshot.ports:
        yield ok(f"the role {snapshot.role} serves nothing over HTTP")


def _judge_port(port: PortFacts) -> Finding:
    where = f"{port.setting} = {port.address}"
    if port.problem is not None:
        return failed(port.problem.what, where, port.problem.next)
    if port.address == "off":
        return ok("nothing is served", where)
    if port.answers:
        return ok("something answers HTTP there already", where)
    return ok("the address is free", where)


def check_open_files(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge how many files a process may open."""
    limit = snapshot.open_files
    if isinstance(limit, NotAsked):
        yield not_asked(limit)
    elif 0 <= limit < LEAST_OPEN_FILES:
        text = f"a process may open {limit} files, and {LEAST_OPEN_FILES} are advised"
        yield warning(text, next="Raise the limit: `ulimit -n`, LimitNOFILE= of systemd.")
    else:
        number = "any number of" if limit < 0 else str(limit)
        yield ok(f"a process may open {number} files")


def check_tools(snapshot: Snapshot) -> Iterator[Finding]:
    """Say what NBD needs that is installed.

    Only a host that exports a volume needs nbdkit, and only a site with NBD addresses libnbd.
    """
    if isinstance(snapshot.tools, NotAsked):
        yield not_asked(snapshot.tools)
        return
    there = sorted(name for name, path in snapshot.tools.items() if path)
    lacking = sorted(name for name, path in snapshot.tools.items() if not path)
    text = f"installed: {', '.join(there) or 'none'}; not installed: {', '.join(lacking) or 'none'}"
    if snapshot.role is Role.HOST and "nbdkit" in lacking:
        yield warning(text, next="`host serve` needs nbdkit: install it, or write from a program.")
    elif snapshot.role is Role.SITE and "libnbd" in lacking and _uses_nbd(snapshot):
        yield failed(text, next=f"The site has NBD addresses, which need libnbd. {INSTALL_HINT}")
    else:
        yield ok(text)


def _uses_nbd(snapshot: Snapshot) -> bool:
    settings = snapshot.settings
    if settings is None:
        return False
    return any(
        map(is_nbd, [*settings.site_primaries.values(), *settings.site_secondaries.values()])
    )
