"""The index in a real browser: sorting, filtering, three widths, keys."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import chromium
import pytest
from index_example import row
from report_example import HOSTILE

from factory.indexing.page import index_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="no chromium or google-chrome on the PATH"),
]
MODELS = "#scores tbody tr:not([hidden]) th"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    rows = [
        row("middle", 0.5, rank=2, compared=3, parameters=1.5e9, answer_tokens=900.0, seconds=60.0),
        row("best", 0.755, rank=1, compared=3, parameters=7e9, answer_tokens=3000.0, seconds=9e4),
        row("worst", 0.09, rank=3, compared=3, parameters=1.35e8, answer_tokens=40.0, seconds=9.0),
        row(HOSTILE, 0.2, benchmark="other"),
    ]
    target = tmp_path_factory.mktemp("index") / "index.html"
    target.write_text(index_page("store", rows, []), encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def tab(tmp_path_factory) -> Iterator[chromium.Page]:
    with chromium.page(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(tab, file) -> Iterator[chromium.Page]:
    tab.messages.clear()
    tab.look_like(width=1440)
    tab.open(file)
    yield tab
    assert tab.messages == []


def sorter(number: int) -> str:
    return f"#scores thead th:nth-child({number}) button"


def test_a_heading_sorts_downwards_then_upwards_by_value(page):
    page.click(sorter(5))
    assert page.texts(MODELS)[:3] == ["best", "middle", page.texts(MODELS)[2]]
    assert page.texts(MODELS)[3] == "worst"
    heading = "document.querySelector('#scores thead th:nth-child(5)').getAttribute('aria-sort')"
    assert page.run(heading) == "descending"
    page.click(sorter(5))
    assert page.texts(MODELS)[0] == "worst" and page.run(heading) == "ascending"
    # Parameters are written 135,000,000; the hostile row has none and stays last either way.
    page.click(sorter(8))
    assert page.texts(MODELS)[:3] == ["best", "middle", "worst"]
    page.click(sorter(8))
    assert page.texts(MODELS)[:3] == ["worst", "middle", "best"]


def test_words_filter_the_rows_and_their_number_is_said(page):
    page.run(
        "(() => { const box = document.querySelector('[name=filter]'); box.value = 'SUMS best';"
        " box.dispatchEvent(new Event('input')); })()"
    )
    assert page.texts(MODELS) == ["best"]
    assert page.texts("#scores [role=status]") == ["1 of 4 rows"]


def test_the_keyboard_sorts(page):
    page.run(f"document.querySelector('{sorter(5)}').focus()")
    for kind, key in (("keyDown", "Enter"), ("keyUp", "Enter")):
        page.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, text="\r",
                  windowsVirtualKeyCode=13)  # fmt: skip
    assert page.texts(MODELS)[0] == "best"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_nothing_is_wider_than_the_page(page, width, dark):
    page.look_like(width=width, dark=dark)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run(
        "[...document.querySelectorAll('.scroll')].every(e => e.scrollWidth <= e.clientWidth + 1)"
    )


@pytest.mark.skipif(
    find_spec("axe_core_python") is None, reason="axe-core-python is missing: make development"
)
def test_axe_finds_nothing_serious(page):
    assert page.accessibility_faults() == []
