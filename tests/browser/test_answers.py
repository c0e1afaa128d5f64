"""The browser of answers in a real browser: filters, side by side, keys, phone, paper, size."""

import random
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import chromium
import pytest
from chromium import Page
from report_example import HOSTILE, Build, evaluation, jsonl, trace

from factory.core.records import EvalSample, Problem, Verdict
from factory.report.build import Build as Report
from factory.report.build import build
from factory.report.render import write
from factory.report.sections.answers import Answer, Answered, Browser, browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="no chromium or google-chrome on the PATH"),
]
READY = "document.getElementById('answers').dataset.ready === 'yes'"
PROBLEMS = 60


def outcome(model: str, problem: int) -> str:
    """base solves every third problem and is cut off at every tenth; tuned every second."""
    if model == "tuned":
        return "correct" if problem % 2 == 0 else "wrong"
    return "correct" if problem % 3 == 0 else "truncated" if problem % 10 == 1 else "wrong"


def samples(model: str) -> list[EvalSample]:
    """Two sampled answers a problem and a greedy one."""
    lenient = Verdict(outcome="correct", answer="7", explanation="")
    return [
        EvalSample(
            benchmark="sums",
            mode=mode,
            trace=trace(problem, sample, outcome(model, problem), say=HOSTILE),
            lenient=lenient,
        )
        for mode, k in (("sampled", 2), ("greedy", 1))
        for problem in range(PROBLEMS)
        for sample in range(k)
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    made = Build(tmp_path_factory.mktemp("answers"))
    made.step("base", "model")
    made.step("tuned", "sft", {"model": "base"})
    problems = [
        Problem(
            id=f"sums-{i:04d}", prompt=f"Compute {i} + 7 - 2", reference=f"<b>{i + 5}</b>",
            kind="math", source="sums",
        )
        for i in range(PROBLEMS)
    ]  # fmt: skip
    made.step("sums", "problems", files={"held_out.jsonl": jsonl(problems)})
    scores = evaluation({"sums": (PROBLEMS, 0.5, 0.0)}, seed=1, k=2)["scores.jsonl"]
    for model in ("base", "tuned"):
        made.step(
            f"eval_{model}", "evaluate", {"model": model, "benchmarks.0.problems": "sums"},
            config={"benchmarks": [{"name": "sums", "problems": "sums"}]},
            files={"scores.jsonl": scores, "samples.jsonl": jsonl(samples(model))},
        )  # fmt: skip
    return build("answers", "", made.steps)


@pytest.fixture(scope="module")
def file(report, tmp_path_factory) -> Path:
    return write(report, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def tab(tmp_path_factory) -> Iterator[Page]:
    with chromium.page(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(tab, file) -> Iterator[Page]:
    """The report, freshly opened; whatever a test did, the page told and asked for nothing."""
    tab.messages.clear()
    tab.requests.clear()
    tab.look_like(width=1280)
    tab.open(file, ready=READY)
    yield tab
    assert tab.messages == []
    assert tab.requests == [file.as_uri()]


def count(page: Page) -> str:
    return page.texts("[data-part=count]")[0]


def test_it_opens_with_the_last_models_answers_and_plants_nothing(page):
    # tuned: 60 problems x (2 sampled + 1 greedy).
    assert count(page) == "1 to 40 of 180 answers"
    assert (
        page.run("document.querySelectorAll('img, iframe, #answers script, #answers b').length")
        == 0
    )
    exact = page.run(
        "document.querySelector('#answers article details:last-of-type pre').textContent"
    )
    assert "<script>alert('model')</script><img src=x onerror=alert(1)>" in exact
    assert "⟨U+202E⟩gnp.exe" in exact


def test_filters_by_model_outcome_and_mode_count_what_they_say(page):
    page.choose("select[name=model]", "base")
    page.choose("select[name=outcome]", "correct")
    assert count(page) == "1 to 40 of 60 answers"  # every third of 60, three answers each
    page.choose("select[name=mode]", "greedy")
    assert count(page) == "1 to 20 of 20 answers"
    page.choose("select[name=outcome]", "cut off")
    # 1, 11, 21, 31, 41, 51 without those that three divides: 21 and 51.
    assert count(page) == "1 to 4 of 4 answers"
    assert {text.split("\n")[1] for text in page.texts("#answers ol li")} == {
        "…1 + 7 - 2", "…11 + 7 - 2", "…31 + 7 - 2", "…41 + 7 - 2",
    }  # fmt: skip
    page.choose("select[name=outcome]", "right by lenient grading only")
    assert count(page) == "1 to 40 of 40 answers"
    page.choose("select[name=model]", "all")
    assert count(page) == "1 to 40 of 70 answers"  # 40 of base, 30 of tuned
    page.click("[data-part=later]")
    assert count(page) == "41 to 70 of 70 answers"


def test_text_search_finds_what_stands_in_question_or_answer(page):
    page.choose("select[name=model]", "all")
    search = (
        "(() => { const box = document.querySelector('[data-part=search]'); box.value = %r;"
        " box.dispatchEvent(new Event('input')); })()"
    )
    shown = "document.querySelector('[data-part=count]').textContent"
    page.run(search % "compute 17 + 7")
    page.wait_for(
        "document.querySelector('[data-part=count]').textContent === '1 to 6 of 6 answers'"
    )
    assert page.texts("#answers h3") == ["sums-0017 sums"]
    page.run(search % "<script>alert('model')")  # every answer of the example has it
    page.wait_for(f"{shown}.endsWith('360 answers')")
    page.run(search % "no such words")
    page.wait_for(f"{shown} === '0 answers'")


def test_every_answer_has_an_address_that_leads_back_to_it(page, file):
    page.choose("select[name=model]", "base")
    page.choose("select[name=mode]", "greedy")
    page.run("document.querySelector('#answers ol button').focus()")
    page.press("ArrowDown")
    address = page.run("document.querySelector('.address a').getAttribute('href')")
    assert address == "#a=sums-0001/base/greedy/0"
    page.open(file, ready=READY)
    assert page.texts("#answers h3") == ["sums-0000 sums"]
    page.run(f"location.hash = {address!r}")
    page.wait_for("document.querySelector('#answers h3').innerText === 'sums-0001 sums'")
    assert page.texts("#answers article .who") == ["base"]
    page.requests[:] = [file.as_uri()]  # it was opened twice here


def test_a_models_answer_is_never_put_beside_itself(page):
    page.choose("select[name=beside]", "base")
    page.choose("select[name=model]", "base")
    assert page.run("document.querySelector('select[name=beside]').value") == ""
    assert count(page).endswith("of 180 answers")


def test_thinking_is_folded_and_gold_answer_and_reason_are_shown(page):
    article = page.texts("#answers article")[0]
    assert "tuned" in article and "Answer 5" in article
    assert "found 5, expected 5" in article and "Lenient grading sees 7: correct" in article
    assert "Wait, let me check" not in article
    assert page.texts("#answers .gold") == ["Reference <b>5</b>"]
    page.click("#answers article summary")
    assert "Wait, let me check" in page.texts("#answers article")[0]


def test_two_models_stand_side_by_side_on_one_problem(page):
    page.choose("select[name=beside]", "base")
    page.choose("select[name=mode]", "greedy")
    page.choose("select[name=outcome]", "correct")
    page.choose("select[name=other]", "wrong")
    # Even problems that three does not divide: 30 - 10 = 20; none of them ends in 1.
    assert count(page) == "1 to 20 of 20 answers"
    left, right = page.texts("#answers article")
    assert left.startswith("tuned") and "✓ correct" in left and "Answer 7" in left
    assert right.startswith("base") and "✗ wrong" in right and "Answer 11" in right
    assert page.texts("#answers h3") == ["sums-0002 sums"]


def test_a_click_on_a_models_marks_puts_it_beside_and_another_takes_it_away(page):
    assert page.texts("#answers .others button") == ["base ✓✓✓", "tuned ✓✓✓"]
    page.click("#answers .others button")
    page.wait_for("document.querySelectorAll('#answers article').length === 2")
    assert page.texts("#answers .others button[aria-pressed=true]") == ["base ✓✓✓"]
    page.click("#answers .others button")
    page.wait_for("document.querySelectorAll('#answers article').length === 1")


def test_the_arrow_keys_leaf_through_the_answers_over_the_end_of_a_list(page):
    def current() -> str:
        return page.run("document.activeElement.getAttribute('aria-label')")

    page.run("document.querySelector('#answers ol button').focus()")
    page.press("ArrowDown")
    assert current() == "correct: sums-0000, sampled 2 of 2"
    page.press("ArrowUp")
    assert current() == "correct: sums-0000, sampled 1 of 2"
    for key in ("PageDown", "PageUp", "End"):
        page.press(key)
    assert current() == "wrong: sums-0059, greedy"
    assert count(page) == "161 to 180 of 180 answers"
    page.wait_for("document.querySelector('#answers h3').innerText.startsWith('sums-0059')")
    assert page.run("document.querySelectorAll('#answers ol button[tabindex=\"0\"]').length") == 1


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_as_narrow_as_a_phone_with_two_models_beside_each_other(page, dark):
    page.look_like(width=320, dark=dark)
    page.choose("select[name=beside]", "base")
    page.wait_for("document.querySelectorAll('#answers article').length === 2")
    assert page.run("document.documentElement.scrollWidth") == 320
    tops = page.run(
        "[...document.querySelectorAll('#answers article')].map(a => a.getBoundingClientRect().top)"
    )
    assert tops[0] < tops[1]
    # Text and ground are of the scheme that the reader asked for.
    colours = page.run(
        "['color', 'backgroundColor'].map("
        "name => getComputedStyle(document.querySelector('#answers article'))[name])"
    )
    light = ["rgb(31, 35, 40)", "rgb(255, 255, 255)"]
    assert colours == (["rgb(231, 229, 225)", "rgb(27, 31, 35)"] if dark else light)


def test_paper_has_a_note_instead(page):
    page.look_like(width=800, media="print")
    assert "paper has none of them" in page.texts("#answers")[0]
    assert page.run("document.querySelector('.finder').getBoundingClientRect().height") == 0


def test_without_script_a_note_says_so_and_the_rest_is_there(tab, file):
    tab.look_like(width=1280)
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.send("Page.navigate", url=file.as_uri())
        tab.wait_for("document.readyState === 'complete' && !!document.getElementById('recipe')")
        assert "needs a browser that runs this page's script" in tab.texts("#answers")[0]
        assert tab.run("document.querySelector('[data-part=browser]').hidden")
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)


def many(count: int) -> Browser:
    """`count` answers of some 450 characters, eight to a problem, that compress as text does."""
    chance = random.Random(0)
    vocabulary = ["".join(chance.choices(string.ascii_lowercase, k=5)) for _ in range(2000)]

    def words() -> str:
        return " ".join(chance.choices(vocabulary, k=75))

    def answer(model: int) -> Answer:
        text = words()
        return Answer(
            label=f"model {model}", mode="sampled", sample=0, outcome="correct", lenient="correct",
            lenient_answer="5", tokens=300, answer="5", reasoning=text, completion=text,
            explanation="5 is 5",
        )  # fmt: skip

    problems = [
        Answered(
            benchmark="sums",
            problem_id=f"sums-{number:04d}",
            question=words(),
            reference="5",
            answers=tuple(answer(model) for model in range(8)),
        )
        for number in range(count // 8)
    ]
    return Browser(problems=tuple(problems), shown=count, left_out=0, protected={})


def test_a_report_with_20_000_answers_opens_in_under_two_seconds(report, tmp_path):
    results = {browser.__wrapped__: many(20_000)}
    large = write(replace(report, results=results), tmp_path)
    assert large.stat().st_size > 5e6
    with chromium.page(tmp_path / "profile") as tab:
        tab.open(large, ready=READY)
        # Processor time of the page's thread: other work on the machine does not count.
        assert 0 < tab.thread_seconds() < 2
        assert count(tab) == "1 to 40 of 2,500 answers"
