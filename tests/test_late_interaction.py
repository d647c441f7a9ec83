"""medqa.late_interaction and its engine: a text says what its tokens match, whatever else is judged."""

import math
from pathlib import Path

import pytest
import tiny_encoder
import torch

from medqa import encoder, late_interaction, prompts
from medqa.engines import Request, Sampling, loading
from medqa.engines.encoder_engine import EncoderEngine
from medqa.late_interaction import Calibration
from medqa.runtime.errors import UserError
from medqa.runtime.sections import ComputeParams

LABELS = ("no", "yes")
PAIRS = [
    ("the fever of a rash", "fever"),
    ("cough", "fever"),
    ("gout . the cough", "a cough of gout"),
    ("", "gout"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("judge")
    tiny_encoder.write(path)
    late_interaction.write_calibration(path, Calibration(scale=10.0, offset=0.5))
    return path


def requests(pairs: list[tuple[str, str]], question: str = "Why?") -> list[Request]:
    return [
        Request(str(number), prompts.statement("points-pair", "point", question, text, statement))
        for number, (text, statement) in enumerate(pairs)
    ]


def similarity(folder: Path, statement: str, text: str) -> float:
    """By the formula, with plain loops."""
    net, tok = encoder.load(folder), encoder.load_tokenizer(folder)

    def vectors(words: str, kind: int) -> list[torch.Tensor]:
        ids = torch.tensor([tok(words).input_ids])
        states = net(input_ids=ids, token_type_ids=torch.full_like(ids, kind)).last_hidden_state[0, 1:-1]
        return [state / state.norm() for state in states]

    with torch.inference_mode():
        best = [max(float(a @ b) for b in vectors(text, 0)) for a in vectors(statement, 1)]
    return sum(best) / len(best)


def test_it_is_the_mean_of_the_best_cosines(folder: Path) -> None:
    results = dict(EncoderEngine(folder).label_probabilities(requests(PAIRS[:3]), LABELS))
    for number, (text, statement) in enumerate(PAIRS[:3]):
        yes = 1 / (1 + math.exp(-10 * (similarity(folder, statement, text) - 0.5)))
        assert results[str(number)].probabilities == pytest.approx((1 - yes, yes), abs=1e-5)
        assert results[str(number)].mass == 1


@pytest.mark.parametrize(
    ("question", "statement", "counted"),
    [
        ("the gout", "fever of gout", [1, 1, 0]),  # a sentence that repeats the question says no more by it
        ("rash", "fever of gout", [1, 1, 1]),
        ("fever of gout", "gout of fever", [1, 1, 1]),  # else nothing would be left
    ],
)
def test_words_of_the_question_do_not_count(folder: Path, question: str, statement: str, counted) -> None:
    net, tok = encoder.load(folder), encoder.load_tokenizer(folder)
    rows = (encoder.tokenize(tok, [words, "the fever"]) for words in (statement, question))
    _, mask = late_interaction.statement_vectors(net, *rows)
    assert mask[0].tolist() == [0, *counted, 0]


def test_a_sentence_is_judged_by_what_the_question_does_not_say(folder: Path) -> None:
    (_, about_gout), (_, about_rash) = (
        *EncoderEngine(folder).label_probabilities(requests(PAIRS[2:3], "gout?"), LABELS),
        *EncoderEngine(folder).label_probabilities(requests(PAIRS[2:3], "rash?"), LABELS),
    )
    assert about_gout.probabilities != about_rash.probabilities


def test_an_empty_text_says_nothing(folder: Path) -> None:
    (_, labels), *_ = EncoderEngine(folder).label_probabilities(requests([PAIRS[3]]), LABELS)
    assert labels.probabilities[1] == pytest.approx(1 / (1 + math.exp(15)))


def test_pairs_change_nothing_about_each_other(folder: Path) -> None:
    together = dict(EncoderEngine(folder).label_probabilities(requests(PAIRS), LABELS))
    for request in requests(PAIRS):
        assert dict(EncoderEngine(folder).label_probabilities([request], LABELS)) == {
            request.id: together[request.id]
        }


def test_padding_of_a_batch_counts_for_nothing(folder: Path) -> None:
    net, tok = encoder.load(folder), encoder.load_tokenizer(folder)
    texts, statements = zip(*PAIRS[:3], strict=True)
    with torch.inference_mode():
        batch = late_interaction.similarities(
            late_interaction.statement_vectors(net, encoder.tokenize(tok, statements), [[]] * 3),
            late_interaction.token_vectors(net, encoder.tokenize(tok, texts)),
        )
    for number, (text, statement) in enumerate(PAIRS[:3]):
        assert batch[number, number].item() == pytest.approx(similarity(folder, statement, text), abs=1e-5)


def test_a_model_directory_with_a_calibration_judges(folder: Path) -> None:
    assert isinstance(loading.load_transformers(folder, None, "bfloat16", 8), EncoderEngine)


def test_it_judges_in_this_process_where_servers_answer(folder: Path) -> None:
    batches = {
        "generate_batch_size": 1,
        "judge_batch_size": 1,
        "cluster": None,
        "processes": 1,
        "process_cores": None,
        "process_gpus": None,
        "checkpoint_minutes": 1,
        "tracking": None,
    }
    compute = ComputeParams(engine="http", servers={}, row_cache=False, max_failed_rows=0, **batches)
    with loading.load(folder, None, "float32", compute, 1) as judge:
        assert len(dict(judge.label_probabilities(requests(PAIRS), LABELS))) == len(PAIRS)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda engine: engine.generate([], Sampling(0, 1, 8)), "writes no answers"),
        (lambda engine: engine.answer_logprobs([]), "knows no likelihoods"),
        (
            lambda engine: list(engine.label_probabilities([Request("a", prompts.ask("Why?"))], LABELS)),
            "points-pair",
        ),
    ],
)
def test_what_an_encoder_cannot_do_is_said(folder: Path, operation, message: str) -> None:
    with pytest.raises(UserError, match=message):
        operation(EncoderEngine(folder))
