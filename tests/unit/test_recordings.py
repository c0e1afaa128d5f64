"""Terminal recordings: plan, ls, compare, and a build of what is made, by width and in a pipe.

They are the text of a real terminal (a pty), without colours, in tests/recordings/. To write them
anew after a change that is meant: FACTORY_RECORD=1, then read the difference.
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from test_compare import answers, scores
from test_prune import RECIPE, seal_all

from factory.core.interpreter import SAFE_PATH

FOLDER = Path(__file__).resolve().parents[1] / "recordings"
WIDTHS = (60, 80, 120)
PROGRAM = "import sys; from factory.cli import main; main()"
COMMANDS = {
    "plan": ("plan", "chain.yaml", "--store", "store"),
    "ls": ("ls", "--store", "store"),
    "compare": ("compare", "after", "before", "--store", "scores"),
    "build": ("build", "short.yaml", "--store", "short"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    recipe = folder / "chain.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    seal_all(folder / "store", recipe)
    short = folder / "short.yaml"
    short.write_text(
        RECIPE.partition("  traces:")[0].replace("name: chain", "name: short"), encoding="utf-8"
    )
    seal_all(folder / "short", short)
    scores(folder / "scores", "before", answers({"sums": "cw" * 20}, k=2))
    scores(folder / "scores", "after", answers({"sums": "cccw" * 10}, k=2), 1)
    return folder


def recorded(folder: Path, words: tuple[str, ...], width: int | None) -> str:
    """What a terminal of this width shows, or what a pipe gets."""
    settings = {
        "PATH": "/usr/bin:/bin", "HOME": str(folder), "TERM": "xterm", "LANG": "C.UTF-8",
        "PYTHONIOENCODING": "utf-8", "PYTHONPATH": os.pathsep.join(sys.path), **SAFE_PATH,
    }  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, *words]
    if width is None:
        done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)
        return _masked(done.stdout)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    process = subprocess.Popen(
        command, cwd=folder, env=settings, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    process.wait()
    return _masked(b"".join(parts).decode("utf-8"))


def _masked(text: str) -> str:
    """Without colours, cursor movements, bars that are gone at the end, hashes and times."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r\n", "\n")
    lines = [line.rsplit("\r", 1)[-1].rstrip(" ") for line in text.split("\n")]
    lines = [line for line in lines if not re.search(r"\d so far", line)]
    text = "\n".join(lines)
    text = re.sub(r"(?<![0-9a-f])[0-9a-f]{12}(?![0-9a-f])", "#" * 12, text)
    return text


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("width", [*WIDTHS, None])
def test_a_terminal_shows_what_was_recorded(name: str, width: int | None, folder: Path) -> None:
    shown = recorded(folder, COMMANDS[name], width)
    path = FOLDER / f"{name}-{width or 'pipe'}.txt"
    if os.environ.get("FACTORY_RECORD"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_no_recording_cuts_a_name_or_overflows_its_width(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text and "…" not in text
    width = path.stem.rpartition("-")[2]
    tables = [
        line for line in text.splitlines() if not re.search(r"^(next|report)|: |^A |\[", line)
    ]
    if width != "pipe":
        assert max(map(len, tables), default=0) <= int(width)
