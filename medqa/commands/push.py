"""`medqa push`: uploads an exported model to the Hugging Face Hub, privately unless it is to be public."""

import argparse
from pathlib import Path

from medqa.runtime.environment import set_up


def add(parser: argparse.ArgumentParser) -> None:
    """The repo, and the folder that `medqa export` wrote."""
    parser.add_argument("repo", help="OWNER/NAME on the Hub; made if it is not there, and private")
    default = Path("export")
    parser.add_argument("folder", type=Path, nargs="?", default=default, help=f"the default is {default}")
    parser.add_argument("--public", action="store_true", help="make it public; read its NOTICE first")


def run(options: argparse.Namespace) -> int:
    """Upload the folder, and print its address. Raises UserError where that fails."""
    set_up()
    from medqa.export import upload

    address = upload.upload(options.repo, options.folder, private=not options.public)
    print(f"{address} has the model.")
    return 0
