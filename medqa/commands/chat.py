"""`medqa chat`: a conversation with a model of the run; an empty line or Ctrl-D ends it."""

import argparse
import sys

from medqa.commands import answering
from medqa.commands.answering import MODELS, POLICIES


def add(parser: argparse.ArgumentParser) -> None:
    """The model that answers, and how."""
    parser.add_argument("--model", choices=POLICIES, default="dpo", help="the default is dpo")
    answering.add_sampling(parser)


def run(options: argparse.Namespace) -> int:
    """Answer line after line. Raises UserError without a finished run, or where the context is full."""
    settings = answering.read_settings(options)
    from medqa import policies, prompts

    policies.model_dir(options.model, MODELS)
    answering.warn()
    print("An empty line or Ctrl-D ends the conversation.", file=sys.stderr)
    with answering.load(options.model, settings) as engine:
        messages: prompts.Messages = []
        while question := _read_line():
            messages += prompts.ask(question)
            print(f"{options.model}: ", end="", flush=True)
            answer = answering.write_answer(engine, messages, settings, len(messages))
            messages += prompts.reply(answer.text)
    return 0


def _read_line() -> str:
    """The next line of the user; empty at the end."""
    try:
        return input("you: ").strip()
    except EOFError:
        print()
        return ""
