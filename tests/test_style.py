"""The words and the measures of the code: names that say what a thing is, functions that fit on a screen."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for folder in ("medqa", "stages") for path in (ROOT / folder).rglob("*.py"))
# They name nothing: each stood for a dozen different things.
NO_NAMES = {"told", "given", "some", "asked"}
LINES = 40  # of a function


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a file binds, with its line: variables, parameters, attributes, functions, classes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_say_what_a_thing_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    bound = [f"{name}, line {line}" for name, line in names(ast.parse(text)) if name.strip("_") in NO_NAMES]
    assert bound == []
    assert not re.search(r"\btold\b", text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_fit_on_a_screen(path: Path) -> None:
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    assert [f.name for f in functions if f.end_lineno - f.lineno >= LINES] == []


def test_an_init_holds_imports_only() -> None:
    for path in (path for path in FILES if path.name == "__init__.py" and path.parent.name != "medqa"):
        docstring, *rest = ast.parse(path.read_text()).body
        kinds = {type(node) for node in rest}
        assert kinds <= {ast.ImportFrom, ast.Assign, ast.AugAssign}, path
        assert all("__all__" in ast.unparse(node) for node in rest if not isinstance(node, ast.ImportFrom)), (
            path
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_architecture_names_each_module_with_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    lines = (ROOT / "docs" / "ARCHITECTURE.md").read_text().splitlines()
    summary = docstring.partition("\n")[0]
    if path.name != "__init__.py":
        assert any(line.split()[:1] == [path.name] and line.endswith(summary) for line in lines)
