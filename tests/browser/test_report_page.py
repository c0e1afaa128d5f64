"""The report in a real browser: it renders, loads nothing, runs nothing planted, fits a phone."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import chromium
import pytest
from report_example import HOSTILE, r1_build

from factory.report.build import build
from factory.report.render import write

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on the PATH"),
]

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
    "--disable-sync", "--disable-background-networking", "--disable-component-update",
    "--disable-dev-shm-usage", "--enable-logging=stderr", "--virtual-time-budget=3000",
)  # fmt: skip


def visit(page: Path, profile: Path, *, width: int = 1280) -> tuple[str, list[str]]:
    """The page's DOM after loading, and what the browser wrote to its console about it."""
    done = subprocess.run(
        [
            str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},900",
            "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=90, env={**os.environ, "HOME": str(profile)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("page")
    steps = r1_build(root / "artifacts", say=HOSTILE, problems=16)
    return write(build("quickstart", HOSTILE, steps), root / "report")


def test_the_page_renders_without_a_console_message_or_a_request(page, tmp_path):
    dom, console = visit(page, tmp_path)
    assert console == []
    assert dom.count("<svg") > 40
    assert not re.search(r"<(img|iframe)\b", dom) and dom.count("<script>") == 2


def test_the_console_check_notices_a_page_that_loads_and_runs_things(page, tmp_path):
    bad = tmp_path / "bad.html"
    inject = '<main><img src="https://example.invalid/x.png"><script>alert(1)</script>'
    bad.write_text(page.read_text(encoding="utf-8").replace("<main>", inject), encoding="utf-8")
    _, console = visit(bad, tmp_path / "profile")
    assert sum("Content Security Policy" in line for line in console) >= 2


@pytest.mark.parametrize("width", [320, 1240])
def test_the_page_is_never_wider_than_a_phone_or_a_laptop(page, tmp_path, width):
    # Measured from inside a frame: no window of a desktop browser is as narrow as a phone. The
    # frame's copy has no content policy, so that it may run the script that measures it.
    text = page.read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    measure = (
        "<script>parent.postMessage(document.documentElement.scrollWidth, '*')</script></body>"
    )
    frame = tmp_path / "frame.html"
    frame.write_text(text.replace("</body>", measure), encoding="utf-8")
    probe = tmp_path / "probe.html"
    probe.write_text(
        "<script>addEventListener('message', e => document.title = e.data)</script>"
        f'<iframe src="frame.html" width="{width}" height="800" frameborder="0"></iframe>',
        encoding="utf-8",
    )
    dom, _ = visit(probe, tmp_path / "profile")
    assert re.search(r"<title>(\d+)</title>", dom).group(1) == str(width)


@pytest.fixture(scope="module")
def tab(page, tmp_path_factory) -> Iterator[chromium.Page]:
    with chromium.page(tmp_path_factory.mktemp("tab")) as opened:
        yield opened


WITH_AXE = pytest.mark.skipif(
    find_spec("axe_core_python") is None, reason="axe-core-python is missing: make development"
)
OPEN_ALL = "for (const one of document.querySelectorAll('details')) one.open = true"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_no_table_is_cut_and_nothing_is_wider_than_the_page(tab, page, width, dark):
    tab.look_like(width=width, dark=dark)
    tab.open(page)
    tab.run(OPEN_ALL)
    assert tab.run("document.documentElement.scrollWidth") <= width
    cut = (
        "[...document.querySelectorAll('.scroll:not(.card)')]"
        ".filter(one => one.scrollWidth > one.clientWidth + 1)"
        ".map(one => one.getAttribute('aria-label'))"
    )
    assert tab.run(cut) == []
    assert tab.messages == []


@WITH_AXE
@pytest.mark.parametrize(("width", "dark"), [(1440, False), (360, True)], ids=["wide", "phone"])
def test_axe_finds_nothing_serious(tab, page, width, dark):
    tab.look_like(width=width, dark=dark)
    tab.open(page)
    assert tab.accessibility_faults() == []


@WITH_AXE
def test_axe_sees_what_is_planted(tab, page):
    tab.open(page)
    tab.run("document.body.replaceChildren(document.querySelector('#claims, #scorecard'))")
    tab.run("document.querySelector('table').setAttribute('role', 'no-such-role')")
    assert any(fault.startswith("aria-roles") for fault in tab.accessibility_faults())


def test_the_first_screen_of_a_laptop_has_all_that_matters(tab, page):
    tab.look_like(width=1440)
    tab.open(page)
    bottom = (
        "Math.max(...[...document.querySelectorAll(%r)].map(e => e.getBoundingClientRect().bottom))"
    )
    assert tab.run(bottom % "#result .headline, #result .picture, #result .point h3") < 900
    assert tab.run("document.querySelector('nav a[aria-current]').textContent") == "Result"


def test_the_contents_stay_in_view_and_mark_where_the_reader_is(tab, page):
    tab.look_like(width=1440)
    tab.open(page)
    tab.run("document.getElementById('cost').scrollIntoView({behavior: 'instant'})")
    tab.wait_for("document.querySelector('nav a[aria-current]')?.textContent === 'Cost'")
    assert tab.run("document.querySelector('nav').getBoundingClientRect().top") >= 0


def test_paper_has_every_fold_open_and_no_control(tab, page):
    tab.look_like(width=1440)
    tab.open(page)
    before = tab.run("document.querySelectorAll('details[open]').length")
    tab.run("window.dispatchEvent(new Event('beforeprint'))")
    closed = "document.querySelectorAll('main details:not([open]):not(.sample details)').length"
    assert tab.run(closed) == 0
    tab.run("window.dispatchEvent(new Event('afterprint'))")
    assert tab.run("document.querySelectorAll('details[open]').length") == before
    tab.look_like(width=1440, media="print")
    assert tab.run("getComputedStyle(document.querySelector('nav')).display") == "none"
