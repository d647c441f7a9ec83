"""The command `medqa` looks after the pipeline's files. It imports only the command that runs."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

# A command NAME is the module medqa.commands.NAME with add(parser) and run(options) -> exit code.
COMMANDS = {
    "check": "say whether params.yaml is right, what would run, and what it costs in time, memory and disk",
    "recompute": "compute metrics again from the rows that they came from",
    "doctor": "print what a bug report needs, and whether the real preset would fit this machine",
    "cache": "show, prune, verify or empty the rows that are kept between runs",
    "sheet": "write a sheet of held-out answers for a person to score, blind to the model",
    "verify": "recompute the hashes of all that dvc.lock names, of pinned models and of kept rows",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. A user's mistake is one line on stderr."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="medqa", description="Looks after what the medqa pipeline keeps.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if arguments[:1] == [name]:
            import_module(f"medqa.commands.{name}").add(command)
    options = parser.parse_args(arguments)
    from medqa.runtime.errors import UserError

    try:
        return import_module(f"medqa.commands.{options.command}").run(options)
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
