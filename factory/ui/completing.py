"""What a shell offers for a word that is half typed: names alone; nothing is validated."""

import os
from collections.abc import Iterable
from pathlib import Path

import typer

from factory.core.errors import FactoryError
from factory.core.shipped import named_file, shipped, shipped_names

STORE = Path("artifacts")
"""Where artifacts are kept if nothing else is typed."""


def recipes(incomplete: str) -> list[str]:
    """Shipped recipes, and YAML files."""
    return _beginning([*shipped_names(shipped("recipes")), *_files(incomplete)], incomplete)


def machines(incomplete: str) -> list[str]:
    """Shipped machine files, and YAML files."""
    return _beginning([*_shipped("recipes/machines"), *_files(incomplete)], incomplete)


def suites(incomplete: str) -> list[str]:
    """Shipped suites, and YAML files."""
    return _beginning([*_shipped("evals/suites"), *_files(incomplete)], incomplete)


def protocols(incomplete: str) -> list[str]:
    """Shipped protocols, and YAML files."""
    return _beginning([*_shipped("evals/protocols"), *_files(incomplete)], incomplete)


def stages(context: typer.Context, incomplete: str) -> list[str]:
    """Stages of the recipe that was typed, with those of what it extends."""
    from factory.core.yaml12 import load_mapping

    names: list[str] = []
    # An option that waits for its value leaves the arguments unread.
    typed = context.params.get("recipe") or next(iter(context.args), "")
    file = named_file(Path(typed), shipped("recipes"))
    seen: set[Path] = set()
    while file.is_file() and file not in seen:
        seen.add(file)
        try:
            data = load_mapping(file)
        except FactoryError:
            break
        names += map(str, data.get("stages") or ())
        file = file.parent / str(data.get("extends"))
    return _beginning(names, incomplete)


def artifacts(context: typer.Context, incomplete: str) -> list[str]:
    """Sealed artifacts of the store, by folder and by the name of their stage."""
    store = Path(context.params.get("store") or STORE)
    names = [path.parent.name for path in store.glob("*/manifest.json")]
    return _beginning([*(name.rpartition("-")[0] for name in names), *names], incomplete)


def _shipped(folder: str) -> list[str]:
    return [path.stem for path in sorted(shipped(folder).glob("*.yaml"))]


def _files(incomplete: str) -> list[str]:
    """YAML files, and folders to go on in, whose path begins so."""
    folder = Path(os.path.dirname(incomplete) or ".")
    if not folder.is_dir():
        return []
    every = (os.path.join(os.path.dirname(incomplete), path.name) for path in folder.iterdir())
    return [
        f"{name}/" if os.path.isdir(name) else name
        for name in sorted(every)
        if name.endswith((".yaml", ".yml")) or (incomplete and os.path.isdir(name))
    ]


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
