"""The language reward: shares worked out by hand, in several languages and mixed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.core.errors import RecipeError
from factory.rewards.function_words import FUNCTION_WORDS, LETTERS
from factory.rewards.language import SCRIPTS, language_consistency

TEXTS = {
    "en": "First we add the two numbers that are given in the question, and then we compare the "
    "sum with the number of apples that were left.",
    "de": "Zuerst addieren wir die beiden Zahlen, die in der Aufgabe gegeben sind, und dann "
    "vergleichen wir die Summe mit der Anzahl der Äpfel.",
    "vi": "Đầu tiên ta cộng hai số đã cho trong bài toán, sau đó so sánh tổng với số táo còn lại.",
    "ru": "Сначала мы складываем два числа, которые даны в задаче, потом сравниваем сумму.",
    "uk": "Спочатку ми додаємо два числа, які дано в задачі, потім порівнюємо суму.",
    "fr": "Nous ajoutons les deux nombres qui sont dans la question, et puis nous comparons.",
    "es": "Primero sumamos los dos números que están en la pregunta, y luego los comparamos.",
    "zh": "首先我们把题目中给出的两个数相加，然后把和与剩下的苹果数进行比较。",
    "ja": "まず問題で与えられた二つの数を足し、次にその和をりんごの数と比べます。",
}


@pytest.mark.parametrize("spoken", TEXTS)
@pytest.mark.parametrize("wanted", TEXTS)
def test_a_text_is_in_its_own_language_and_in_no_other(spoken: str, wanted: str) -> None:
    assert language_consistency(TEXTS[spoken], wanted) == float(spoken == wanted)


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        # 4 English words, 6 Chinese characters
        ("So the sum is 12. 所以答案是十", "en", 4 / 10),
        ("So the sum is 12. 所以答案是十", "zh", 6 / 10),
        # 7 English words, then 6 German ones (nouns inside a sentence do not count)
        ("we have to add both of them. das ist aber nicht so einfach.", "en", 7 / 13),
        ("we have to add both of them. das ist aber nicht so einfach.", "de", 6 / 13),
        # 5 English, 5 Vietnamese, 5 English
        ("this is the first sum. ta phải cộng hai số. now we check it again.", "en", 10 / 15),
        # short sentences of another language count against it
        ("Das ist nicht richtig.", "en", 0.0),
        ("The answer is seven.", "de", 0.0),
        # nothing tells: the target is believed
        ("Antwort sieben", "en", 1.0),
        # a clause without small words is in the language before it
        ("we add the two. apples pears plums.", "en", 1.0),
        ("das ist gut. sieben acht neun.", "en", 0.0),
    ],
)
def test_shares_of_mixed_text(text: str, language: str, share: float) -> None:
    assert language_consistency(text, language) == pytest.approx(share)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3 + 4 = 7",
        "x = 3y",
        r"\frac{1}{2} \times 4",
        "123 !?",
        "```python\nfor item in values: print(item)\n```",
        "`return the value`",
        "$the \\text{sum of all}$",
    ],
)
def test_text_without_words_mixes_no_languages(text: str) -> None:
    assert language_consistency(text, "en") == 1.0
    assert language_consistency(text, "zh") == 1.0


@pytest.mark.parametrize(
    "foreign",
    [" `sum(values)` ", " $x \\text{apples} + 3$ ", " Alice Bob ", "\n```\nprint(total)\n```\n"],
)
def test_code_formulas_and_names_count_for_nothing(foreign: str) -> None:
    assert language_consistency(f"我们先相加{foreign}然后比较", "zh") == 1.0


def test_kana_decides_between_chinese_and_japanese() -> None:
    assert language_consistency("答案は七で", "ja") == 1.0
    assert language_consistency("答案は七で", "zh") == 0.0
    assert language_consistency("答案是七", "ja") == 0.0


def test_an_unknown_language_is_a_recipe_error_naming_those_known() -> None:
    with pytest.raises(RecipeError, match="'xx' is not known; known: ar, bg, de"):
        language_consistency("text", "xx")


def test_every_language_that_shares_a_script_has_small_words() -> None:
    for name, scripts in SCRIPTS.items():
        shares = any(other != name and scripts == SCRIPTS[other] for other in SCRIPTS)
        assert (name in FUNCTION_WORDS) == shares, name
    assert all(word == word.lower() for words in FUNCTION_WORDS.values() for word in words)
    assert set(LETTERS) <= set(FUNCTION_WORDS)


@given(st.text(max_size=200), st.sampled_from(sorted(SCRIPTS)))
def test_any_text_has_a_share(text: str, language: str) -> None:
    assert 0.0 <= language_consistency(text, language) <= 1.0
