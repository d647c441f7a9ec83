"""What can be measured of an answer without a judge, and intervals for means. No torch, no model."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from medqa.text import FOUR, UNSPACED, fold, per_word, words

# Chinese particles, and hiragana, the particles and endings of Japanese.
_STOP = frozenset(
    words(
        "a an and are as at be by can for from has have in include includes is it its may of on or that the their this "
        "to was were which with 的是有了和与與及在为為或等也都应應可会會能以对對于於并並"
    )
) | set(map(chr, range(0x3041, 0x3097)))
# How an answer names its option, in English and in the usual sentences of other languages.
# With most letters and digits a letter makes a word (A1c, B-cell); not so beside Han, kana, Thai or Hangul.
_BESIDE = rf"{UNSPACED}\uac00-\ud7a3"
# Beside a letter only these may follow it: in 答案是B细胞 (B cell) and 정답은 B형 (type B) no option is named.
_FOLLOWS = (
    "选项|選項|[项項是为為因由所故正对對最更符和与與或及跟而还還不的属屬错錯也可应應才即都均皆全]|[\u3041-\u309f]|選択肢|番|"
    "[입이번가는은라와과를을로임예에의도만요]|เพราะ|ครับ|ค่ะ|เป็น|คือ|ถูก|และ|หรือ"
)
# The article A and the Italian e ("and") are no option where a word follows but one of these; nor is the
# pronoun I.
_GOES_ON = (
    "because|since|as|is|was|would|or|and|but|not|rather|which|for|due|with|"
    "porque|parce|weil|denn|perché|karena|ist|est|es|oder|ou|und"
)
_NO_ARTICLE = rf"(?! +(?!(?:{_GOES_ON})\b)(?-i:[a-zß-öø-ÿ]))"
_NO_PRONOUN = r"(?! +(?!(?:because|since|is|or|and)\b)\w|,)"
# E. coli
_NO_SPECIES = (
    r"(?!\. ?(?:coli|difficile|pylori|influenzae|albicans|perfringens|botulinum|tetani|jejuni|trachomatis|pneumoniae|"
    r"diphtheriae|neoformans|burgdorferi|pertussis|henselae|cereus|anthracis|fragilis|fumigatus|baumannii|faecalis|"
    r"faecium|histolytica|lamblia|ducreyi|capsulatum)\b)"
)
_ANSWER = (
    r"\b(?:answer|respuesta|réponse|resposta|risposta|antwort|lösung|richtig ist|antwoord|svar|odpowiedź|cevap|yanıt|"
    r"jawaban(?:nya)?|đáp án|trả lời|ответ|відповідь|απάντηση|उत्तर|जवाब|(?:ال)?[إا]جابة|(?:ال)?جواب|پاسخ|תשובה)\b|"
    "答案|答 ?(?=:)|答え|正解|正しいのは|正答|解答|回答|[故应應题題]选|[故應題]選|而是|"
    "(?:では|じゃ)なく|정답|(?<!오)답|아니라|คำตอบ|ตอบ|เฉลย"
)
_CHOOSES = (
    r"\b(?:option|choice|choose|select|pick|go with|opción|opção|opzione|elijo|choisis|wähle|вариант|выбираю|chọn|"
    r"pilih|विकल्प|الخيار)\b|[选選]|選択肢|보기|선택|ข้อ|ตัวเลือก|เลือก"
)
_FILLER = (
    r"(?:[\s:=(\[\]–—“”「『【《》】』」、-]|\b(?:is|are|was|be|would|should|could|might|may|must|the|this|that|to|question|here|most|"
    r"likely|probably|clearly|correct|right|best|final|option|choice|letter|answer|es|est|ist|é|è|sería|serait|la|el|"
    r"il|le|die|der|das|correcta|correcto|correcte|correta|corretta|richtige|bonne|opción|opção|opzione|letra|lettre|"
    r"lettera|buchstabe|adalah|yang|benar|là|это|вариант|правильный|верный|буква|هي|هو|الصحيحة|الصحيح|الخيار|صحیح|सही|"
    r"विकल्प|है)\b|[是为為应應该該选選择擇项項可能最正确確就即佳]|[はがもの]|おそらく|選択肢|[은는이가]|아마도?|바로|보기|"
    r"คือ|เป็น|ข้อ|ตัวเลือก|ที่|ถูกต้อง|น่าจะ){0,24}+"
)
_WRONG = (
    r"(?!\)?\s+(?:(?:isn't|n'est|no es|non è|não é|ist nicht|ist falsch|не|(?:is|was|would be|can be|seems)\s+"
    r"(?:not|wrong|incorrect|false|unlikely|ruled|excluded))\b)|\)?(?:선택지|번)?[이가은는]? ?(?:아니|아닌|아닙|틀)|"
    r"\)? ?(?:では|じゃ)(?:な|あり)|"
    r"\)? ?(?:选项|選項|[项項])?[是并並就都也均]?(?:不(?!选|選)|[错錯误誤非])|\)? ?(?:ไม่|ผิด))"
)
_DENIES = re.compile(
    r"(?:(?:\b(?:not|never|than|except|neither|nor)|n't)\s+(?:the )?|[不別别勿非未][能会會应應该該要可是宜]{0,2})$",
    re.IGNORECASE,
)
# LaTeX and Markdown around a letter; \boxed{C} says that C is the answer.
_BOXED, _MARKUP = re.compile(r"\\boxed\b"), re.compile(r"\\[A-Za-z]+|[*_$`{}\\\"]")
_BLANKS, _LINES = re.compile(r"([^\S\n])[^\S\n]+"), re.compile(r"[^\S\n]?\n\s*")


@lru_cache
def _says(letters: str) -> list[re.Pattern[str]]:
    """How an answer names one of the letters, strongest first; a bare one counts only where it is all that a
    line says.

    Every repetition has a bound, so that time grows with an answer's length and not with its square.
    """
    plain = "".join(sorted(set(letters) - set("AEI")))
    guarded = {"A": f"A{_NO_ARTICLE}", "E": f"(?-i:E)|(?-i:e){_NO_ARTICLE}", "I": f"I{_NO_PRONOUN}"}
    one = "|".join(
        [f"[{plain}]"] * bool(plain) + [guarded[letter] for letter in guarded if letter in letters]
    )
    one = rf"(?<![^\W{_BESIDE}])(?<!')(?:{one}){_NO_SPECIES}(?![^\W{_BESIDE}]|'|-\w|(?!{_FOLLOWS})(?=\w)[{_BESIDE}])"
    between = r"(?:[\s,/&()、和与與及跟]|或[者是]?|[还還]是|\b(?:or|and|option|oder|und|ou|o|y|или|и|أو)\b|"
    between += "または|또는|หรือ|และ){0,8}"
    named = rf"({one}(?:{between}{one}){{0,9}}+)"
    right = r"correct|right|best|answer|true|correcta|correcto|correcte|correta|corretta|richtig"
    patterns = (
        rf"(?:{_ANSWER}|(?:not|n't) (?:option )?[{letters}]\)?[,;]? (?:but|it is|it's)\b){_FILLER}{named}{_WRONG}",
        rf"(?:^|[.,;:!?(。、「]|\b(?:that|so|thus|hence|therefore|and|but|think|option|opción|la)\b|[选選][项項]|所以|因此|"
        rf"故|只有|[认認][为為]|選択肢)\s*\(?{named}\)?(?: (?:is|are|would be|seems|es|est|ist|é|è) "
        rf"(?:(?:the|most|clearly|la|die) )*(?:{right})\b| ?(?:选项|選項|[项項番번])?(?:才?[是为為]|[がは이가은는])?"
        r"最? ?(?:正[确確解答]|正しい|[对對]的|答案|정답|맞|を選|[을를] ?선택)(?!では|じゃ|이? ?아[니닙]))",
        rf"(?:{_CHOOSES}){_FILLER}{named}{_WRONG}",
        rf"(?:^[^\w\n]*|\b(?:it is|it's|think) |[应應][该該]?[是为為]|[认認][为為]是?|[觉覺]得是) ?{named}"
        r"(?:[.):,;\]。、」】]|\s+[-–—]\s|です|입니다|だと思|[^\w\n]*$)",
    )
    return [re.compile(pattern, re.IGNORECASE | re.MULTILINE) for pattern in patterns]


def covers(answer: str, point: str) -> bool:
    """Whether an answer holds a key point: a short one word for word, a sentence by 60% of its content words.

    Five to eight characters of a script without spaces are a short point too; none may be missing, but parts
    of them may change places.
    """
    wanted, said = words(point), words(answer)
    if len(wanted) <= 4:
        return f" {' '.join(wanted)} " in f" {' '.join(said)} "
    content = set(wanted) - _STOP or set(wanted)
    if all(per_word(word) == 1 for word in content):
        return len(content & set(said)) >= 0.6 * len(content)
    shared = [hit for hit, word in zip(_shared(wanted, said), wanted, strict=True) if word in content]
    return sum(shared) >= (1 if len(wanted) <= 8 else 0.6) * len(shared)


def _shared(wanted: list[str], said: list[str]) -> list[bool]:
    """Whether each word of a point is in an answer: a character beside a neighbour, for alone it says little."""
    size = min(per_word(word) for word in wanted if per_word(word) > 1)
    runs, single = set(zip(*(said[at:] for at in range(size)), strict=False)), set(said)
    hits = [per_word(word) == 1 and word in single for word in wanted]
    for at in range(len(wanted) - size + 1):
        if tuple(wanted[at : at + size]) in runs:
            hits[at : at + size] = [True] * size
    return hits


def key_point_recall(answer: str, points: Sequence[str]) -> float:
    """Share of the key points (at least one) that the answer holds."""
    return sum(covers(answer, point) for point in points) / len(points)


def token_f1(answer: str, reference: str) -> float:
    """F1 of the bags of words, as in SQuAD (Rajpurkar et al. 2016), stop words included."""
    first, second = Counter(words(answer)), Counter(words(reference))
    shared = sum((first & second).values())
    return 2 * shared / (first.total() + second.total()) if shared else 0.0


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L (Lin 2004) with beta 1: F1 of the words in the longest common subsequence, stop words included."""
    first, second = words(answer), words(reference)
    shared = longest_common_subsequence(first, second)
    return 2 * shared / (len(first) + len(second)) if shared else 0.0


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, with the bits of an integer for a row of the table (Crochemore et al. 2001, as in Hyyrö
    2004).

    A bit is 0 where the length over `first` up to there is one more than before it.
    """
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(first):
        places[word] |= 1 << place
    whole = row = (1 << len(first)) - 1
    for word in second:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & whole
    return len(first) - row.bit_count()


def repetition(answer: str) -> float:
    """Share of the word trigrams that occurred before in the answer; 0 for answers of fewer than four words.

    In scripts without spaces they are of as many characters as make three words: of three characters,
    Japanese endings alone repeat one in twenty.
    """
    parts = words(answer)
    sizes = [6 // per_word(word) for word in parts]
    grams, end, size = [], 0, 0
    for start, first in enumerate(sizes):
        while size < 18 and end < len(parts):
            size += sizes[end]
            end += 1
        if size < 18:
            break
        grams.append(tuple(parts[start:end]))
        size -= first
    return 1 - len(set(grams)) / len(grams) if len(grams) > 1 else 0.0


def read_option(answer: str, letters: str = FOUR) -> str:
    """The letter, of those that the question offers (of A to J), that an answer settles on.

    '' if it names none, several, or only denies one.
    """
    text = _MARKUP.sub("", _BOXED.sub(" answer ", fold(answer))).replace("’", "'")
    text = _LINES.sub("\n", _BLANKS.sub(r"\1", text.replace("\u200b", " ")))
    single = re.compile(rf"(?<![A-Za-z])[{letters}{letters.lower()}](?![A-Za-z])")
    for pattern in _says(letters):
        # As far back as a denial is long.
        named = [
            match[1]
            for match in pattern.finditer(text)
            if not _DENIES.search(text, max(0, match.start() - 16), match.start())
        ]
        found = {letter.upper() for part in named for letter in single.findall(part)}
        if found:
            return found.pop() if len(found) == 1 else ""
    return ""


def win(chosen: float, rejected: float) -> float:
    """1 if the better one has more, 0 if it has less; a tie is half, as chance is."""
    return 0.5 if chosen == rejected else float(chosen > rejected)


def mean_interval(values: Sequence[float], seed: int, samples: int) -> tuple[float, float, float]:
    """The mean and its 95% percentile bootstrap interval (Efron 1979). Needs at least one value."""
    data = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means: list[np.ndarray] = []
    # A block of samples at a time: all draws of a large evaluation would not fit into memory.
    for start in range(0, samples, block := max(1, 2**22 // len(data))):
        drawn = rng.integers(0, len(data), (min(block, samples - start), len(data)))
        means.append(data[drawn].mean(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(data.mean()), float(low), float(high)


def share_interval(values: Sequence[float], seed: int, samples: int) -> tuple[float, float, float]:
    """As `mean_interval`, for values from 0 to 1. Where all are 0, or all 1, the other end is the exact
    bound.

    A bootstrap would claim to be certain there; the bound is that of Clopper and Pearson (1934), 1 -
    0.025^(1/n).
    """
    mean, low, high = mean_interval(values, seed, samples)
    bound = 1 - 0.025 ** (1 / len(values))
    return mean, 1 - bound if mean == 1 else low, bound if mean == 0 else high


def named(name: str, interval: tuple[float, float, float]) -> dict[str, float]:
    """An interval as the metrics `name`, `name_low` and `name_high`."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))


def named_interval(name: str, values: Sequence[float], seed: int, samples: int) -> dict[str, float]:
    """`mean_interval` as metrics; none for no value."""
    return named(name, mean_interval(values, seed, samples)) if len(values) else {}
