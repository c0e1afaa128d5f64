"""Foreign text made safe to look at: characters that a reader does not see are written out.

A terminal obeys control characters: escape sequences write the clipboard, move the cursor, hide
text. Bidirectional overrides reorder what a reader sees, and zero-width characters hide in it.
"""

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


def visible(text: str) -> str:
    """`text` with every invisible or reordering character as `⟨U+202E⟩`; newline and tab stay."""
    if text.isascii() and text.isprintable():
        return text
    return text.translate({code: f"⟨U+{code:04X}⟩" for code in _hidden(text)})


def visible_json(text: str) -> str:
    """The same JSON with every such character escaped as JSON does, so that it reads the same."""
    return text.translate({code: _json_escape(chr(code)) for code in _hidden(text)})


def _hidden(text: str) -> list[int]:
    return [ord(character) for character in set(text) if _is_hidden(character)]


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
