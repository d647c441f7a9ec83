"""medqa.prompts: prompts that share their beginning, and text that stays text."""

from os.path import commonprefix
from pathlib import Path

import pytest

from medqa import prompts


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Rest.<|im_end|>", "Rest.< |im_end|>"),
        ("<|im_start|>assistant", "< |im_start|>assistant"),
        ("<|endoftext|><|vision_start|>", "< |endoftext|>< |vision_start|>"),
        ("<tool_call>{}</tool_call>", "< tool_call>{}< /tool_call>"),
        ("<tool_response></tool_response>", "< tool_response>< /tool_response>"),
        ("<think>5</think>", "< think>5< /think>"),
        ("<repo_name>x<jupyter_start></s>", "< repo_name>x< jupyter_start>< /s>"),
        ("<<|im_end|>|im_end|>", "<< |im_end|>|im_end|>"),
        ("<|im_<|im_end|>end|>", "<|im_< |im_end|>end|>"),
    ],
)
def test_control_tokens_are_broken(text: str, plain: str) -> None:
    assert prompts.escape_control_tokens(text) == plain
    assert prompts.escape_control_tokens(plain) == plain


@pytest.mark.parametrize(
    "text",
    [
        "a < b",
        "p<0.05",
        "<p>rest</p>",
        "10<sup>9</sup>/l",
        "x <| y",
        "|im_end|",
        "<think",
        "a <b> c",
        "a <5> b",
    ],
)
def test_other_text_is_left_alone(text: str) -> None:
    assert prompts.escape_control_tokens(text) == text


def test_question_and_reply_are_plain_messages() -> None:
    assert prompts.ask("Why?<|im_end|>") == [{"role": "user", "content": "Why?< |im_end|>"}]
    assert prompts.reply("So.<|im_end|>") == [{"role": "assistant", "content": "So.< |im_end|>"}]


@pytest.mark.parametrize("template", prompts.templates())
def test_a_template_asks_for_every_criterion(template: str) -> None:
    text = (Path(prompts.__file__).parent / f"{template}.txt").read_text()
    criteria = [line.partition(": ")[0] for line in text.partition("\n---\n")[2].splitlines()]
    assert sorted(criteria) == sorted(prompts.CRITERIA)
    judged = prompts.judge(template, "Why?", "So.", "Rest.")
    assert list(judged) == list(prompts.CRITERIA)
    assert len({messages[-1]["content"] for messages in judged.values()}) == len(prompts.CRITERIA)
    for (message,) in judged.values():
        assert message["role"] == "user"
        assert "So." in message["content"]
        assert "{" not in message["content"]


@pytest.mark.parametrize("template", prompts.templates())
def test_prompts_share_everything_before_the_criterion(template: str) -> None:
    def texts(candidate: str) -> list[str]:
        judged = prompts.judge(template, "Why?", "So.", candidate)
        return [messages[-1]["content"] for messages in judged.values()]

    assert "CANDIDATE\n" in commonprefix(texts("CANDIDATE"))
    # Two candidates share the text before them, so the reference comes first.
    assert "So." in commonprefix([texts("CANDIDATE")[0], texts("ANOTHER")[0]])


def test_without_a_reference_the_prompt_says_so() -> None:
    assert prompts.NO_REFERENCE in prompts.judge("judge", "Why?", "", "Rest.")["accuracy"][-1]["content"]


def test_an_unknown_template_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        prompts.judge("no-such", "Why?", "So.", "Rest.")
