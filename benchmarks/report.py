"""Writes the tables of docs/performance.md from the results in docs/measured.

A table goes between `<!-- NAME -->` and `<!-- /NAME -->`. Results that have a page of their own
(soak_report.py, scale_report.py) are left out.

    python benchmarks/report.py [RESULT.json]    with a file, print its table on stdout instead
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from results import RESULTS_DIR

PAGE: Final = RESULTS_DIR.parent / "performance.md"
Result = Mapping[str, Any]

_NODE_ROWS: Final = {
    "consume": "limit: consume",
    "decode": "limit: consume, decode",
    "fold": "limit: consume, decode, union",
    "node_500": "**the node, 500 extents a command**",
    "node_1": "**the node, 1 extent a command**",
    "kafka_streams_500": "Kafka Streams, 500 a command",
    "kafka_streams_tuned_500": "Kafka Streams tuned by hand, 500 a command",
    "quixstreams_500": "quixstreams, 500 a command",
    "kafka_streams_windowed_500": "Kafka Streams' windowed aggregate, 500 a command",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, in which all columns except the first are right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def caption(text: str) -> str:
    """Return a table's caption in lines of at most 100 columns."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def machine_line(result: Result) -> str:
    """Return a line with the machine of the result and its software."""
    on = result["machine"]
    software = ", ".join(
        f"{name} {on[name]}"
        for name in ("kafka", "java", "python", "numpy", "pyroaring", "aiokafka")
    )
    hardware = f"{on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB"
    return f"{hardware}, {on['system']}; {software}."


def node(result: Result) -> str:
    """Return the table of bench_node.py."""
    cases = result["cases"]
    rows = []
    for name, label in _NODE_ROWS.items():
        if name not in cases:
            continue
        rate, cpu = cases[name], cases[f"{name}_cpu_s_per_million"]
        runs = [run / 1e6 for run in rate["runs"]]
        spread = f"{min(runs):.2f} – {max(runs):.2f}"
        rows.append([label, f"{rate['median'] / 1e6:.2f}", spread, f"{cpu['median']:.3f}"])
    head = ["case", "million extents/s", "slowest – fastest", "CPU s per million"]
    extents = f"{result['extents']:,} extents (one a command: {result['single_extents']:,})"
    text = f"{extents}, medians of {result['repeat']}. {machine_line(result)}"
    return f"{caption(text)}\n\n{table(head, rows)}"


def recovery(result: Result) -> str:
    """Return the table of bench_recovery.py."""
    rows = [
        [
            f"{case['changelog_bytes'] / 1e6:.0f} MB",
            f"{case['extents'] / 1e6:.0f} million",
            f"{case['ready_with_disk_s']:.2f}",
            f"{case['ready_without_disk_s']:.2f}",
            f"{case['recovery_s']:.2f}",
            f"{case['recovery_mb_s']:.0f}",
            f"{case['recovery_cpu_s']:.2f}",
            f"{case['peak_bytes'] / 1e6:.0f}",
        ]
        for case in result["cases"].values()
    ]
    head = [
        "changelog",
        "writes",
        "ready with its disk, s",
        "without, s",
        "of it recovery, s",
        "MB/s of changelog",
        "CPU s of recovery",
        "most resident, MB",
    ]
    return f"{caption(machine_line(result))}\n\n{table(head, rows)}"


def volumes(result: Result) -> str:
    """Return the table of bench_idle_volumes.py."""
    columns = list(result["cases"].values())
    labels: dict[str, tuple[str, Callable[[Any], str]]] = {
        "resident_bytes": ("resident, MB", lambda value: f"{value / 1e6:.0f}"),
        "peak_bytes": (
            "at most, also while each volume is written once, MB",
            lambda value: f"{value / 1e6:.0f}",
        ),
        "idle_cpu_s_per_s": ("nobody writes: share of a core", lambda value: f"{value:.1%}"),
        "idle_changelog_bytes_per_s": (
            "nobody writes: bytes of changelog a second",
            lambda value: f"{value:.0f}",
        ),
        "flush_s": (
            "flush, from acknowledged commands to the watermark, s",
            lambda value: f"{value:.3f}",
        ),
        "flush_cpu_s": ("flush, CPU s", lambda value: f"{value:.4f}"),
        "flush_changelog_bytes": ("flush, bytes of changelog", lambda value: f"{value:,}"),
        "flush_changelog_messages": ("flush, messages of changelog", lambda value: f"{value:.0f}"),
    }
    rows = [
        [label, *(form(case[name]) for case in columns)] for name, (label, form) in labels.items()
    ]
    head = ["", *(f"{int(name.split('_')[1]):,} volumes" for name in result["cases"])]
    return f"{caption(machine_line(result))}\n\n{table(head, rows)}"


_HOST_ROWS: Final = {
    "nbd_4k_file": "nbdkit's file plugin",
    "nbd_4k_mirrorlog": "**mirrorlog**",
    "nbd_4k_log_filter": "nbdkit's file plugin under its log filter",
    "nbd_4k_mirrorlog_plugin": "mirrorlog without a compiler (`--through plugin`)",
    "nbd_4k_qemu_storage_bitmap": "qemu-storage-daemon, a raw file with a dirty bitmap in memory",
    "nbd_4k_qemu_raw": "qemu-nbd, a raw file",
    "nbd_4k_qemu_bitmap": "qemu-nbd, qcow2 with a dirty bitmap",
    "nbd_4k_fork_file": "with forks: nbdkit's file plugin",
    "nbd_4k_fork_async": "a fork to another file, `async`: mirrorlog",
    "nbd_4k_fork_sync": "a fork to another file, `sync`: mirrorlog",
    "nbd_4k_fork_plugin_async": "the same without a compiler, `async`",
    "nbd_4k_fork_plugin_sync": "the same without a compiler, `sync`",
    "nbd_4k_regions_file": "each write in another region: nbdkit's file plugin",
    "nbd_4k_regions_mirrorlog": "each write in another region: mirrorlog",
    "nbd_4k_snapshot_none": "for comparison: mirrorlog, nobody reads",
    "nbd_4k_snapshot_read": "mirrorlog while a site reads snapshots, beside that",
}


def host(result: Result) -> str:
    """Return the tables of bench_host.py: its NBD cases, and pwrite."""
    rows = []
    for name, label in _HOST_ROWS.items():
        if name not in result["cases"]:
            continue
        case = result["cases"][name]
        if name.startswith("nbd_4k_snapshot"):
            plain = result["cases"]["nbd_4k_snapshot_none"]
        else:
            of_case = next((part for part in ("regions_", "fork_") if part in name), "")
            plain = result["cases"][f"nbd_4k_{of_case}file"]
        spread = f"{min(case['runs']):,} – {max(case['runs']):,}"
        rows.append(
            [label, f"{case['median']:,}", spread, f"{case['median'] / plain['median']:.2f}"]
        )
    head = ["export", "requests/s", "slowest – fastest", "of the file plugin's"]
    text = f"Medians of {result['repeat']}. {machine_line(result)}"
    return f"{caption(text)}\n\n{table(head, rows)}\n\n{_pwrites(result)}"


_ORDERS: Final = {
    "regions": "each in another region, in order",
    "scattered": "each in another region, at random",
}


def _pwrites(result: Result) -> str:
    """Return the table of pwrite_cases.py."""
    rows = []
    for name in (
        name.removesuffix("_tracked") for name in result["cases"] if name.endswith("_tracked")
    ):
        plain, tracked = (
            result["cases"][f"{name}_{path}"]["median"] / 1000 for path in ("plain", "tracked")
        )
        _, size, order, *flushed = name.split("_")
        order = _ORDERS.get(order, order)
        label = (
            f"{size.replace('k', ' KiB')}, {order}{', a flush after each 32' if flushed else ''}"
        )
        rows.append(
            [
                label,
                f"{plain:.1f}",
                f"{tracked:.1f}",
                f"{tracked - plain:.1f}",
                f"{tracked / plain:.2f}",
            ]
        )
    return table(["pwrite", "plain, µs", "tracked, µs", "more, µs", "tracked over plain"], rows)


_AUDIT_ROWS: Final = {
    "node_hour": "an hour, beside the fold",
    "table_hour": "an hour",
    "table_hour_tenth_of_writes": "an hour, a tenth of the writes",
    "table_hour_third_of_days": "an hour, a third of the days",
    "node_hour_by_time": "an hour by time, beside the fold",
    "table_hour_by_time": "an hour by time",
    "table_hour_from_half_past": "the same from half past to half past",
    "table_day": "24 hours from noon on",
    "table_whole": "all whole days",
    "table_whole_third_of_days": "all whole days, a third of them",
    "capped_1h": "an hour, all writes to 262,144 blocks",
    "capped_1h_tenth_of_writes": "the same, a tenth of the writes",
    "capped_10h": "10 hours, all writes to 262,144 blocks",
    "capped_10h_tenth_of_writes": "the same, a tenth of the writes",
    "capped_100h": "100 hours, all writes to 262,144 blocks",
    "capped_100h_tenth_of_writes": "the same, a tenth of the writes",
    "kafka_day_1": "an hour of one day, without the node",
    "writers": "who wrote a block in 30 days",
    "writers_tenth_of_days": "who wrote a block in 3 days",
    "writers_tenth_of_days_without_merges": "the same in an archive without merges",
}


def audit(result: Result) -> str:
    """Return the table of bench_audit.py."""
    rows = []
    for name, label in _AUDIT_ROWS.items():
        case = result["cases"][name]
        spread = f"{min(case['runs']):.3f} – {max(case['runs']):.3f}"
        commands = f"{case['commands_read']:,}" if "commands_read" in case else ""
        counts = [f"{case[name]:,}" if name in case else "" for name in ("records", "bitmaps")]
        rows.append([label, f"{case['median']:.3f}", spread, *counts, commands])
    head = ["question", "s", "fastest – slowest", "records united", "bitmaps", "commands read"]
    text = f"{result['days']} days; medians of {result['repeat']}. {machine_line(result)}"
    return f"{caption(text)}\n\n{table(head, rows)}"


def cli(result: Result) -> str:
    """Return the table of bench_cli.py."""
    names = {
        "help": "`mirrorlog --help`",
        "version": "`mirrorlog --version`",
        "volume_list": "`mirrorlog volume list`",
        "changed": "`mirrorlog changed VOLUME`",
        "status": "`mirrorlog status`",
        "python_pass": "`python -c pass`",
        "qemu-img_help": "`qemu-img --help`",
        "nbdinfo_help": "`nbdinfo --help`",
        "drbdadm_help": "`drbdadm --help`",
    }
    cases = result["cases"]
    rows = []
    for name, label in names.items():
        if name not in cases:
            continue
        beyond = cases.get(f"{name}_beyond_broker")
        seconds = [cases[name]["median"], cases[f"{name}_cpu"]["median"]]
        cells = [f"{value:.3f}" for value in seconds]
        rows.append([label, *cells, f"{beyond['median']:.3f}" if beyond else ""])
    head = ["program", "elapsed, s", "CPU, s", "beyond the broker's answer, s"]
    text = f"Medians of {result['repeat']}. {machine_line(result)}"
    return f"{caption(text)}\n\n{table(head, rows)}"


_SITE_ROWS: Final = {
    "loop": "limit: a loop of pread and pwrite over the changed runs",
    "copy_file_range": "limit: the same loop with copy_file_range",
    "mirrorlog": "**mirrorlog**",
    "rsync": "`rsync --inplace --no-whole-file`",
    "nbdcopy": "`nbdcopy`",
    "qemu_img": "`qemu-img convert`",
    "cp": "`cp`",
    "blocksync": "`blocksync` 2.0.0",
    "journal": "**mirrorlog, through a journal**",
    "sparse_loop": "the changed runs in a hole of 4 TiB: the loop",
    "sparse_mirrorlog": "the changed runs in a hole of 4 TiB: **mirrorlog**",
}


def _skipped(result: Result) -> str:
    """Return a sentence that says what wasn't measured, or nothing."""
    return f"Not measured: {'; '.join(result['skipped'])}. " if result["skipped"] else ""


def site(result: Result) -> str:
    """Return the table of bench_site.py."""
    rows = []
    for name, label in _SITE_ROWS.items():
        if name not in result["cases"]:
            continue
        case = result["cases"][name]
        spread = f"{min(case['runs']):.3f} – {max(case['runs']):.3f}"
        rows.append([label, f"{case['median']:.3f}", spread, f"{result['ratios'][name]:.2f}"])
    is_once = any(len(case["runs"]) == 1 for case in result["cases"].values())
    once = "What shows no spread ran once. " if is_once else ""
    head = ["copy, until it is durable", "s", "fastest – slowest", "of the loop's"]
    text = (
        f"{result['dirty_bytes'] / 1e6:.0f} MB in {result['dirty_runs']:,} runs of a volume of "
        f"{result['volume_bytes'] >> 30} GiB, medians of {result['repeat']}. {once}"
        f"{_skipped(result)}"
        f"{machine_line(result)}"
    )
    return f"{caption(text)}\n\n{table(head, rows)}"


_LINK_ROWS: Final = {
    "link": "limit: one plain TCP connection",
    "one_at_a_time": "one request at a time",
    "mirrorlog": "**mirrorlog**",
    "journal": "**mirrorlog, through a journal**",
    "host": "**mirrorlog**, the primary served by `mirrorlog host serve`",
    "limited": "mirrorlog with `--max-rate 60MB/s`",
    "auto": "mirrorlog with `--max-rate auto`",
    "to_export": "**mirrorlog**, to a secondary at the far end",
}


def link(result: Result) -> str:
    """Return the table of bench_link.py."""
    rows = []
    for name, label in _LINK_ROWS.items():
        if name not in result["cases"]:
            continue
        case = result["cases"][name]
        spread = f"{min(case['runs']):.1f} – {max(case['runs']):.1f}"
        share = f"{result['shares'][name]:.3f}"
        wire = [f"{case['wire']:.3f}", f"{case['wire_in_frames']:.3f}"]
        rows.append([label, f"{case['median']:.1f}", spread, share, *wire])
    head = [
        "copy, until it is durable",
        "MB/s",
        "slowest – fastest",
        "of the line's",
        "bytes on the wire, of those changed",
        f"with headers of {result['mtu_bytes']:,} bytes",
    ]
    text = (
        f"{result['dirty_bytes'] / 1e6:.0f} MB in {result['dirty_runs']:,} runs of a volume of "
        f"{result['volume_bytes'] >> 30} GiB, {result['round_trip_s'] * 1000:.0f} ms for a round "
        f"trip, {result['rate_bits_s'] / 1e9:g} Gbit/s, {result['congestion_control']}, medians of "
        f"{result['repeat']}. {machine_line(result)}"
    )
    return f"{caption(text)}\n\n{table(head, rows)}"


_LAG_ROWS: Final = {
    "lag_p50_s": "5,000 writes/s: lag of the median write, s",
    "lag_p99_s": "of them, 99 in 100 are within, s",
    "lag_max_s": "the slowest write, s",
    "lag_to_kafka_p50_s": "of the median: until Kafka has the command, s",
    "lag_to_log_p50_s": "until the log is complete, s",
    "lag_to_site_p50_s": "until it is durable at the site, s",
    "consistent_largest_gap_s": "2,000 writes/s: largest gap between consistent positions, s",
    "consistent_median_gap_s": "the median gap, s",
}


def lag(result: Result) -> str:
    """Return the table of bench_lag.py."""
    rows = []
    for name, label in _LAG_ROWS.items():
        case = result["cases"][name]
        spread = f"{min(case['runs']):.3f} – {max(case['runs']):.3f}"
        rows.append([label, f"{case['median']:.3f}", spread])
    text = (
        f"{result['seconds']:g} s each, medians of {result['repeat']}, a volume of "
        f"{result['volume_bytes'] >> 30} GiB. {machine_line(result)}"
    )
    return f"{caption(text)}\n\n{table(['', 'median', 'lowest – highest'], rows)}"


_BACKUP_ROWS: Final = {
    "bare_copy": ("limit: pread and pwrite of the changed blocks, fsync", "bare_copy"),
    "write_image": ("mirrorlog, the image alone", "bare_copy"),
    "add_point": ("**mirrorlog**, a whole point in a repository", "bare_copy"),
    "borg_fixed": ("`borg create --chunker-params fixed,65536`", "bare_copy"),
    "borg": ("`borg create`", "bare_copy"),
    "restic": ("`restic backup`", "bare_copy"),
    "open_chain": ("opening a point that is {chain_images} images deep", "restore_cp"),
    "restore_cp": ("limit: `cp --sparse=always` of the volume", "restore_cp"),
    "restore": ("**mirrorlog**, restore of that point", "restore_cp"),
    "restore_qemu_img": ("`qemu-img convert` of that point", "restore_cp"),
}
_RECORDING_ROWS: Final = {
    "by_time_subclusters": "equally long, `subclusters`",
    "by_time_clusters": "equally long, `clusters`",
    "by_count_subclusters": "equally many writes, `subclusters`",
    "by_count_clusters": "equally many writes, `clusters`",
}


def backup(result: Result) -> str:
    """Return the tables of bench_backup.py: its times, and what the recording's intervals store."""
    rows = []
    for name, (label, limit) in _BACKUP_ROWS.items():
        if name not in result["cases"]:
            continue
        case, stored = result["cases"][name], result["stored_to_changed"].get(name)
        rows.append(
            [
                label.format(**result),
                f"{case['median']:.3f}",
                f"{min(case['runs']):.3f} – {max(case['runs']):.3f}",
                f"{case['cpu_median']:.3f}",
                f"{case['median'] / result['cases'][limit]['median']:.2f}",
                "" if stored is None else f"{stored:.3f}",
            ]
        )
    head = ["until it is durable", "s", "fastest – slowest", "CPU s", "of the limit's"]
    text = (
        f"{result['changed_blocks']:,} random blocks of 4 KiB changed in a volume of "
        f"{result['volume_bytes'] >> 30} GiB; medians of {result['repeat']}, restores and other "
        f"tools once; load {result['load_1m']:.1f} at the end. {_skipped(result)}"
        f"{machine_line(result)}"
    )
    times = f"{caption(text)}\n\n{table([*head, 'stored / changed'], rows)}"
    return f"{times}\n\n{_recorded(result)}" if result["recording"] else times


def _recorded(result: Result) -> str:
    """Return the table of what 30 incrementals of a recording store."""
    rows = []
    for name, label in _RECORDING_ROWS.items():
        of = result["recording"][name]
        stored, length = of["stored_to_changed"], of["length_to_changed"]
        spread = [f"{stored[key]:.3f}" for key in ("together", "least", "median", "most")]
        lengths = [f"{length[key]:.3f}" for key in ("together", "median")]
        rows.append([label, *spread, f"{stored['within_goal']} of 30", *lengths])
    head = ["30 intervals of the recording", "stored / changed", "least", "median", "most"]
    return table([*head, "at most 1.05", "length / changed", "its median"], rows)


TABLES: Final[Mapping[str, Callable[[Result], str]]] = {
    "node": node,
    "recovery": recovery,
    "volumes": volumes,
    "host": host,
    "cli": cli,
    "audit": audit,
    "site": site,
    "link": link,
    "lag": lag,
    "backup": backup,
}


def rewritten(page: str, name: str, content: str) -> str:
    """Return the page with the part `name` replaced.

    Raise ValueError if the page has no such part.
    """
    part = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    page, count = part.subn(lambda match: f"{match[1]}{content}\n{match[2]}", page)
    if not count:
        raise ValueError(f"the page has no part <!-- {name} -->")
    return page


def main() -> None:
    """Write the tables of all kept results, or print that of the given result."""
    if len(sys.argv) > 1:
        result = json.loads(Path(sys.argv[1]).read_text("utf-8").splitlines()[-1])
        print(TABLES[result["bench"]](result))
        return
    page = PAGE.read_text("utf-8")
    for path in sorted(RESULTS_DIR.glob("*.json")):
        result = json.loads(path.read_text("utf-8"))
        if result["bench"] in TABLES:
            page = rewritten(page, result["bench"], TABLES[result["bench"]](result))
    PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
