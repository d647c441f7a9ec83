"""What a reasoning model writes before its answer, apart from the answer."""

# The tags around it: of Qwen, DeepSeek and most others; of EXAONE, Seed-OSS, Magistral and Kimi.
TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
)


def split(text: str) -> tuple[str, str]:
    """The thoughts and the answer of a completion; no thoughts where it begins with none.

    A chat template may have written the opening tag into the prompt: then the first closing tag ends the
    thoughts. Thoughts that nothing closes were cut off, and their answer is empty. Tags inside an answer are
    left alone.
    """
    text = text.strip()
    for begin, end in TAGS:
        head, closing, _ = text.partition(end)
        if closing and begin not in head:
            text = begin + text
        blocks = []
        while text.startswith(begin):
            head, _, text = text.removeprefix(begin).partition(end)
            blocks.append(head.strip())
            text = text.strip()
        if blocks:
            return "\n\n".join(filter(None, blocks)), text
    return "", text


def join(thoughts: str, answer: str) -> str:
    """The completion that `split` takes apart."""
    begin, end = TAGS[0]
    return f"{begin}\n{thoughts}\n{end}\n\n{answer}".strip() if thoughts else answer


def opened(prompt: str) -> str:
    """The opening tag that a prompt ends with; empty where it ends with none."""
    return next((begin for begin, _ in TAGS if prompt.rstrip().endswith(begin)), "")
