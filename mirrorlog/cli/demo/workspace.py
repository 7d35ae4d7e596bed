"""The folder and topics of a demo run, and their removal."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirrorlog.adapters.folders import lock_folder
from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.broker.files import waiting_lock
from mirrorlog.cli.demo.view import DemoView
from mirrorlog.errors import BadUse, MirrorlogError
from mirrorlog.settings import Settings


@contextmanager
def work_folder(keep: Path | None, state_dir: Path) -> Iterator[Path]:
    """Yield the folder of a run: `keep`, or a new folder that is removed when the run ends.

    Folders of runs that were killed are removed, too. Raise BadUse if `keep` isn't new or empty.
    """
    if keep is not None:
        if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
            raise BadUse("the folder to keep isn't empty", where=str(keep), next="Name a new one.")
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.absolute()
        return
    runs = state_dir / "demo"
    with waiting_lock(runs / "lock"):
        for folder in runs.glob("run-*"):
            _remove_unless_held(folder)
        folder = runs / f"run-{uuid.uuid4().hex[:8]}"
        lock_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_unless_held(folder: Path) -> None:
    """Remove the folder of a run that was killed with SIGKILL: no process holds it any more."""
    try:
        lock_folder(folder)
    except BadUse:
        return
    shutil.rmtree(folder, ignore_errors=True)


def remove_topics(settings: Settings, view: DemoView) -> None:
    """Remove the run's topics from the user's cluster. A failure is printed and not raised.

    This runs after a failed run, too, and that failure is the one to report. A cluster that
    doesn't even list its topics gets no line, because the run has failed for the same reason.
    """
    names: set[str] = set()
    try:
        admin = KafkaAdmin(settings.kafka_client(), patience_s=2.0)
        names = admin.names(settings.topic_prefix)
        admin.delete(sorted(names))
        admin.close()
    except MirrorlogError as error:
        if names:
            view.output.print_text(f"the demo's topics couldn't be removed: {error}")
