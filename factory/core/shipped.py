"""What comes with the factory: recipes, machine files and benchmarks, named without their folder.

In a clone they lie beside the package, in an installed wheel inside it.
"""

import difflib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def shipped(folder: str) -> Path:
    """The folder `recipes` or `evals`, or a folder inside one."""
    inside = PACKAGE / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder


def shipped_names(root: Path) -> list[str]:
    """The YAML files of a folder by name: `quickstart`, `distill/qwen3-0.6b`. Machine files are
    named by their own folder."""
    names = (path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))
    return sorted(name for name in names if not name.startswith("machines/"))


def named_file(path: Path, root: Path) -> Path:
    """A file that was typed: a path, else the name of a file of `root`.

    A path that leads nowhere comes back as it is, so that reading it says so.
    """
    named = root / f"{path}.yaml"
    is_name = path.suffix != ".yaml" and not path.is_absolute() and ".." not in path.parts
    return named if is_name and not path.is_file() and named.is_file() else path


def near_names(path: Path, root: Path) -> str:
    """`; did you mean X?` where a file of `root` or a neighbour is called nearly like that."""
    neighbours = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    names = [*shipped_names(root), *neighbours]
    close = difflib.get_close_matches(str(path), names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
