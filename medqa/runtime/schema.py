"""Prints the JSON schema of params.yaml: `python -m medqa.runtime.schema > params.schema.json`.

Editors that know YAML's language server complete and check the keys of params.yaml and the presets with it.
"""

import json

from medqa.runtime.sections import Params


def schema() -> str:
    """The schema as JSON text. Titles are left out: they only repeat the names of the keys."""
    return json.dumps(_without_titles(Params.model_json_schema()), indent=1, ensure_ascii=False) + "\n"


def _without_titles(part: object) -> object:
    if isinstance(part, dict):
        return {key: _without_titles(value) for key, value in part.items() if key != "title"}
    return [_without_titles(item) for item in part] if isinstance(part, list) else part


if __name__ == "__main__":
    print(schema(), end="")
