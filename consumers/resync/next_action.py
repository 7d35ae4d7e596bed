"""What an operator can do about a secondary that isn't consistent (pure)."""

from __future__ import annotations

from mirrorlog.domain.site_progress import SiteState

START_NODE = "Start a node (`mirrorlog node`), or look at the log of the one that runs."
LOOK_AT_MIRROR = (
    "See whether MirrorMaker runs in both directions, and whether the node does "
    "(docs/multi-site.md)."
)
RENEW_OR_RESTORE = (
    "Find out whether the commands topic or the log has lost messages. `mirrorlog volume renew` "
    "begins a new history, in which the site copies everything."
)


def next_action(
    state: SiteState,
    *,
    advice: str | None,
    is_log_lagging: bool,
    has_watermark: bool,
    is_unanswered: bool = False,
) -> str | None:
    """Return what an operator can do; None if the site goes on by itself, or all is done.

    advice: of the error for which the secondary is STOPPED; None if it stopped without an error.
    is_log_lagging: commands wait for the node. has_watermark: the site has read a watermark of the
    volume's partition. is_unanswered: the source of a mirror doesn't answer the site's questions.
    """
    if state in (SiteState.STOPPED, SiteState.DIVERGED):
        return advice or RENEW_OR_RESTORE
    if state in (SiteState.RETIRED, SiteState.DETACHED):
        return None
    if is_unanswered:
        return LOOK_AT_MIRROR
    if is_log_lagging or (state is SiteState.WAITING and not has_watermark):
        return START_NODE
    return None
