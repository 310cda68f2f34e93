"""How large a function and a file may be, and what no product code does."""

import ast
from collections.abc import Iterator
from functools import cache

from rooms import ROOMS, ROOT

LINES_OF_A_FUNCTION = 60
PARAMETERS = 10
LINES_OF_A_FILE = 300

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def sources() -> dict[str, str]:
    """Text of every file of the rooms, by path from the root."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
    }


def functions() -> Iterator[tuple[str, Function]]:
    for file, text in sources().items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, Function):
                yield f"{file}:{node.name}", node


def lines(node: Function) -> int:
    """From `def` to the last statement, without the docstring."""
    first = node.body[0]
    docstring = ast.get_docstring(node, clean=False)
    explained = (first.end_lineno or 0) - first.lineno + 1 if docstring is not None else 0
    return (node.end_lineno or 0) - node.lineno + 1 - explained


def parameters(node: Function) -> int:
    args = node.args
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    return sum(arg is not None for arg in named)


def imports(text: str) -> Iterator[tuple[str, ast.alias]]:
    """Module and name of every import."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", alias) for alias in node.names)


def test_the_lines_and_parameters_of_a_function_are_counted() -> None:
    [node] = ast.parse(
        'def f(a, /, b, *c, d, **e):\n    """Two\n    lines."""\n    return a\n'
    ).body
    assert isinstance(node, ast.FunctionDef)
    assert (lines(node), parameters(node)) == (2, 5)


def test_functions_are_short() -> None:
    long = {name for name, node in functions() if lines(node) > LINES_OF_A_FUNCTION}
    assert long == set()


def test_functions_have_few_parameters() -> None:
    many = {name for name, node in functions() if parameters(node) > PARAMETERS}
    assert many == set()


def test_files_are_short() -> None:
    long = {file for file, text in sources().items() if text.count("\n") > LINES_OF_A_FILE}
    assert long == set()


def test_a_name_is_imported_from_its_owner() -> None:
    found = {
        file
        for file, text in sources().items()
        if any(alias.asname == alias.name for _, alias in imports(text))
    }
    assert found == set()


def test_product_code_mocks_nothing() -> None:
    found = {
        file
        for file, text in sources().items()
        if any(module.startswith("unittest") for module, _ in imports(text))
    }
    assert found == set()
