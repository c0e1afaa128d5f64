"""Laws of the parser."""

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.text.chat import GRAMMAR, OutputForm, completion_text, form_text, parse
from factory.text.lint import lint

PIECES = st.sampled_from([*GRAMMAR, "<Think>", " ", "7", "User:", "\n", "<|im_end|>", "<", ">"])
PLAIN = st.text(alphabet="abc 0123456789+-=.\n", max_size=40)


@given(st.text())
def test_parsing_never_raises_and_an_answer_means_well_formed(text):
    response = parse(text)
    assert response.is_well_formed == (response.answer is not None) == (response.problem == "")


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_a_well_formed_text_is_exactly_its_two_parts(text):
    response = parse(text)
    if response.is_well_formed:
        again = parse(completion_text(response.reasoning, response.answer))
        assert again == response
        assert all(text.count(tag) == 1 for tag in GRAMMAR)


@given(PLAIN, PLAIN.filter(str.strip), st.sampled_from(["", "<think>\n", "<think>"]))
def test_prefilled_and_written_text_are_parsed_alike(reasoning, answer, prefill):
    full = f"<think>\n{reasoning}</think><answer>{answer}</answer>"
    rest = full.removeprefix("<think>\n") if prefill else full
    assert parse(rest, prefill=prefill) == parse(full)


@given(PLAIN, PLAIN.filter(str.strip), st.sampled_from(GRAMMAR))
def test_one_more_tag_anywhere_is_never_well_formed(reasoning, answer, tag):
    good = completion_text(reasoning, answer)
    for position in range(len(good) + 1):
        assert not parse(good[:position] + tag + good[position:]).is_well_formed


FORMS = st.sampled_from([OutputForm(), OutputForm(opening="<think>", closing="</think>")])
MARKED = st.sampled_from(
    ["|special_token|", "<think>", "</think>", " ", "7", "User:", "\n", "\\boxed{7}", "|", "}"]
)


@settings(max_examples=300)
@given(st.lists(MARKED, max_size=12).map("".join), FORMS)
def test_a_well_formed_form_text_is_exactly_its_parts(text, form):
    response = parse(text, form=form)
    assert response.is_well_formed == (response.answer is not None) == (response.problem == "")
    if response.is_well_formed:
        again = parse(form_text(response.reasoning, response.summary, form), form=form)
        assert again == response
        assert not parse(text, form=form, is_cut=True).is_well_formed


@given(PLAIN, PLAIN.filter(str.strip), FORMS)
def test_one_more_mark_anywhere_is_never_well_formed(reasoning, summary, form):
    good = form_text(reasoning, summary, form)
    assert parse(good, form=form).is_well_formed
    for position in range(len(good) + 1):
        if any(
            mark in good[max(0, position - len(mark) + 1) : position + len(mark) - 1]
            for mark in form.marks
        ):
            continue  # inside a mark: splitting one and adding one leaves two
        for mark in form.marks:
            assert not parse(good[:position] + mark + good[position:], form=form).is_well_formed


@given(PLAIN.filter(str.strip), PLAIN.filter(str.strip), FORMS)
def test_the_linter_finds_nothing_in_canonical_texts_of_different_parts(reasoning, summary, form):
    faults = lint(form_text(reasoning, summary, form), form=form)
    repeats = reasoning.split() == summary.split()
    assert faults == (["the summary repeats the thoughts"] if repeats else [])
