"""`medqa export`: a model of the run as one that other programs load, scored beside the run's own."""

import argparse
from pathlib import Path

from medqa.commands.answering import POLICIES
from medqa.runtime.environment import set_up
from medqa.runtime.params import read_params

FORMATS = {
    "merged": "plain weights in the run's dtype",
    "gptq": "4 bits per weight by GPTQ",
    "gguf": "one file for llama.cpp and Ollama, in the run's dtype",
}
ROWS = 100


def add(parser: argparse.ArgumentParser) -> None:
    """The folder, the model and its format."""
    parser.add_argument("folder", type=Path, help="is made; it must be empty or missing")
    parser.add_argument("--model", choices=POLICIES, default="dpo", help="the default is dpo")
    shown = "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
    parser.add_argument("--format", choices=FORMATS, default="merged", help=f"{shown} (merged)")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"held-out rows to score it on ({ROWS})")


def run(options: argparse.Namespace) -> int:
    """Write the folder, and print how the export scores. Raises UserError, and leaves none, if it fails."""
    params = read_params()
    set_up()
    from medqa import export

    target = export.Target(options.model, options.format, options.folder, options.rows)
    scores = export.export(target, params)
    print(scores.table(options.model, options.format))
    print(f"{options.folder} holds the model, with its card in README.md. Not for clinical use.")
    print(f"medqa push OWNER/NAME {options.folder} uploads it to the Hugging Face Hub.")
    return 0
