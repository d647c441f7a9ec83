"""Stage `check`: params.yaml is right, before DVC makes paths of the text in it."""

from pathlib import Path

from medqa import params, records, stage


def main(out: Path) -> str:
    """Check all of params.yaml, and write `out`, which is always the same, so that nothing reruns for it."""
    given = params.read()
    with records.whole(out) as file:
        file.write("params.yaml is right\n")
    names = ", ".join(given["models"].sources())
    return f"corpus {given['corpus']}, models {names}, judged by {given['evaluate'].judge}"


if __name__ == "__main__":
    stage.run(main)
