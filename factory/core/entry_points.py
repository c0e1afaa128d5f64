"""Entry points of the groups `model_factory.<door>`: rows that installed packages name."""

import hashlib
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from factory import DISTRIBUTION
from factory.core.errors import PluginError

GROUP = "model_factory"
FORMER = "model-factory"
"""What it was installed as before: in an environment that was not made anew it says nothing."""


@cache
def entry_points() -> Mapping[str, Mapping[str, EntryPoint]]:
    """By group and name, read once: it looks at every installed distribution.

    PluginError where two packages name one row.
    """
    groups: dict[str, dict[str, EntryPoint]] = {}
    for entry in own_entry_points():
        groups.setdefault(entry.group, {})[entry.name] = entry
    for distribution in distributions():
        if distribution.name in (DISTRIBUTION, FORMER):
            continue
        for entry in distribution.entry_points:
            if not entry.group.startswith(f"{GROUP}."):
                continue
            other = groups.setdefault(entry.group, {}).setdefault(entry.name, entry)
            if distribution_of(other) != distribution_of(entry):
                raise PluginError(
                    f"{entry.group}: {entry.name!r} is named by package {distribution_of(entry)} "
                    f"and by {distribution_of(other)}: uninstall one of them"
                )
    return groups


@cache
def own_entry_points() -> tuple[EntryPoint, ...]:
    """Those of the factory's own packages: of the checkout that this file lies in, whatever was
    installed from it last, else of the installed distribution."""
    try:
        text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
        project: dict[str, Any] = tomllib.loads(text)["project"]
    except (OSError, ValueError, KeyError):
        project = {}
    if project.get("name") == DISTRIBUTION:
        groups: dict[str, dict[str, str]] = project.get("entry-points", {})
        return tuple(EntryPoint(n, v, group) for group in groups for n, v in groups[group].items())
    for distribution in distributions(name=DISTRIBUTION):
        return tuple(distribution.entry_points.select())
    return ()


def distribution_of(entry: EntryPoint) -> str:
    if is_own(entry):
        return DISTRIBUTION
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module


def is_own(entry: EntryPoint) -> bool:
    return entry in own_entry_points()


def module_sha256(module: str) -> str:
    spec = find_spec(module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return ""
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
