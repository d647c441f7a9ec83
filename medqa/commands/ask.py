"""`medqa ask`: one question to models of the run, with the judge's scores where a reference is named."""

import argparse
from collections.abc import Mapping

from medqa.commands import answering
from medqa.commands.answering import MODELS, POLICIES, Settings
from medqa.runtime.errors import UserError

SCORES = ("accuracy", "completeness", "key_points", "score")


def add(parser: argparse.ArgumentParser) -> None:
    """The question, the model that answers, and how."""
    parser.add_argument("question", help="in quotes")
    parser.add_argument("--model", choices=(*POLICIES, "all"), default="dpo", help="the default is dpo")
    parser.add_argument(
        "--reference", default="", help="a right answer, by which the judge scores each answer"
    )
    answering.add_sampling(parser)


def run(options: argparse.Namespace) -> int:
    """Print each answer while it is written, then the scores. Raises UserError without a finished run."""
    if not options.question.strip():
        raise UserError('the question is empty; write one in quotes, as in medqa ask "What is gout?"')
    settings = answering.read_settings(options)
    from medqa import policies, prompts

    names = POLICIES if options.model == "all" else (options.model,)
    judge = settings.params.evaluate.judge
    for name in (*names, judge) if options.reference else names:
        policies.model_dir(name, MODELS)  # before the first answer, not after it
    answering.warn()
    answers = {}
    for name in names:
        with answering.load(name, settings) as engine:
            print(f"{name}: ", end="", flush=True)
            messages = prompts.ask(options.question)
            answers[name] = answering.write_answer(engine, messages, settings).text
    if options.reference:
        _print_scores(options.question, options.reference, answers, settings)
    return 0


def _print_scores(question: str, reference: str, answers: Mapping[str, str], settings: Settings) -> None:
    """A table with a row per model: the judge's criteria and their weighted mean, from 0 to 1."""
    from medqa import judge, policies
    from medqa.engines import loading

    params = settings.params
    cases = [judge.Case(name, question, reference, answer) for name, answer in answers.items()]
    folder = policies.model_dir(params.evaluate.judge, MODELS)
    grader = loading.load_transformers(folder, None, params.dtype, params.compute.judge_batch_size)
    scores = judge.score(grader, cases, params.judge)
    print("\n" + f"judge, 0 to 1{'':7}" + "".join(f"{name.replace('_', ' '):>14}" for name in SCORES))
    for name, score in scores.items():
        values = (getattr(score, each) for each in SCORES)
        cells = "".join(f"{value:14.3f}" for value in values if value is not None)
        print(f"{name:20}" + (cells or f"  not scored: {score.unscored}"))
