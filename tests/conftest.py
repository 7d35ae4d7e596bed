"""Settings and fixtures of all tests."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from compiled_sources import compile_share
from hypothesis import settings
from memory_folders import HAS_FAILED, keep_small_files, memory_root
from ordering import long_first

# The machine may be busy: no example fails because it takes long.
settings.register_profile("mirrorlog", deadline=None)
settings.load_profile("mirrorlog")

# Python looks for circles of garbage after each 700 new objects, which takes a tenth of the time of
# simulated worlds. In tests it looks more seldom, and in the processes that they start as ever.
gc.set_threshold(20_000, *gc.get_threshold()[1:])

# As in the program (log_lines.py): a thread that another test left behind may still try again, and
# its retries would be among the lines that a test looks at.
logging.getLogger("stamina").setLevel(logging.CRITICAL)

# A shell lets background jobs ignore SIGINT and SIGQUIT, nohup lets a command ignore SIGHUP, and
# children inherit that: a test's signals would then end nothing.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests compute, or wait for processes that talk to each other thousands of times a second. As batch
# processes (sched(7)) they take turns at the ends of time slices, and no more at each message.
# Where that isn't allowed, they stay as they are.
with contextlib.suppress(OSError):
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile a share of the sources, in a worker of pytest-xdist (compiled_sources.py)."""
    name = os.environ.get("PYTEST_XDIST_WORKER")
    if name is not None:
        workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        compile_share(session.config, REPOSITORY, int(name.removeprefix("gw")), workers)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that are marked `long` (ordering.py)."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = long_first(items, lambda item: item.get_closest_marker("long") is not None, workers)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Let the search for circles of garbage pass over the modules and all tests from now on."""
    gc.freeze()


@pytest.fixture(autouse=True)
def unchanged_environment() -> Iterator[None]:
    """Undo what a test leaves in the environment, as a command does that runs in its process."""
    before = dict(os.environ)
    yield
    for name, _ in before.items() ^ dict(os.environ).items():
        if name in before:
            os.environ[name] = before[name]
        else:
            os.environ.pop(name, None)


@pytest.fixture(scope="session")
def fast_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder for files of processes: in memory if there is room, or on the disk."""
    with memory_root(tmp_path_factory.getbasetemp()) as root:
        yield root


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note for tmp_path whether the test has failed."""
    report = yield
    item.stash[HAS_FAILED] = item.stash.get(HAS_FAILED, False) or report.failed
    return report


@pytest.fixture
def tmp_path(
    request: pytest.FixtureRequest, fast_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Yield a new folder in memory, or on the disk for a test that is marked `disk`.

    It is removed at the end. If the test failed, its small files are kept where pytest keeps such
    folders, and the report names the folder.
    """
    name = re.sub(r"\W", "_", request.node.name)[:30]
    if request.node.get_closest_marker("disk"):
        yield tmp_path_factory.mktemp(name)
        return
    folder = Path(tempfile.mkdtemp(dir=fast_root, prefix=f"{name[:12]}-"))
    yield folder
    if request.node.stash.get(HAS_FAILED, False):
        kept = tmp_path_factory.mktemp(name)
        keep_small_files(folder, kept)
        request.node.add_report_section("teardown", "files", f"its small files are in {kept}")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Return the folder of real recordings, which aren't part of the project.

    A test that needs it is marked `traces`.
    """
    folder = REPOSITORY / os.environ.get("MIRRORLOG_TRACES", "../shared/traces")
    if not folder.is_dir():
        pytest.skip(f"MIRRORLOG_TRACES: the recordings aren't at {folder}")
    return folder
