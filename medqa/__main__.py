"""`python -m medqa recompute [FILE [CELL]]`: metrics again from the rows that they came from."""

import argparse
import sys
from pathlib import Path

from medqa.params import UserError


def main() -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="medqa", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    again = commands.add_parser("recompute", help="compute metrics again from the rows that they came from")
    again.add_argument("file", nargs="?", type=Path, help="a file of metrics/; all if none is given")
    again.add_argument("cell", nargs="?", help="one number of it, such as score or by.all.agreement")
    given = parser.parse_args()
    try:
        from medqa import recompute

        results = [
            recompute.report(path, given.cell) for path in ([given.file] if given.file else recompute.all_metrics())
        ]
    except UserError as error:
        print(f"medqa: {error}", file=sys.stderr)
        return 1
    print("\n".join(told for told, _ in results))
    return 0 if all(same for _, same in results) else 1


if __name__ == "__main__":
    sys.exit(main())
