"""Digests of the code that decides a result: equal digests, equal bits; comments and messages do not count.

A digest covers

  modules    of this repository that given files import, directly or not, without what affects no number: comments,
             docstrings, messages, help, and the fields of settings classes, which act through the configuration; also
             modules named as ``module:name`` in a table in which a file looks names up (`LOOKUP`)
  C++        of the kernels, without comments, if a module that compiles them is among those
  libraries  that those modules import, by their versions
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from stillpoint.core.base.files import digest_of

#: The folder that holds core/ and pipelines/; links that lead there are resolved.
ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "stillpoint"
#: Libraries that carry, check and show values but compute nothing.
CARRIERS = frozenset({"dvc", "pydantic", "rich", "safetensors", "snakemake", "yacs", "yaml"})
#: Distributions whose name differs from their import name.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "pywt": "PyWavelets"}
#: The function that imports by name: tables ``{"name": "module:name"}`` imported beside it count as imports too.
LOOKUP = "stillpoint.core.base.lookup.find"
#: Name of the folders of C++ that the package around them compiles.
COMPILED = "csrc"
#: Calls whose texts are messages, if their result is not used.
TELLS = frozenset({"print", "warn", "wait", "note", "tell", "_tell", "on_note"})
#: Arguments of any call that are messages.
TEXTS = frozenset({"description", "help", "metavar"})


@cache
def code_digest(entries: tuple[str, ...]) -> str:
    """Digest of `entries`, files relative to `ROOT`, of what they import of this repository, and of the libraries."""
    files = imported(entries)
    programs = [[str(path), _module(ROOT / path).program] for path in files]
    sources = [[str(path), _without_comments((ROOT / path).read_text("utf-8"))] for path in compiled(files)]
    return digest_of([programs, sources, libraries(files)])


@cache
def imported(entries: tuple[str, ...]) -> tuple[Path, ...]:
    """The repository's files that `entries` import, directly or not, themselves included; relative to `ROOT`."""
    waiting, found = [(Path(entry), False) for entry in entries], dict[Path, bool]()
    while waiting:
        path, parent = waiting.pop()
        if not (ROOT / path).is_file() or (path in found and (parent or not found[path])):
            continue
        found[path] = parent
        # a package executes the imports at its top; those within its functions belong to their callers. For a package
        # that is only the parent of an imported module, that holds for all that its top imports in turn
        top = parent or (path.name == "__init__.py" and path not in map(Path, entries))
        for name in imports_of(ROOT / path, top=top):
            files = module_files(name)
            waiting += [(file, parent if _is(file, name) else True) for file in files]
    return tuple(sorted(found))


def _is(file: Path, name: str) -> bool:
    """Whether a file is the module of a dotted name itself, not a parent's ``__init__``."""
    place = Path(*name.split(".")[1:])
    return file in (place / "__init__.py", place.parent / f"{place.name}.py")


def compiled(files: Iterable[Path]) -> list[Path]:
    """The C++ in folders `csrc` beside `files`; relative to `ROOT`."""
    folders = {path.parent / COMPILED for path in files}
    return sorted(
        path.relative_to(ROOT)
        for folder in folders
        for path in (ROOT / folder).glob("*")
        if path.suffix in (".cpp", ".hpp", ".h", ".cu", ".cuh")
    )


def libraries(files: Iterable[Path]) -> dict[str, str]:
    """Versions of the computing libraries that `files` import: ``{"numpy": "2.1.0", ...}``."""
    names = {name for path in files for name in _module(ROOT / path).libraries} - CARRIERS
    return {name: version for name in sorted(names) if (version := _version(name))}


@cache
def _version(name: str) -> str | None:
    """The version of the library imported as `name`; None for the standard library and for a missing one."""
    try:
        return metadata.version(DISTRIBUTIONS.get(name, name))
    except metadata.PackageNotFoundError:
        return None


def imports_of(path: Path, *, top: bool = False) -> frozenset[str]:
    """Dotted names that a file imports from this repository; ``from a import b`` gives a and a.b.

    Everywhere in the file, or with `top` only outside functions, classes and conditions. Modules named in a table are
    imported by the functions that look them up, never at the top.
    """
    module = _module(path)
    if top:
        return module.imports_at_top
    looked_up = module.imports if LOOKUP in module.imports else frozenset[str]()
    return module.imports.union(*(_named(name) for name in looked_up))


def _named(table: str) -> frozenset[str]:
    """The modules named in the table of this dotted name; none if it is not a table."""
    holder, _, name = table.rpartition(".")
    found = [file for file in module_files(holder) if _is(file, holder)]
    return _module(ROOT / found[0]).tables.get(name, frozenset()) if found else frozenset()


@cache
def module_files(name: str) -> tuple[Path, ...]:
    """Files that the import of a dotted name runs, relative to `ROOT`: the module and its parents' ``__init__``."""
    parts = name.split(".")
    if parts[0] == PACKAGE:
        # the package's folders are links to those at the top
        first = [Path(PACKAGE, "__init__.py")]
        parts = parts[1:]
    else:
        first = []
    candidates = [*first, *(Path(*parts[:depth]) / "__init__.py" for depth in range(1, len(parts) + 1))]
    if parts:
        candidates.append(Path(*parts).with_suffix(".py"))
    return tuple(path for path in candidates if (ROOT / path).is_file())


class _Module(NamedTuple):
    program: str  # digest of what its code decides
    imports: frozenset[str]
    imports_at_top: frozenset[str]  # those outside functions, classes and conditions
    libraries: frozenset[str]
    tables: dict[str, frozenset[str]]  # tables assigned at the top that name modules as ``module:name``


@cache
def _module(path: Path) -> _Module:
    # the language's encoding, not the terminal's: the digest is the same in every locale
    return _read(path.read_text("utf-8"))


@cache
def _read(text: str) -> _Module:
    tree = ast.parse(text)
    names, at_top = _imports(ast.walk(tree)), _imports(tree.body)
    own = frozenset(name for name in names if name.split(".")[0] == PACKAGE)
    own_at_top = frozenset(name for name in at_top if name.split(".")[0] == PACKAGE)
    others = frozenset(name.split(".")[0] for name in names - own)
    tables = _tables(tree)
    return _Module(program(tree), own, own_at_top, others, tables)


_PLACE = re.compile(rf"({PACKAGE}(?:\.\w+)+):\w+")


def _tables(tree: ast.Module) -> dict[str, frozenset[str]]:
    """Name at the top of a module -> the modules named by the texts in its value, f-strings included."""
    texts: dict[str, str] = {}
    tables: dict[str, frozenset[str]] = {}
    for target, value in _assigned(tree):
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            texts[target] = value.value
        written = [_text(node, texts) for node in ast.walk(value)]
        if modules := {match[1] for text in written if (match := _PLACE.fullmatch(text))}:
            tables[target] = frozenset(modules)
    return tables


def _assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Names at the top of a module with their values; of ``a, b = 1, 2`` each has its own."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            yield from ((name.id, value) for name, value in pairs if isinstance(name, ast.Name))


def _text(node: ast.AST, texts: dict[str, str]) -> str:
    """The value of a string or of an f-string of `texts`; "" for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return ""
    parts = [part.value if isinstance(part, ast.FormattedValue) else part for part in node.values]
    known = [texts.get(part.id, "") if isinstance(part, ast.Name) else _text(part, texts) for part in parts]
    return "".join(known) if all(known) else ""


def _imports(nodes: Iterable[ast.AST]) -> frozenset[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            # importing a package's modules uses nothing of the package itself
            own = any(not any(_is(file, name) for file in module_files(name)) for name in inside)
            names |= inside | ({node.module} if own else set())
    return frozenset(names)


def program(tree: ast.Module) -> str:
    """Digest of a module without what affects no number; modifies `tree`."""
    for node in ast.walk(tree):
        _drop_docstring(node)
        if isinstance(node, ast.ClassDef) and _holds_settings(node):
            _drop_fields(node)
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in TEXTS:
                    _blank(keyword.value)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            _blank_sentences(node)
        for sentence in _messages(node):
            _blank(sentence)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _drop_docstring(node: ast.AST) -> None:
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        del body[0]


def _holds_settings(node: ast.ClassDef) -> bool:
    """Whether a class is a section of the configuration, judged by the names of its bases."""
    named = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases]
    return any(name.endswith(("Section", "Config")) for name in named)


def _drop_fields(node: ast.ClassDef) -> None:
    """Removes fields and validators: their effect is in the configuration, which has its own digest."""
    node.body = [part for part in node.body if not isinstance(part, ast.AnnAssign) and not _validates(part)]


def _validates(node: ast.stmt) -> bool:
    calls = [getattr(one, "func", one) for one in getattr(node, "decorator_list", ())]
    return any(getattr(call, "id", "").endswith("_validator") for call in calls)


def _messages(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a statement that are messages."""
    if isinstance(node, ast.Raise) and node.exc is not None:
        yield node.exc
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        function = node.value.func
        if getattr(function, "attr", getattr(function, "id", "")) in TELLS:
            yield from node.value.args


def _blank_sentences(function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    """Blanks texts assigned to variables that are used in messages alone."""
    nodes = list(ast.walk(function))
    assigned = [
        (node.targets[0].id, node.value)
        for node in nodes
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
    ]
    texts: dict[str, list[ast.expr]] = {}
    for name, value in assigned:
        texts.setdefault(name, []).append(value)
    sentences = {name for name, values in texts.items() if all(map(_is_text, values))}
    read = [(node.id, node) for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    while sentences:
        inside = {
            id(part)
            for node in nodes
            for place in (*_messages(node), *(value for name in sentences for value in texts[name]))
            for part in ast.walk(place)
        }
        others = {name for name, node in read if name in sentences and id(node) not in inside}
        if not others:
            break
        sentences -= others
    for name in sentences:
        for value in texts[name]:
            _blank(value)


def _is_text(value: ast.expr) -> bool:
    if isinstance(value, ast.IfExp):
        return _is_text(value.body) and _is_text(value.orelse)
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        return _is_text(value.left) and _is_text(value.right)
    return isinstance(value, ast.JoinedStr) or (isinstance(value, ast.Constant) and isinstance(value.value, str))


def _blank(place: ast.AST) -> None:
    """Removes all texts from an expression; the values in its f-strings stay, in alphabetical order."""
    for node in ast.walk(place):
        if isinstance(node, ast.JoinedStr):
            shown = [part for part in node.values if isinstance(part, ast.FormattedValue)]
            node.values = sorted({ast.dump(part): part for part in shown}.values(), key=ast.dump)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""


_CPP = re.compile(r'(?P<text>"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')|//[^\n]*|/\*.*?\*/', re.DOTALL)


def _without_comments(source: str) -> str:
    """C++ without comments, empty lines and trailing blanks."""
    bare = _CPP.sub(lambda match: match["text"] or " ", source)
    return "\n".join(line.rstrip() for line in bare.splitlines() if line.strip())
