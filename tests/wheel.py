"""The wheel of this checkout, built from a copy: building in the tree would leave folders there."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
NOT_NEEDED = ("tests/", "docs/", "bench/", "examples/")


def files_of_checkout() -> list[str]:
    """Tracked files and those that git would track, as paths below the checkout."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
    return [name for name in names.decode().split("\0") if name and (ROOT / name).is_file()]


def built_wheel(folder: Path) -> Path:
    """Build it below `folder`; returns its path."""
    tree, wheels = folder / "tree", folder / "wheels"
    wheels.mkdir(parents=True)
    for name in files_of_checkout():
        if not name.startswith(NOT_NEEDED):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-c", BUILD, str(wheels)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    return wheel
