"""Frequent small words and letters by which languages of one script are told apart."""

FUNCTION_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the of and to is that it for was with as his on be by this have from or had are "
        "which you an were there their been has will would what when who more if out so up into "
        "than then them these some could time only other its about do we our let must because "
        "since first next both number now check wait however but answer get gives equals",
        "de": "der die das und ist nicht ein eine einen einem einer mit sich auf für von dem den "
        "des im zu wir ihr es auch als an dass daß wie bei oder aber wenn wird werden hat haben "
        "sind kann können aus nach nur noch um über zum zur dann also erst zuerst weil durch "
        "beide muss müssen lieber prüfen sie er ich man gibt",
        "es": "el la los las de que y en un una es por con para como se del al lo su más pero sus "
        "le ya este esta entre cuando muy sin sobre también hasta hay donde desde todo nos "
        "entonces primero porque son está ser tiene número respuesta luego ahora",
        "fr": "le la les des et est une un que qui dans pour pas sur par plus avec ce cette sont "
        "nous vous il elle au aux du mais ou donc alors si tout comme être avoir fait ont puis "
        "d'abord parce peut nombre réponse maintenant deux leur ses son",
        "it": "il lo gli di che è e un una per non sono con si da come più ma anche della del "
        "nella alla questo questa quindi allora perché prima poi due numero risposta ora abbiamo "
        "ha ho dobbiamo degli delle dei nel essere",
        "nl": "de het een en van is dat niet zijn op te met voor aan er om ook als maar dan wordt "
        "deze dit naar bij uit hebben heeft nog wel kan we ze wij eerst omdat dus nu beide getal "
        "antwoord moet worden door",
        "pl": "i w na nie się że to jest z do jak po co tak za od przez ale czy więc być są dla "
        "ten ta tego tej który która które oraz lub teraz najpierw ponieważ liczba odpowiedź "
        "musimy mamy możemy już tylko",
        "pt": "o a os as de que e em um uma para com não é por mais como mas foi ao ele das dos "
        "tem seu sua ou quando muito nos já também só pelo pela isso então primeiro porque são "
        "número resposta agora temos está depois",
        "sv": "och att det som en på är av för med den till inte om ett han men var jag sig från "
        "vi så kan när har eller nu också då först eftersom måste båda tal svaret detta blir",
        "tr": "ve bir bu için ile da de ne çok daha olarak gibi kadar sonra ancak olan her en var "
        "ama şimdi önce sayı cevap çünkü değil biz o şu olur iki ise veya",
        "vi": "và là của có được cho không một các trong với này để từ khi người đã những thì "
        "ta số bằng nên vậy đó ra vào cũng như sẽ phải chúng tôi hai cộng trừ nhân chia đáp án "
        "bài toán kiểm tra lại đầu tiên tiếp theo do kết quả tính",
        "ru": "и в не на я что он с по это она этот к но они мы как из у который то за свой от "
        "так о для ты же все или вы бы да если ещё уже только нет был чтобы где потом значит "
        "сначала поэтому ответ число теперь получим равно сумма проверим",
        "uk": "і в не на я що він з по це вона цей до але вони ми як із у який та за свій від так "
        "про для ти ж всі або ви б якщо ще вже тільки ні був щоб де потім значить спочатку тому "
        "відповідь число тепер отримаємо дорівнює сума перевіримо є й",
        "bg": "и в не на аз че той с по това тя този към но те ние как от който за си така о ти "
        "все или вие би да ако още вече само беше къде после значи първо затова отговор число "
        "сега получаваме равно сума е се са ще при със",
    }.items()
}
"""Lower case. Words of several languages are meant to be in several lists: they decide less."""

LETTERS: dict[str, str] = {
    "vi": "ăđơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
    "de": "ß",
    "pl": "ąćęłńśźż",
    "sv": "å",
    "tr": "ğşı",
    "es": "ñ",
    "uk": "іїєґ",
    "ru": "ыэё",
}
"""Letters that, of the languages known here, only one uses."""
