"""The command `medqa` looks after a run and puts its models to use. It imports only the command that runs."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

# A command NAME is the module medqa.commands.NAME with add(parser) and run(options) -> exit code;
# that of `import` is import_files.
COMMANDS = {
    "check": "say whether params.yaml is right, what would run, and what it costs in time, memory and disk",
    "ask": "ask models of the run a question; with a reference, the judge scores the answers",
    "chat": "talk with a model of the run",
    "export": "write a model of the run as one that other programs load, scored beside the run's own",
    "push": "upload an exported model to the Hugging Face Hub",
    "recompute": "compute metrics again from the rows that they came from",
    "preset": "list the presets, or write one into params.yaml",
    "import": "make a table of questions and answers the files that the preset `files` reads",
    "preview": "show rows as the model will see them, with their lengths in tokens",
    "doctor": "print what a bug report needs, and whether the real preset would fit this machine",
    "cache": "show, prune, verify or empty the rows that are kept between runs",
    "sheet": "write a sheet of held-out answers for a person to score, blind to the model",
    "verify": "recompute the hashes of all that dvc.lock names, of pinned models and of kept rows",
}


def _module(name: str) -> ModuleType:
    return import_module(f"medqa.commands.{'import_files' if name == 'import' else name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. A user's mistake is one line on stderr."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="medqa", description="Looks after a run of the medqa pipeline, and puts its models to use."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if arguments[:1] == [name]:
            _module(name).add(command)
    options = parser.parse_args(arguments)
    from medqa.runtime.errors import UserError

    try:
        return int(_module(options.command).run(options))
    except UserError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.strerror or error} ({error.filename or '.'})"
    except KeyboardInterrupt:
        message = "interrupted"
    print(f"medqa {options.command}: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
