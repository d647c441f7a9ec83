"""The command `medqa`: looks after what the pipeline keeps. Modules are imported only for the command that is
run.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

# A command NAME is the module medqa.commands.NAME with add(parser) and run(options) -> exit code.
COMMANDS = {
    "recompute": "compute metrics again from the rows that they came from",
    "doctor": "print what a bug report needs, and whether the real preset would fit this machine",
    "cache": "show, prune, verify or empty the rows that are kept between runs",
    "verify": "recompute the hashes of all that dvc.lock names, of pinned models and of kept rows",
}


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Mistakes of a user are one line."""
    given = list(sys.argv[1:] if given is None else given)
    parser = argparse.ArgumentParser(prog="medqa", description="Looks after what the medqa pipeline keeps.")
    chosen = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, told in COMMANDS.items():
        command = chosen.add_parser(name, help=told, description=told)
        if given[:1] == [name]:
            import_module(f"medqa.commands.{name}").add(command)
    options = parser.parse_args(given)
    from medqa.runtime.errors import UserError

    try:
        return import_module(f"medqa.commands.{options.command}").run(options)
    except UserError as error:
        print(f"medqa {options.command}: {error}", file=sys.stderr)
    except OSError as error:
        print(
            f"medqa {options.command}: {error.strerror or error} ({error.filename or '.'})", file=sys.stderr
        )
    except KeyboardInterrupt:
        print(f"medqa {options.command}: interrupted", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
