"""What a reasoning model thought is set aside before anything reads its answer, and kept in the row."""

import pytest
from fake_engine import FakeEngine, embed, requests

from medqa import engines, evaluate, generate, model
from medqa.engines import Completion, thinking
from medqa.engines.transformers_engine import TransformersEngine
from medqa.records import HeldOut, Question
from medqa.runtime import sections

# What a model wrote, its thoughts and its answer.
TABLE = [
    ("The answer is C.", "", "The answer is C."),
    ("<think>The answer is A? Hardly.</think> C", "The answer is A? Hardly.", "C"),
    ("<think>\nA?\nB?\n</think>\n\nC", "A?\nB?", "C"),
    ("<think>\n\n</think>\n\nC", "", "C"),  # Qwen3 that is not to think
    ("A? Hardly.\n</think>\n\nC", "A? Hardly.", "C"),  # the template wrote the opening tag
    ("</think>C", "", "C"),
    ("<think>A? Har", "A? Har", ""),  # cut off
    ("<think>", "", ""),
    ("<think>A</think>", "A", ""),
    ("<think>A</think><think>B</think>C", "A\n\nB", "C"),
    ("<think>A</think>C, as </think> says", "A", "C, as </think> says"),
    ("He may <think> and write </think> here.", "", "He may <think> and write </think> here."),
    ("It is <think>.", "", "It is <think>."),
    ("<thinking>A</thinking>C", "A", "C"),
    ("<thought>\nA\n</thought>\n\nC", "A", "C"),
    ("<seed:think>A</seed:think>C", "A", "C"),
    ("[THINK]A[/THINK]C", "A", "C"),
    ("◁think▷A◁/think▷C", "A", "C"),
    ("< think>A< /think>C", "", "< think>A< /think>C"),
    ("", "", ""),
]


@pytest.mark.parametrize(("text", "thoughts", "answer"), TABLE)
def test_thoughts_and_answer_are_separated(text: str, thoughts: str, answer: str) -> None:
    assert thinking.split(text) == (thoughts, answer)
    assert thinking.split(thinking.join(thoughts, answer)) == (thoughts, answer)


def test_candidates_keep_thoughts_beside_the_answer() -> None:
    params = sections.GenerateParams(n=2, temperature=0.7, top_p=0.95, max_new_tokens=40)
    says = {"b": "<think>A? Hardly.</think> C", "a": "<think>So long-", "c": "C"}
    questions = [Question(name, name, "") for name in says]
    rows = generate.generate_answers(
        FakeEngine(lambda question, _: says[question]), questions, params, seed=1
    )
    assert [(row.thinking, row.text, row.finish_reason) for row in rows[::2]] == [
        ("A? Hardly.", "C", "stop"),
        ("So long-", "", "length"),
        ("", "C", "stop"),
    ]


def test_thoughts_are_neither_measured_nor_judged() -> None:
    says = {"x": "<think>The answer is A? A A A A A A Hardly.</think> C", "y": "<think>The answer is A"}
    held_out = [HeldOut(name, "exam", name, "The answer is C.", ("C",), "C", "C", "A") for name in says]
    params = sections.EvaluateParams(judge="judge", max_new_tokens=40, bootstrap_samples=200)
    judging = sections.JudgeParams(
        method="grades",
        template="judge-short",
        criteria={"accuracy": 1, "completeness": 1, "key_points": 1},
        min_mass=0.5,
        max_chars=600,
    )
    policy, judge = FakeEngine(lambda question, _: says[question]), FakeEngine()
    whole, cut = evaluate.evaluate_model(policy, judge, embed, held_out, params, judging, "judge")
    # The answer that is cut off is empty, and the judge does not read it.
    assert {prompt.rpartition("\n")[0] for prompt in judge.prompts} == {"The answer is C.\nC"}
    assert (whole.choice, whole.correct, whole.repetition, whole.key_point_recall) == ("C", True, 0, 1)
    assert (whole.text, whole.thinking) == ("C", "The answer is A? A A A A A A Hardly.")
    assert whole.tokens == len(says["x"].split())
    assert (cut.text, cut.choice, cut.correct, cut.thinking) == ("", "", False, "The answer is A")


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("opened", [True, False])
def test_an_engine_keeps_the_tags_whatever_the_tokenizer_makes_of_them(
    tiny_base, special: bool, opened: bool
) -> None:
    """They may be control tokens, which decoding leaves out, and the template may write the first into the
    prompt.
    """
    tok = model.tokenizer(tiny_base)
    tok.add_tokens(["<think>", "</think>"], special_tokens=special)
    if opened:
        tok.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    net = model.load_merged(tiny_base, "float32")
    net.resize_token_embeddings(len(tok))
    engine = TransformersEngine(net, tok, batch_size=2)
    (question,) = requests(["What is gout?"], answer="fever")
    tag = thinking.opened(*engine.chat.render([question.messages]))
    assert tag == ("<think>" if opened else "")

    def made(text: str, ended: bool) -> Completion:
        return engine.chat.completion(tok.encode(text) + [tok.eos_token_id] * ended, tag)

    begin = "" if opened else "<think>"
    whole, cut = made(begin + "joint pain</think>fever", True), made(begin + "joint pain", False)
    assert (thinking.split(whole.text), whole.finish_reason) == (("joint pain", "fever"), "stop")
    assert (thinking.split(cut.text), cut.finish_reason) == (("joint pain", ""), "length")
    assert thinking.split(made("fever", True).text) == ("", "fever")
    sampling = engines.Sampling(temperature=0, top_p=1, max_new_tokens=4)
    ((_, answer),) = engine.generate([question], sampling)
    assert answer.tokens == 4 or answer.finish_reason == "stop"
    # An answer to learn has no thoughts: its likelihood begins where it differs from the prompt.
    plain = TransformersEngine(net, model.tokenizer(tiny_base), batch_size=2)
    assert list(engine.answer_logprobs([question])) == list(plain.answer_logprobs([question]))
