"""The options of a multiple-choice question, and the one that an answer settles on, in many languages."""

import re
from functools import lru_cache
from itertools import takewhile

from medqa.text import LETTERS, UNSPACED, fold

DEFAULT_LETTERS = LETTERS[:4]  # where the question lists none
_LISTED = re.compile(r"(?<!\w)[(\[【]?([A-Ja-j])(?:[.):、\]】]|\*\*|[^\S\n]+[-–—]\s)")
# A letter beside most letters and digits is part of a word (A1c, B-cell). Beside Han, kana, Thai and Hangul
# it may be an option, but only these may follow it: 答案是B细胞 (B cell), 정답은 B형 (type B) name none.
_UNSPACED = rf"{UNSPACED}\uac00-\ud7a3"
_MAY_FOLLOW = (
    "选项|選項|[项項是为為因由所故正对對最更符和与與或及跟而还還不的属屬错錯也可应應才即都均皆全]|[\u3041-\u309f]|選択肢|番|"
    "[입이번가는은라와과를을로임예에의도만요]|เพราะ|ครับ|ค่ะ|เป็น|คือ|ถูก|และ|หรือ"
)
# Before a word A is an article and e the Italian "and", but not before these. Before a word I is a pronoun.
_AFTER_OPTION = (
    "because|since|as|is|was|would|or|and|but|not|rather|which|for|due|with|"
    "porque|parce|weil|denn|perché|karena|ist|est|es|oder|ou|und"
)
_NO_ARTICLE = rf"(?! +(?!(?:{_AFTER_OPTION})\b)(?-i:[a-zß-öø-ÿ]))"
_NO_PRONOUN = r"(?! +(?!(?:because|since|is|or|and)\b)\w|,)"
# E in E. coli is no option.
_NO_SPECIES = (
    r"(?!\. ?(?:coli|difficile|pylori|influenzae|albicans|perfringens|botulinum|tetani|jejuni|trachomatis|"
    r"pneumoniae|diphtheriae|neoformans|burgdorferi|pertussis|henselae|cereus|anthracis|fragilis|fumigatus|"
    r"baumannii|faecalis|faecium|histolytica|lamblia|ducreyi|capsulatum)\b)"
)
_ANSWER = (
    r"\b(?:answer|respuesta|réponse|resposta|risposta|antwort|lösung|richtig ist|antwoord|svar|odpowiedź|"
    r"cevap|yanıt|jawaban(?:nya)?|đáp án|trả lời|ответ|відповідь|απάντηση|उत्तर|जवाब|(?:ال)?[إا]جابة|"
    r"(?:ال)?جواب|پاسخ|תשובה)\b|答案|答 ?(?=:)|答え|正解|正しいのは|正答|解答|回答|[故应應题題]选|"
    "[故應題]選|而是|(?:では|じゃ)なく|정답|(?<!오)답|아니라|คำตอบ|ตอบ|เฉลย"
)
_CHOOSE = (
    r"\b(?:option|choice|choose|select|pick|go with|opción|opção|opzione|elijo|choisis|wähle|вариант|"
    r"выбираю|chọn|pilih|विकल्प|الخيار)\b|[选選]|選択肢|보기|선택|ข้อ|ตัวเลือก|เลือก"
)
_CORRECT = r"correct|right|best|answer|true|correcta|correcto|correcte|correta|corretta|richtig"
# Between such a word and the letter.
_FILLER = (
    r"(?:[\s:=(\[\]–—“”「『【《》】』」、-]|\b(?:is|are|was|be|would|should|could|might|may|must|the|this|that|to|"
    r"question|here|most|likely|probably|clearly|correct|right|best|final|option|choice|letter|answer|es|est|ist|é|"
    r"è|sería|serait|la|el|il|le|die|der|das|correcta|correcto|correcte|correta|corretta|richtige|bonne|opción|"
    r"opção|opzione|letra|lettre|lettera|buchstabe|adalah|yang|benar|là|это|вариант|правильный|верный|буква|هي|هو|"
    r"الصحيحة|الصحيح|الخيار|صحیح|सही|विकल्प|है)\b|[是为為应應该該选選择擇项項可能最正确確就即佳]|"
    r"[はがもの]|おそらく|選択肢|[은는이가]|아마도?|바로|보기|คือ|เป็น|ข้อ|ตัวเลือก|ที่|ถูกต้อง|น่าจะ){0,24}+"
)
_AND_OR = (
    r"(?:[\s,/&()、和与與及跟]|或[者是]?|[还還]是|\b(?:or|and|option|oder|und|ou|o|y|или|и|أو)\b|"
    "または|또는|หรือ|และ){0,8}"
)
_NOT_DENIED_AFTER = (
    r"(?!\)?\s+(?:(?:isn't|n'est|no es|non è|não é|ist nicht|ist falsch|не|"
    r"(?:is|was|would be|can be|seems)\s+(?:not|wrong|incorrect|false|unlikely|ruled|excluded))\b)|"
    r"\)?(?:선택지|번)?[이가은는]? ?(?:아니|아닌|아닙|틀)|\)? ?(?:では|じゃ)(?:な|あり)|"
    r"\)? ?(?:选项|選項|[项項])?[是并並就都也均]?(?:不(?!选|選)|[错錯误誤非])|\)? ?(?:ไม่|ผิด))"
)
_DENIED_BEFORE = re.compile(
    r"(?:(?:\b(?:not|never|than|except|neither|nor)|n't)\s+(?:the )?|"
    "[不別别勿非未][能会會应應该該要可是宜]{0,2})$",
    re.IGNORECASE,
)
_LONGEST_DENIAL = 16  # characters
# LaTeX and Markdown around a letter; \boxed{C} means that C is the answer.
_BOXED, _MARKUP = re.compile(r"\\boxed\b"), re.compile(r"\\[A-Za-z]+|[*_$`{}\\\"]")
_BLANKS, _LINE_BREAKS = re.compile(r"([^\S\n])[^\S\n]+"), re.compile(r"[^\S\n]?\n\s*")


def listed_letters(question: str) -> str:
    """The letters of the options that a question lists: three to ten from A on, or '' if it lists none."""
    marked = {letter.upper() for letter in _LISTED.findall(fold(question))}
    listed = "".join(takewhile(marked.__contains__, LETTERS))
    return listed if len(listed) >= 3 else ""


def option_letters(question: str) -> str:
    """The letters of the options in a question, or A to D if it lists none."""
    return listed_letters(question) or DEFAULT_LETTERS


def read_option(answer: str, letters: str = DEFAULT_LETTERS) -> str:
    """The letter that an answer settles on, of the `letters` (of A to J) of the question's options.

    It is '' if the answer names no letter, several letters, or only denies one.
    """
    text = _MARKUP.sub("", _BOXED.sub(" answer ", fold(answer))).replace("’", "'")
    text = _LINE_BREAKS.sub("\n", _BLANKS.sub(r"\1", text.replace("\u200b", " ")))
    single = re.compile(rf"(?<![A-Za-z])[{letters}{letters.lower()}](?![A-Za-z])")
    for pattern in _patterns(letters):
        named = {
            letter.upper()
            for match in pattern.finditer(text)
            if not _DENIED_BEFORE.search(text, max(0, match.start() - _LONGEST_DENIAL), match.start())
            for letter in single.findall(match[1])
        }
        if named:
            return named.pop() if len(named) == 1 else ""
    return ""


@lru_cache
def _patterns(letters: str) -> list[re.Pattern[str]]:
    """The ways in which an answer names one or more of the letters, strongest first.

    Every repetition has a bound: the time grows with the length of an answer, not with its square.
    """
    option = _option(letters)
    named = rf"({option}(?:{_AND_OR}{option}){{0,9}}+)"
    the_answer_is = (
        rf"(?:{_ANSWER}|(?:not|n't) (?:option )?[{letters}]\)?[,;]? (?:but|it is|it's)\b){_FILLER}{named}"
        rf"{_NOT_DENIED_AFTER}"
    )
    it_is_correct = (
        rf"(?:^|[.,;:!?(。、「]|\b(?:that|so|thus|hence|therefore|and|but|think|option|opción|la)\b|[选選][项項]|所以|"
        rf"因此|故|只有|[认認][为為]|選択肢)\s*\(?{named}\)?(?: (?:is|are|would be|seems|es|est|ist|é|è) "
        rf"(?:(?:the|most|clearly|la|die) )*(?:{_CORRECT})\b|"
        r" ?(?:选项|選項|[项項番번])?(?:才?[是为為]|[がは이가은는])?"
        r"最? ?(?:正[确確解答]|正しい|[对對]的|答案|정답|맞|を選|[을를] ?선택)(?!では|じゃ|이? ?아[니닙]))"
    )
    i_choose = rf"(?:{_CHOOSE}){_FILLER}{named}{_NOT_DENIED_AFTER}"
    # A bare letter counts where a line begins or after such words, before punctuation or the end of the line.
    bare = (
        rf"(?:^[^\w\n]*|\b(?:it is|it's|think) |[应應][该該]?[是为為]|[认認][为為]是?|[觉覺]得是) ?{named}"
        r"(?:[.):,;\]。、」】]|\s+[-–—]\s|です|입니다|だと思|[^\w\n]*$)"
    )
    ways = (the_answer_is, it_is_correct, i_choose, bare)
    return [re.compile(way, re.IGNORECASE | re.MULTILINE) for way in ways]


def _option(letters: str) -> str:
    """A pattern for one of the letters, where it is no part of a word and no word of its own."""
    plain = "".join(sorted(set(letters) - set("AEI")))
    words = {"A": f"A{_NO_ARTICLE}", "E": f"(?-i:E)|(?-i:e){_NO_ARTICLE}", "I": f"I{_NO_PRONOUN}"}
    letter = "|".join([f"[{plain}]"] * bool(plain) + [words[word] for word in words if word in letters])
    before = rf"(?<![^\W{_UNSPACED}])(?<!')"
    after = rf"(?![^\W{_UNSPACED}]|'|-\w|(?!{_MAY_FOLLOW})(?=\w)[{_UNSPACED}])"
    return f"{before}(?:{letter}){_NO_SPECIES}{after}"
