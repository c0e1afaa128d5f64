"""What says, in other languages than English, German and Chinese, that an answer follows."""

_ANSWERS = (
    "r\u00e9ponse|r\u00e9sultat|respuesta|resultado|soluci\u00f3n|risposta|risultato"
    "|soluzione|resposta|solu\u00e7\u00e3o|antwoord|odpowied\u017a|cevap|svar|svaret"
    "|vastaus|v\u00e1lasz|r\u0103spuns|r\u0103spunsul|jawaban|\u0111\u00e1p \u00e1n"
    "|\u03b1\u03c0\u03ac\u03bd\u03c4\u03b7\u03c3\u03b7|\u043e\u0442\u0432\u0435\u0442"
    "|\u0432\u0456\u0434\u043f\u043e\u0432\u0456\u0434\u044c|\uc815\ub2f5|\ub2f5"
    "|\u7b54\u3048|\u89e3\u7b54|\u56de\u7b54|\u0909\u0924\u094d\u0924\u0930"
    "|\u0627\u0644\u062c\u0648\u0627\u0628|\u0627\u0644\u0625\u062c\u0627\u0628\u0629"
    "|\u05ea\u05e9\u05d5\u05d1\u05d4|\u0e04\u0e33\u0e15\u0e2d\u0e1a"
)
ANSWER_IS = (
    rf"(?:(?<!\w)(?:la|le|el|a|o|il|het|de|den|det)\s+)?(?<!\w)(?:{_ANSWERS})"
    "(?:\\s+(?:final\\s+)?(?:est|es|\u00e8|\u00e9|is|jest|\u00e4r|er|on|l\u00e0|adalah|este|egy"
    "|\u03b5\u03af\u03bd\u03b1\u03b9)(?!\\w)"
    "|[\u306f\uc740]|(?=[*_\\s]{0,4}[:=\uff1a]))"
)
"""A pattern of "la respuesta es", "Ответ:" and the like."""
