"""What a `_target_` takes, read from its source: importing it would import Lightning or diffusers,
which takes seconds.
"""

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LIGHT = (
    "apo.config.numbers",
    "collections.abc",
    "pathlib",
    "typing",
)  # what annotations are made of, imported as it is
BARE = ("ABC", "Protocol", "Generic", "object", "TypedDict", "NamedTuple")  # bases without parameters of their own


@dataclass(frozen=True)
class Parameter:
    kind: Any  # the annotation; Any where there is none, or none that can be read
    required: bool


@dataclass(frozen=True)
class Signature:
    parameters: dict[str, Parameter]
    open: bool = False  # takes any other keyword, too


class Part:
    """Stands for a class in an annotation. target: its dotted name."""

    target: str


@dataclass(frozen=True)
class Source:
    """A module as it is written. imports: local name -> dotted name."""

    name: str
    body: list[ast.stmt] = field(repr=False)
    imports: dict[str, str] = field(repr=False)

    def definition(self, name: str) -> ast.stmt | None:
        return next((node for node in self.body if name in names(node)), None)


def names(node: ast.stmt) -> list[str]:
    """That a statement defines at a module's top level."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    return (
        [target.id for target in node.targets if isinstance(target, ast.Name)] if isinstance(node, ast.Assign) else []
    )


@cache
def source(module: str) -> Source | None:
    """None for what has no Python file."""
    if (file := path_of(module)) is None:
        return None
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    imports = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (above, node.module) if part)
            imports |= {alias.asname or alias.name: f"{origin}.{alias.name}" for alias in node.names}
    return Source(module, tree.body, imports)


def is_package(top: str) -> bool:
    """Whether a top-level name can be imported; a folder without __init__.py can be, too."""
    try:
        return find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def path_of(module: str) -> Path | None:
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or (rest and not spec.submodule_search_locations):
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    places = [Path(folder, *rest) for folder in spec.submodule_search_locations]
    found = (file for place in places for file in (place.with_suffix(".py"), place / "__init__.py"))
    return next((file for file in found if file.is_file()), None)


@cache
def defined(target: str) -> tuple[Source, ast.stmt] | None:
    """Where a dotted name is defined, through re-exports; None if that can't be read."""
    module, _, name = target.rpartition(".")
    if not module or (there := source(module)) is None:
        return None
    if (node := there.definition(name)) is not None:
        return there, node
    origin = there.imports.get(name)
    return None if origin in (None, target) else defined(origin)


@cache
def signature(target: str) -> Signature | None:
    """Of a class or a function; None if its source can't be read."""
    if (found := defined(target)) is None:
        return None
    there, node = found
    if isinstance(node, ast.FunctionDef):
        return of_function(there, node, 0)
    return of_class(there, node) if isinstance(node, ast.ClassDef) else None


def of_class(there: Source, node: ast.ClassDef) -> Signature | None:
    """Of `__init__`, and of the bases' where its **kwargs go there; or of the fields of a dataclass or a TypedDict."""
    init = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    own = Signature(dict(fields(there, node)), open=True) if init is None else of_function(there, init, 1)
    if init is not None and not (own.open and "super().__init__" in handed_on(init)):
        return own
    bases = [base for base in map(ast.unparse, node.bases) if base not in BARE]
    inherited = [signature(there.imports.get(base, f"{there.name}.{base}")) for base in bases]
    if None in inherited:
        return own if own.parameters else None
    parameters = {name: parameter for base in inherited for name, parameter in base.parameters.items()} | own.parameters
    return Signature(parameters, any(base.open for base in inherited))


def handed_on(function: ast.FunctionDef) -> list[str]:
    """What a function calls with its own **kwargs."""
    calls = (node for node in ast.walk(function) if isinstance(node, ast.Call))
    return [ast.unparse(call.func) for call in calls if any(keyword.arg is None for keyword in call.keywords)]


def fields(there: Source, node: ast.ClassDef) -> Iterator[tuple[str, Parameter]]:
    written = [ast.unparse(decorator) for decorator in node.decorator_list] + [ast.unparse(base) for base in node.bases]
    if not any(word in text for text in written for word in ("dataclass", "TypedDict", "NamedTuple")):
        return
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and "ClassVar" not in ast.unparse(part.annotation):
            if part.value is None or "init=False" not in ast.unparse(part.value):
                yield part.target.id, Parameter(annotation(there, part.annotation), part.value is None)


def of_function(there: Source, node: ast.FunctionDef, skipped: int) -> Signature:
    """skipped: leading arguments, such as self."""
    given = node.args
    plain = [*given.posonlyargs, *given.args][skipped:]
    defaults = [None] * (len(plain) - len(given.defaults)) + given.defaults[-len(plain) :] if plain else []
    both = [*zip(plain, defaults), *zip(given.kwonlyargs, given.kw_defaults)]
    parameters = {arg.arg: Parameter(annotation(there, arg.annotation), default is None) for arg, default in both}
    return Signature(parameters, given.kwarg is not None)


def annotation(there: Source, node: ast.expr | None) -> Any:
    """The type, where classes but those of LIGHT are `Part`s; Any if it can't be read. As typing.get_type_hints,
    without an import.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval").body
    try:
        return Any if node is None else eval(compile(ast.Expression(node), there.name, "eval"), {}, Names(there))
    except (TypeError, AttributeError, NameError):
        return Any


class Names(dict):
    """The names that a module's annotations use, looked up as they are."""

    def __init__(self, there: Source):
        self.there = there

    def __missing__(self, name: str) -> Any:
        if name in vars(builtins):
            return getattr(builtins, name)
        target = self.there.imports.get(name, f"{self.there.name}.{name}")
        module, _, attribute = target.rpartition(".")
        if module in LIGHT:
            return getattr(import_module(module), attribute)
        found = defined(target)
        if found is not None and isinstance(found[1], ast.Assign):
            return annotation(found[0], found[1].value)
        return part(target if found is None else f"{found[0].name}.{found[1].name}")


@cache
def part(target: str) -> type[Part]:
    return type(target.rpartition(".")[2], (Part,), {"target": target})
