"""Laws of the parser."""

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.chat import GRAMMAR, completion_text, parse

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
    whole = f"<think>\n{reasoning}</think><answer>{answer}</answer>"
    rest = whole.removeprefix("<think>\n") if prefill else whole
    assert parse(rest, prefill=prefill) == parse(whole)


@given(PLAIN, PLAIN.filter(str.strip), st.sampled_from(GRAMMAR))
def test_one_more_tag_anywhere_is_never_well_formed(reasoning, answer, tag):
    good = completion_text(reasoning, answer)
    for position in range(len(good) + 1):
        assert not parse(good[:position] + tag + good[position:]).is_well_formed
