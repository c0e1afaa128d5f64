"""Foreign text made safe to look at: characters that a reader does not see are written out.

A terminal obeys control characters: escape sequences write the clipboard, move the cursor, hide
text. Bidirectional overrides reorder what a reader sees, and zero-width characters hide in it.
"""

import re
import unicodedata

UNSEEN = frozenset(
    {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0}
    | {*range(0x180B, 0x1810), *range(0xFE00, 0xFE0E), *range(0xE0100, 0xE01F0)}
    | {
        *range(0xFDD0, 0xFDF0),
        *(0x10000 * plane + end for plane in range(17) for end in (0xFFFE, 0xFFFF)),
    }
)
"""Fillers and variation selectors: marks or letters by category that have no shape of their own
(Unicode's Default_Ignorable_Code_Point), and noncharacters, some of which no XML may hold. The two
selectors that emoji are written with stay."""


_SHAPELESS = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
"""Categories of characters without a shape: controls, formats, private use, separators."""
_SHOWN_FORMATS = frozenset(
    {0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD} | {*range(0x600, 0x606)}
)
"""Formats by category that have a shape (Prepended_Concatenation_Mark)."""
_BREAKING_SCRIPTS = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""Scripts without spaces between words, which a zero-width space parts."""
_TAGS = re.compile("\U0001f3f4[\U000e0030-\U000e007a]{1,8}\U000e007f")
"""A flag of a region, spelled in characters that are seen as its flag alone (UTS 51)."""


def hidden_characters(text: str) -> set[str]:
    """The characters of a text that its reader cannot see and that spelling does not need.

    White space is seen. Joiners are spelling inside of words of scripts that join their letters
    (UAX 31, 2.3.1) and of emoji (UTS 51), as are Mongolian's separator and zero-width spaces
    between letters of scripts without spaces.
    """
    suspects = {c for c in set(text) if unicodedata.category(c) in _SHAPELESS and not c.isspace()}
    suspects -= {c for c in suspects if ord(c) in _SHOWN_FORMATS}
    if any(0xE0000 <= ord(c) <= 0xE007F for c in suspects):
        without_flags = _TAGS.sub("", text)
        suspects = {c for c in suspects if c in without_flags}
    needed = suspects & {"\u200b", "\u200c", "\u200d", "\u180e"}
    for character in needed:
        ends = [match.start() for match in re.finditer(character, text)]
        if all(_is_spelling(text, end) for end in ends):
            suspects.discard(character)
    return suspects


def _is_spelling(text: str, at: int) -> bool:
    """Whether a joiner or separator stands where its script asks for it."""
    before = _letter(text[max(0, at - 8) : at][::-1])
    after = _letter(text[at + 1 : at + 9])
    sign, name = text[at], unicodedata.name(before, "") if before else ""
    if sign == "\u200b":
        return name.startswith(_BREAKING_SCRIPTS) and after.isalpha()
    if sign == "\u180e":
        return name.startswith("MONGOLIAN")
    if at and unicodedata.combining(text[at - 1]) == _VIRAMA:
        return True
    if {unicodedata.bidirectional(c) for c in (before, after) if c} <= {"AL", "R"} and before:
        return True
    is_emoji = sign == "\u200d" and unicodedata.category(before or " ") in ("So", "Sk")
    return is_emoji and unicodedata.category(after or " ") in ("So", "Sm")


_VIRAMA = 9
"""Canonical combining class of the sign that joins Indic consonants."""


def _letter(text: str) -> str:
    """The first character that is no mark; empty where there is none."""
    return next((c for c in text if unicodedata.category(c) not in ("Mn", "Me", "Mc", "Cf")), "")


def visible(text: str) -> str:
    """`text` with every invisible or reordering character as `⟨U+202E⟩`; newline and tab stay."""
    if text.isascii() and text.isprintable():
        return text
    return text.translate({code: f"⟨U+{code:04X}⟩" for code in _hidden(text)})


def visible_json(text: str) -> str:
    """The same JSON with every such character escaped as JSON does, so that it reads the same."""
    return text.translate({code: _json_escape(chr(code)) for code in _hidden(text)})


def _hidden(text: str) -> list[int]:
    """Codes of the characters to write out; joiners and their like stay where they are spelling."""
    hidden = {character for character in set(text) if _is_hidden(character)}
    formats = {character for character in hidden if unicodedata.category(character) == "Cf"}
    if formats:
        hidden -= formats - hidden_characters(text)
    return sorted(map(ord, hidden))


def _is_hidden(character: str) -> bool:
    # Cc controls, Cf formats (bidi, zero width), Cs lone surrogates, Co private, Zl/Zp separators.
    if character in "\n\t":
        return False
    return ord(character) in UNSEEN or unicodedata.category(character) in {
        "Cc", "Cf", "Cs", "Co", "Zl", "Zp",
    }  # fmt: skip


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
