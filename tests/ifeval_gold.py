"""Responses to IFEval's prompts that follow every instruction, put together without its checkers.

They say nothing about the question: IFEval checks form alone, so this is what gold is for it.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from factory.core.records import Problem

FILLERS = (
    "the weather is calm and the boys walk along the old river behind our small house",
    "my dog and i ran along a low hill and saw a big bird",
    "birds sing all day in this big old yard by our cool pond",
    "it is so mild and dry in june and july",
    "old dogs lie in deep snow",
)
"""English without capitals, commas and full stops; the first one that breaks no rule is taken."""
FOREIGN = {
    "ar": "الطقس جميل جدا اليوم والأطفال يلعبون في الخارج أمام البيت",
    "bg": "Днес времето е много хубаво и децата играят навън пред къщата",  # noqa: RUF001
    "bn": "আজ আবহাওয়া খুব ভালো এবং শিশুরা বাইরে খেলছে",
    "de": "Heute ist das Wetter sehr schön und die Kinder spielen draußen vor dem Haus",
    "fa": "امروز هوا خیلی خوب است و بچه ها بیرون بازی می کنند",  # noqa: RUF001
    "fi": "Tänään sää on erittäin hyvä ja lapset leikkivät ulkona talon edessä",
    "gu": "આજે હવામાન ખૂબ સારું છે અને બાળકો બહાર રમી રહ્યા છે",
    "hi": "आज मौसम बहुत अच्छा है और बच्चे बाहर खेल रहे हैं",
    "it": "Oggi il tempo è molto bello e i bambini giocano fuori davanti alla casa",
    "kn": "ಇಂದು ಹವಾಮಾನ ತುಂಬಾ ಚೆನ್ನಾಗಿದೆ ಮತ್ತು ಮಕ್ಕಳು ಹೊರಗೆ ಆಡುತ್ತಿದ್ದಾರೆ",
    "ko": "오늘 날씨가 아주 좋아서 아이들이 밖에서 놀고 있습니다",
    "mr": "आज हवामान खूप छान आहे आणि मुले बाहेर खेळत आहेत",
    "ne": "आज मौसम धेरै राम्रो छ र केटाकेटीहरू बाहिर खेलिरहेका छन्",
    "pa": "ਅੱਜ ਮੌਸਮ ਬਹੁਤ ਵਧੀਆ ਹੈ ਅਤੇ ਬੱਚੇ ਬਾਹਰ ਖੇਡ ਰਹੇ ਹਨ",
    "pt": "Hoje o tempo está muito bom e as crianças estão brincando lá fora",
    "ru": "Сегодня погода очень хорошая и дети играют на улице возле дома",
    "sw": "Leo hali ya hewa ni nzuri sana na watoto wanacheza nje ya nyumba",
    "ta": "இன்று வானிலை மிகவும் நன்றாக உள்ளது மற்றும் குழந்தைகள் வெளியே விளையாடுகிறார்கள்",
    "te": "ఈరోజు వాతావరణం చాలా బాగుంది మరియు పిల్లలు బయట ఆడుకుంటున్నారు",
    "th": "วันนี้อากาศดีมากและเด็กๆ กำลังเล่นอยู่ข้างนอกบ้าน",
    "ur": "آج موسم بہت اچھا ہے اور بچے باہر کھیل رہے ہیں",
    "vi": "Hôm nay thời tiết rất đẹp và trẻ em đang chơi ở ngoài sân",
}
SIGNS = "abcdefghijklmnopqrstuvwxyz"


CONTRADICTORY = ("374", "1627", "3369", "3371", "3718")
"""Numbers of the prompts that nothing follows strictly: each asks to begin with a repetition of a
text that holds a comma, or words, which it forbids. Loosely the first line does not count."""


class Wanted:
    """A prompt's instructions, to be asked for their arguments by name."""

    def __init__(self, problem: Problem) -> None:
        names, arguments = problem.data["instructions"], problem.data["arguments"]
        self._all = [
            (name.partition(":")[2], {key: value for key, value in single.items() if value})
            for name, single in zip(names, arguments, strict=True)
        ]

    def of(self, name: str) -> list[dict[str, Any]]:
        return [arguments for result, arguments in self._all if result == name]

    def has(self, name: str) -> bool:
        return bool(self.of(name))

    def value(self, name: str, key: str, default: Any) -> Any:
        return next((arguments[key] for arguments in self.of(name)), default)

    def least(self, name: str, key: str, relation: str = "relation") -> int:
        """How many at least; 0 where nothing says so."""
        results = [item[key] for item in self.of(name) if item[relation] == "at least"]
        return max(results, default=0)


def following(problem: Problem) -> str:
    """A response that follows all instructions of a prompt of IFEval."""
    wanted = Wanted(problem)
    if wanted.has("constrained_response"):
        return "My answer is maybe."
    filler = _filler(wanted)
    if wanted.has("json_format"):
        return json.dumps({"text": " ".join([filler, *_keywords(wanted)])})
    text = _arranged(wanted, filler)
    if wanted.has("english_capital"):
        text = text.upper()
    if wanted.has("english_lowercase"):
        text = text.lower()
    return f'"{text}"' if wanted.has("quotation") else text


def _filler(wanted: Wanted) -> str:
    if wanted.has("response_language"):
        return FOREIGN[wanted.value("response_language", "language", "")]
    forbidden = [word.lower() for word in wanted.value("forbidden_words", "forbidden_words", [])]
    limits = [
        (item["letter"], item["let_frequency"])
        for item in wanted.of("letter_frequency")
        if item["let_relation"] == "less than"
    ]
    limits += [
        (item["keyword"], item["frequency"])
        for item in wanted.of("frequency")
        if item["relation"] == "less than"
    ]
    return next(
        filler
        for filler in FILLERS
        if not set(forbidden) & set(filler.split())
        and all(filler.count(piece) < limit for piece, limit in limits)
    )


def _keywords(wanted: Wanted) -> Iterable[str]:
    for item in wanted.of("existence"):
        yield from item["keywords"]
    for item in wanted.of("frequency"):
        if item["relation"] == "at least":
            yield from [item["keyword"]] * item["frequency"]


def _arranged(wanted: Wanted, filler: str) -> str:
    """All that is asked for, in the order in which it may stand."""
    words = list(_keywords(wanted))
    words += ["GOOD"] * wanted.least(
        "capital_word_frequency", "capital_frequency", "capital_relation"
    )
    for item in wanted.of("letter_frequency"):
        if item["let_relation"] == "at least":
            # A sign that is no letter stands for a letter that nobody knows beforehand.
            letters = item["letter"] if item["letter"].isalpha() else SIGNS
            words.append(letters * item["let_frequency"])
    marked, short = filler.split()[0], " ".join(filler.split()[:3])
    words += [f"[{marked}]"] * wanted.value("number_placeholders", "num_placeholders", 0)
    words += [f"*{marked}*"] * wanted.value("number_highlighted_sections", "num_highlights", 0)
    is_guessed = wanted.has("response_language") or wanted.has("english_capital")
    is_short = any(item["relation"] == "less than" for item in wanted.of("number_words"))
    # What guesses the language must not take keywords or a repeated prompt for most of the text.
    start = [short] if is_short else [filler] * (8 if is_guessed else 1)
    text = " ".join([*start, *words])
    text = "! ".join([text] + [short] * (wanted.least("number_sentences", "num_sentences") - 1))
    count = len(re.findall(r"\w+", text))
    while count < wanted.least("number_words", "num_words"):
        text += f" {filler}"
        count = len(re.findall(r"\w+", text))
    lines = [text]
    if wanted.has("title"):
        lines.insert(0, f"<<{short}>>")
    if wanted.has("repeat_prompt"):
        lines.insert(0, wanted.value("repeat_prompt", "prompt_to_repeat", ""))
    lines += [f"* {marked}"] * wanted.value("number_bullet_lists", "num_bullets", 0)
    parts = _parted(wanted, "\n".join(lines), marked)
    for marker in wanted.of("postscript"):
        parts += f"\n{marker['postscript_marker']} {marked}"
    for phrase in wanted.of("end_checker"):
        parts += f"\n{phrase['end_phrase']}"
    return parts


def _parted(wanted: Wanted, text: str, marked: str) -> str:
    """The text and as many further parts as are asked for, with what stands between them."""
    for item in wanted.of("multiple_sections"):
        numbers = range(2, item["num_sections"] + 1)
        more = [f"{item['section_spliter']} {number}\n{marked}" for number in numbers]
        text = "\n".join([f"{item['section_spliter']} 1", text, *more])
    for item in wanted.of("number_paragraphs"):
        text = "\n***\n".join([text] + [marked] * (item["num_paragraphs"] - 1))
    for item in wanted.of("nth_paragraph_first_word"):
        paragraphs = [text] + [marked] * (item["num_paragraphs"] - 1)
        number = item["nth_paragraph"] - 1
        paragraphs[number] = f"{item['first_word']} {paragraphs[number]}"
        text = "\n\n".join(paragraphs)
    if wanted.has("two_responses"):
        text += f"\n******\n{marked}"
    return text
