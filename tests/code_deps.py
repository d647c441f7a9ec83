"""Which of the project's files a stage's code depends on. Run it to write them into dvc.yaml."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
STAGES = tuple(sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py")))
# No result depends on them: they check parameters, report errors and keep work.
UNTRACKED = ("medqa/__init__.py", "medqa/runtime/")


def code_deps(script: str) -> list[str]:
    """What a script needs besides data: its modules, or a package as a whole where all of it is needed."""
    modules = needed_files(script)
    deps = set()
    for path in modules:
        package = "/".join(path.split("/")[:2])
        if path.count("/") == 1 or _modules(package) <= modules:
            deps.add(package)
        else:
            deps |= {path, *_data_files(path)}
    return [script, *sorted(deps - {script})]


def needed_files(path: str, seen: set[str] | None = None) -> set[str]:
    """The modules that a file imports, also inside functions and through others, with the file itself."""
    seen = set() if seen is None else seen
    if path not in seen and not path.startswith(UNTRACKED):
        seen.add(path)
        for imported in _imports(path):
            needed_files(imported, seen)
    return seen


def defining_file(module: str, name: str) -> str:
    """The file that defines a name, looked up through packages whose __init__ holds nothing but imports."""
    file = _file(f"{module}.{name}") or _file(module)
    if file == _file(module) and _imports_only(file):
        for node in _parse(file).body:
            for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                if name in (alias.asname, alias.name):
                    return defining_file(node.module, alias.name)
        raise LookupError(f"{file} offers no {name}")
    return file


def _imports(path: str) -> Iterator[str]:
    tree = _parse(path)
    unused = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for child in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in unused and node.module.startswith("medqa"):
            for alias in node.names:
                yield from _packages(node.module)
                yield from _uses(tree, node.module, alias.name, alias.asname or alias.name)
        elif isinstance(node, ast.Import):
            yield from (file for alias in node.names if (file := _file(alias.name)))


def _uses(tree: ast.Module, module: str, name: str, bound: str) -> Iterator[str]:
    """The files behind an imported name; of a package, those behind the names that are used of it."""
    file = defining_file(module, name)
    if not _imports_only(file):
        yield file
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == bound:
            yield defining_file(f"{module}.{name}", node.attr)


def _packages(module: str) -> Iterator[str]:
    """The __init__ files with code of their own that run before a module."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        file = _file(".".join(parts[:end]))
        if file and file.endswith("__init__.py") and not _imports_only(file):
            yield file


@cache
def _parse(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def _file(module: str) -> str | None:
    path = module.replace(".", "/")
    return next((p for p in (f"{path}.py", f"{path}/__init__.py") if (ROOT / p).is_file()), None)


@cache
def _imports_only(path: str) -> bool:
    """Whether a file is an __init__ with a docstring, imports and __all__ alone."""
    harmless = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AugAssign)
    return path.endswith("__init__.py") and all(isinstance(node, harmless) for node in _parse(path).body)


def _modules(package: str) -> set[str]:
    files = (path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py"))
    return {path for path in files if not _imports_only(path)}


def _data_files(path: str) -> set[str]:
    files = (
        file
        for file in (ROOT / path).parent.iterdir()
        if file.is_file() and file.suffix not in (".py", ".pyc")
    )
    return {file.relative_to(ROOT).as_posix() for file in files}


def write(pipeline: Path) -> None:
    """Replace the code dependencies of each stage in dvc.yaml, which are one run of lines per stage."""
    text, *parts = re.split(r"^  (\w+):\n", pipeline.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in STAGES:
            lines = "".join(rf"\g<indent>- {dep}\n" for dep in code_deps(f"stages/{name}.py"))
            body = re.sub(r"(?P<indent> +)- stages/.*\n(?:(?P=indent)- medqa/.*\n)*", lines, body)
        text += f"  {name}:\n{body}"
    pipeline.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(ROOT / "dvc.yaml")
