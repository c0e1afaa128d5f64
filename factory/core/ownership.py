"""Whose module `factory` this is: factory-boy, a common test library, installs one too.

Of two such distributions the later one overwrites files of the earlier, and removing either breaks
the other; no metadata forbids it. So the command asks before it imports anything else of ours.
"""

import sys
from importlib.metadata import packages_distributions

import factory


def others() -> list[str]:
    """Other distributions that are installed with a module `factory`."""
    ours = getattr(factory, "DISTRIBUTION", "distill-factory")
    owners = packages_distributions().get("factory", [])
    return sorted({name for name in owners if name not in (ours, "model-factory")})


def require_own() -> None:
    """End with status 2 where another distribution has overwritten the package."""
    if getattr(factory, "DISTRIBUTION", None) is None:
        names = ", ".join(others()) or "another distribution"
        sys.stderr.write(
            f"error: {factory.__file__} is a file of {names}, which installs a module `factory` as "
            "distill-factory does: install each into an environment of its own (uv tool install, "
            "pipx, python -m venv)\n"
        )
        raise SystemExit(2)


require_own()
