"""The verb `why`: where a setting comes from, what it does, and what hangs on it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from factory.core.readable import plural
from factory.ui.commands import command_line
from factory.ui.options import AsJson, Overrides, Plugins
from factory.ui.verbs import errors_in_words, open_console, print_json, say_next

SHOWN = 200
"""Characters of a value."""


@errors_in_words
def why(
    context: typer.Context,
    setting: Annotated[str, typer.Argument(help="stages.STAGE.SETTING, e.g. stages.zero.kl.")],
    recipe: Annotated[Path, typer.Argument(help="A recipe.")] = Path("quickstart"),
    overrides: Overrides = None,
    as_json: AsJson = False,
    plugins: Plugins = None,
) -> None:
    """Say why a setting is what it is: value, default, source, and the claims that hang on it."""
    from factory.building.why import why as reason_of
    from factory.ui.console import Text
    from factory.ui.grid import columns, print_table

    console = open_console()
    reason = reason_of(recipe, setting, overrides or [])
    if as_json:
        print_json(console, recipe=str(recipe), **asdict(reason))
        return
    facts = {
        setting: _shown(reason.value),
        "default": "none, it must be set" if reason.is_required else _shown(reason.default),
        "set in": reason.source,
        "what it does": reason.about or "not documented",
        "claims on it": "; ".join(reason.claims) or f"none of {recipe}",
        "a change remakes": f"{len(reason.remade)} of {plural(reason.stages, 'stage')}: "
        + ", ".join(reason.remade),
    }
    rows = [[Text(name, "dim"), text] for name, text in facts.items()]
    print_table(console, columns("fact", "value", prose=["value"]), rows, has_heads=False)
    changed = [*(overrides or []), f"{setting}=VALUE"]
    say_next(console, command_line(context, "plan", recipe=recipe, overrides=changed))


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "\u2026"
