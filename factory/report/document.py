"""A page of ours: style sheet and scripts inline, each allowed by its own hash, nothing else."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from markupsafe import Markup

from factory.report.svg import tag

FOLDER = Path(__file__).parent


def document(
    title: str,
    body: Iterable[Markup],
    *,
    scripts: Sequence[str],
    data: Iterable[Markup] = (),
    connects: bool = False,
) -> str:
    """The whole page. Where the browser knows trusted types, no text can become markup.

    `scripts` are files of this folder, `data` elements that they read; a page that `connects` may
    ask its own server, every other one nobody.
    """
    style, style_hash = _inlined("report.css")
    texts = [_inlined(name) for name in scripts]
    hashes = " ".join(f"'{digest}'" for _, digest in texts)
    allowed = f"script-src {hashes}; require-trusted-types-for 'script'; " if texts else ""
    allowed += "connect-src 'self'; " if connects else ""
    policy = (
        f"default-src 'none'; style-src '{style_hash}'; {allowed}img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("meta", name_="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", style),
    ]
    run = [*data, *(tag("script", text) for text, _ in texts)]
    page = tag(
        "html", tag("head", lines(head)), tag("body", lines([*body, *run])), lang="en"
    )  # fmt: skip
    return f"<!doctype html>\n{page}\n"


def lines(parts: Iterable[Markup]) -> Markup:
    """Elements one below the other."""
    return Markup("\n" + "\n".join(part for part in parts if part) + "\n")


def _inlined(name: str) -> tuple[Markup, str]:
    """A file of ours as the content of an element, and the hash by which the policy allows it."""
    text = "\n" + (FOLDER / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"sha256-{digest}"
