"""The forms in which the words of two prompts are compared: spelling, endings, function words.

Prompts come as keys of `options.prompt_key`.
"""

import math
import re
from functools import lru_cache

from medqa.text import normalize, per_word

FILLERS = frozenset(
    re.findall(
        r"\w+",
        """a an the is are was were be been am does did has have had can could would should will may might
        shall of in on at to for from with by about into as and or so then there it its this that these
        those me my you your we us what which please tell give explain describe kindly know main common
        typical usual possible exactly""",
    )
)
_ENDINGS = ("ing", "ed", "es", "s")


def _phrases(text: str) -> str:
    """A pattern for phrases in the form of keys, the longest first."""
    return "|".join(sorted((normalize(phrase) for phrase in text.split()), key=len, reverse=True))


# Function words of Chinese, Japanese and Thai. Words that ask for a reason or a manner are none, though they
# hold one.
_INTERROGATIVES = "为什么 為什麼 怎么 怎麼 なぜ どう どのように ทำไม อย่างไร"
_FUNCTION_WORDS = """
    的 是 有 了 吗 嗎 呢 吧 我 您 你 请 請 请问 請問 什么 什麼 哪些 哪个 哪個 哪种 哪種 主要 常见 常見 通常
    一般 包括 可以 应该 應該 关于 關於 对于 對於 告诉 告訴 は が の を に で と も へ か です ます 何 なに
    どの どんな どのような とは について 主な 教えて ください คือ อะไร มี ของ เป็น ที่ บ้าง ใด ไหน ครับ ค่ะ
    คะ กรุณา โปรด ช่วย บอก
"""
_PARTICLES = re.compile(
    r"(?<!\S)(?:({})|{})(?!\S)".format(*map(_phrases, (_INTERROGATIVES, _FUNCTION_WORDS)))
)
# British endings and diphthongs as American ones; it is enough that both forms come out alike.
_AMERICAN = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("[ao]e", "e"),
        ("(?<=..)our(?=(?:s|ed|ing|ful|less|al|able)?$)", "or"),
        ("(?<=[iy])s(?=(?:e[ds]?|ers?|ing|ations?)$)", "z"),
        ("(?<=[btv])re(?=s?$)", "er"),
        ("(?<=..[ae]l)l(?=(?:ed|ing|ers?)$)", ""),
        ("(?<=log)ue(?=s?$)", ""),
        ("sulph", "sulf"),
        ("leuc(?=[ao])", "leuk"),
    )
)


def words(key: str) -> list[str]:
    """All words of a key, options included."""
    return key.replace(" | ", " ").split()


def units(part: str) -> list[str]:
    """The words of a part of a key, in American spelling; in a script without spaces, pairs of characters."""
    spelled = part.split()
    if part.isascii():
        return [american(word) for word in spelled]
    paired: list[str] = []
    for before, word, after in zip(["", *spelled], spelled, [*spelled[1:], "."], strict=False):
        if per_word(word) == 1:
            paired.append(american(word))
        elif per_word(after) > 1:
            paired.append(word + after)
        elif per_word(before) == 1:
            paired.append(word)
    return paired


def count_words(key: str) -> float:
    """The number of words; infinite for a prompt with options, which say what it is about."""
    if " | " in key:
        return math.inf
    return key.count(" ") + 1 if key.isascii() else sum(1 / per_word(word) for word in words(key))


def core(key: str) -> tuple[str, ...]:
    """The words that carry the meaning, without their endings, sorted; all words where there is none."""
    text = key.replace(" | ", " ")
    stripped = text if text.isascii() else _PARTICLES.sub(lambda match: match[1] or "", text)
    spelled = units(stripped) or units(text)
    # An article comes before a word; "hepatitis A" ends in a name.
    content = [
        word
        for word, after in zip(spelled, [*spelled[1:], "of"], strict=True)
        if word not in FILLERS or (word == "a" and after in FILLERS)
    ]
    return tuple(sorted(stem(word) for word in content or spelled))


@lru_cache(maxsize=1 << 17)
def american(word: str) -> str:
    """A word in a spelling that is the same for British and American English."""
    if len(word) < 5 or not word.isascii():
        return word
    for pattern, replacement in _AMERICAN:
        word = pattern.sub(replacement, word)
    return word


@lru_cache(maxsize=1 << 17)
def stem(word: str) -> str:
    """A word in that spelling, without its ending."""
    word = american(word)
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word.removesuffix(ending)
    return word


def misspellings(word: str) -> set[str]:
    """A word of five letters or more with two neighbouring letters swapped or, of six or more, one left out.

    Not with one exchanged for another, which is as often another word (dysphagia, dysphasia).
    """
    if not word.isalpha() or len(word) < 5:
        return set()
    swapped = {word[:n] + word[n + 1] + word[n] + word[n + 2 :] for n in range(len(word) - 1)} - {word}
    return swapped | ({word[:n] + word[n + 1 :] for n in range(len(word))} if len(word) > 5 else set())
