"""Model text and recipe text are hostile input: nothing in them may act, hide or escape."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from report_example import HOSTILE, Build, evaluation, r1_build

from factory.report.build import build
from factory.report.markdown import markdown_block, markdown_text
from factory.report.render import render_html, render_json, render_markdown
from factory.text.visible import visible

BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"


class Elements(HTMLParser):
    """Every element and attribute, as a browser's tokeniser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    steps = r1_build(tmp_path_factory.mktemp("hostile"), say=HOSTILE + BIDI, problems=12)
    return build(f"recipe {HOSTILE}", HOSTILE, steps)


@pytest.fixture(scope="module")
def page(report) -> str:
    return render_html(report)


def test_no_element_of_hostile_text_becomes_an_element_of_the_page(page):
    assert not Elements(page).names & {"img", "iframe", "object", "embed", "base"}
    # The browser of answers: its data, which no browser runs, and our scripts behind it.
    scripts = re.findall(r"<script[^>]*>", page)
    assert [scripts.pop(), scripts.pop()] == ["<script>", "<script>"]
    assert all(re.fullmatch(r'<script type="text/plain" id="answers-\w+">', s) for s in scripts)
    assert "&lt;script&gt;alert(" in page


def test_no_attribute_can_run_or_load_anything(page):
    for _, name, value in Elements(page).attributes:
        assert not name.startswith("on") and name not in {"src", "srcset", "style", "action"}
        if name == "href":
            assert value.startswith("#") or value == "data:,"


def test_the_page_has_a_policy_that_allows_its_own_style_sheet_and_script_only(page):
    policy = next(v for _, n, v in Elements(page).attributes if n == "content" and "src" in v)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL).group(1)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert policy.startswith("default-src 'none'") and len(scripts) == 2
    for kind, texts in (("style", [style]), ("script", scripts)):
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
        assert f"{kind}-src {hashes};" in policy
    assert "require-trusted-types-for 'script'" in policy and "unsafe" not in policy
    assert not any(word in script for script in scripts for word in ("innerHTML", "eval"))
    assert "http" not in style and "url(" not in style and "@import" not in style


def test_text_that_reorders_or_hides_is_written_out_everywhere(report, page):
    for text in (page, render_markdown(report)):
        assert not set(text) & set(BIDI + "\u200b\x07")
        assert "⟨U+202E⟩" in text and "⟨U+200B⟩" in text


def test_template_syntax_in_text_is_not_evaluated(page):
    assert "{{ 7 * 7 }}" in page


def test_the_json_keeps_the_exact_text_in_ascii(report):
    text = render_json(report)
    assert text.isascii() and "\\u202egnp.exe" in text


def outside_fences(markdown: str) -> str:
    """The lines that a CommonMark reader takes for Markdown: a fence closes at its own length."""
    kept, fence = [], ""
    for line in markdown.splitlines():
        run = re.match(r"(`{3,})", line)
        if fence:
            if run and len(run.group(1)) >= len(fence) and line.strip("`") == "":
                fence = ""
        elif run:
            fence = run.group(1)
        else:
            kept.append(line)
    assert not fence, "a fence is left open"
    return "\n".join(kept)


def test_hostile_text_cannot_leave_its_place_in_markdown(report):
    plain = outside_fences(render_markdown(report))
    assert "<" not in plain
    assert not re.search(r"(?<!\\)\]\(", plain)
    assert "# not a heading" not in plain.splitlines()


def test_a_fence_is_longer_than_any_run_of_backticks_in_its_text():
    block = markdown_block("a\n````\nb ``` c")
    assert block.splitlines()[0] == "`````text"
    assert block.splitlines()[-1] == "`````"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<b>", "&lt;b>"),
        ("# a", r"\# a"),
        ("- a-b", r"\- a-b"),
        ("12. a 3. b", r"12\. a 3. b"),
        ("[x](y)", r"\[x\](y)"),
        ("a & b", "a &amp; b"),
        ("one\ntwo", "one two"),
    ],
)
def test_one_line_of_markdown_is_escaped(text, shown):
    assert markdown_text(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("日本語 é ½", "日本語 é ½"),
        ("\u202eabc", "⟨U+202E⟩abc"),
        ("\x00\x1b[31m", "⟨U+0000⟩⟨U+001B⟩[31m"),
        ("\ud800", "⟨U+D800⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("\u2028", "⟨U+2028⟩"),
    ],
)
def test_invisible_characters_are_written_out_and_others_stay(text, shown):
    assert visible(text) == shown


def test_hostile_names_of_benchmarks_and_metrics_are_escaped_in_figures_too(tmp_path):
    name = '"><script>alert(1)</script>'
    made = Build(tmp_path)
    made.step("base", "model")
    made.step("tuned", "sft", {"model": "base"})
    for number, model in enumerate(("base", "tuned")):
        files = evaluation({name: (6, 0.5, 0.0)}, seed=number)
        files = {k: v.replace("cons@4", f"cons{'<i>'}") for k, v in files.items()}
        made.step(f"eval_{model}", "evaluate", {"model": model}, files=files)
    made.step(
        "rl", "grpo", {"model": "base"},
        files={"telemetry.jsonl": '{"step": 1, "<script>": 1.0, "words/<img src=x>": 2.0}\n'},
    )  # fmt: skip
    report = build("r", "", made.steps)
    page = render_html(report)
    assert not Elements(page).names & {"img", "i"} and page.count("<script>") == 2
    assert "<" not in outside_fences(render_markdown(report))
