"""Types the path of README.md into a terminal, and draws what the terminal shows as an SVG.

    python docs/pictures/record_terminal.py

It needs what the path needs, and takes as long. All state is in a temporary home folder. README's
table of costs gets the seconds that the lines took: without an option those of this checkout with
the user's cache, with `--cold` those of a clone with no cache at all.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import subprocess
import tempfile
import termios
from pathlib import Path
from typing import Final

import platformdirs
from rich.console import Console
from rich.text import Text

REPOSITORY: Final = Path(__file__).resolve().parents[2]
README: Final = REPOSITORY / "README.md"
PICTURE: Final = Path(__file__).with_name("own-volume.svg")
COLUMNS: Final = 100
PATH: Final = re.compile(r"^<!-- path.*?^<!-- /path -->", re.DOTALL | re.MULTILINE)
BLOCK: Final = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMENT: Final = re.compile(r"\s+# .*$")
STATE: Final = ("MIRRORLOG_", "XDG_")
"""How the names of variables begin that would lead the path to this user's state."""
UNSEEN: Final = ("make setup", ". .venv/bin/activate", "cd ")
"""The lines that set up the shell. They aren't drawn."""
PROMPT: Final = r"\033[1;32m$\033[0m \033[1m%s\033[0m\n"
FONT: Final = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def path_commands(readme: str) -> list[str]:
    """Return the commands of the path, in order, without their comments."""
    (path,) = PATH.findall(readme)
    lines = [line for block in BLOCK.findall(path) for line in block.splitlines()]
    return [command for line in lines if (command := COMMENT.sub("", line).strip())]


def script(commands: list[str], checkout: Path, times: Path) -> str:
    """Return a script that types each command at a prompt, and notes when it has ended."""
    noted = shlex.quote(str(times))
    lines = [f"cd {shlex.quote(str(checkout))}", f"echo $EPOCHREALTIME start > {noted}"]
    for command in commands:
        unseen = command.startswith(UNSEEN)
        if not unseen:
            lines.append(f"printf '{PROMPT}' {shlex.quote(command)}")
        lines.append(f"{command} {'>/dev/null 2>&1 ' if unseen else ''}|| exit")
        lines.append(f"echo $EPOCHREALTIME {shlex.quote(command)} >> {noted}")
    return "\n".join(lines)


def run_in_terminal(text: str, environment: dict[str, str]) -> str:
    """Run a script by bash in a pseudo-terminal; return what the terminal got."""
    controller, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (50, COLUMNS))
    with subprocess.Popen(
        ["bash", "-c", text],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment,
        start_new_session=True,
    ) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                data = os.read(controller, 1 << 16)
            except OSError:  # EIO: nothing has the terminal open any more
                break
            shown += data
    os.close(controller)
    output = shown.decode()
    if process.returncode:
        raise SystemExit(f"{output}\nexit code {process.returncode}")
    return output.replace("\r\n", "\n")


def draw(output: str, picture: Path) -> None:
    """Draw what a terminal has shown."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(output.rstrip("\n")))
    svg = console.export_svg(title="mirrorlog", unique_id="mirrorlog")
    # The fonts would come from a server, which a page that shows the picture doesn't ask.
    picture.write_text("\n".join(line.rstrip() for line in FONT.sub("", svg).splitlines()) + "\n")


def seconds_of(times: Path) -> list[tuple[str, float]]:
    """Return each command that the script noted, with its seconds, in order."""
    notes = [line.split(" ", 1) for line in times.read_text().splitlines()]
    ends_s = [float(note[0]) for note in notes]
    return [
        (note[1], end_s - start_s)
        for note, start_s, end_s in zip(notes[1:], ends_s[:-1], ends_s[1:], strict=True)
    ]


def save_costs(row: str, seconds: list[tuple[str, float]], load: float) -> None:
    """Replace the row of this name in README's table of costs."""
    by_command, total = dict(seconds), sum(took_s for _, took_s in seconds)
    setup, broker = by_command["make setup"], by_command["mirrorlog broker start"]
    figures = (setup, broker, total - setup - broker, total)
    cells = " | ".join(f"{figure:.0f} s" for figure in figures)
    readme = README.read_text()
    line = f"| {row} | {cells} | {os.cpu_count()} | {load:.0f} |"
    changed = re.sub(rf"^\| {row} \|.*$", line, readme, flags=re.MULTILINE)
    README.write_text(changed)


def main() -> None:
    """Record, draw, print the seconds of each line, and save them in README."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cold", action="store_true", help="begin with a clone and no caches")
    options = parser.parse_args()
    commands, load = path_commands(README.read_text()), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as home:
        times, checkout = Path(home, "times"), REPOSITORY
        environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith(STATE)},
            "HOME": home,
            "TMPDIR": home,
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
        }
        if options.cold:
            checkout = Path(home, "mirrorlog")
            subprocess.run(["git", "clone", "-q", REPOSITORY, checkout], check=True)
        else:
            environment["XDG_CACHE_HOME"] = platformdirs.user_cache_dir()
        output = run_in_terminal(script(commands, checkout, times), environment)
        seconds = seconds_of(times)
    if not options.cold:
        draw(output, PICTURE)
    save_costs("the first time" if options.cold else "later", seconds, load)
    for command, took_s in seconds:
        print(f"{took_s:6.1f} s  {command}")


if __name__ == "__main__":
    main()
