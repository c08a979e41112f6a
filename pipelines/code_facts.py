"""Facts about a module's text: a digest of what its code decides, its imports, and the modules that its tables name.

Facts depend only on the text, and reading three hundred files takes longer than many commands. So they are cached in
the user's cache folder, keyed by the digests of the texts and of this file; without a cache they are read again.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from stillpoint.core.base.cache_folder import folder, foreign
from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import digest_of, json_text, write_atomic

PACKAGE = "stillpoint"
#: Functions whose arguments are messages, if their result is not used.
TELLS = frozenset({"print", "warn", "wait", "note", "tell", "_tell", "on_note"})
#: Keyword arguments that are messages in any call.
TEXTS = frozenset({"description", "help", "metavar"})
#: Largest number of modules in the cache; above it only those of this process are kept.
MOST = 2_000


class Facts(NamedTuple):
    """The facts about one module.

    program          digest of what its code decides
    imports          (module, names taken from it), everywhere; no names: the module itself
    imports_at_top   the same, outside functions, classes and conditions
    tables           name at the top -> modules that its value names as ``module:name``
    """

    program: str
    imports: list[tuple[str, list[str]]]
    imports_at_top: list[tuple[str, list[str]]]
    tables: dict[str, list[str]]


def of(text: str) -> Facts:
    """The facts about a module's text, from the cache if possible."""
    key = hashlib.sha256(text.encode()).hexdigest()
    kept = _kept()
    if key not in kept:
        kept[key] = read(text)
        _new.add(key)
    return kept[key]


def read(text: str) -> Facts:
    """The facts about a module's text, without the cache."""
    tree = ast.parse(text)
    imports, at_top = _imports(ast.walk(tree)), _imports(tree.body)
    tables = _tables(tree)
    return Facts(program(tree), imports, at_top, tables)


#: keys of what this process has read itself
_new: set[str] = set()


@cache
def _place() -> Path:
    """The cache's file, which differs by Python version, whose trees may differ, and by this module's code."""
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return folder() / "code" / f"{'.'.join(map(str, sys.version_info[:3]))}-{own}.json"


@cache
def _kept() -> dict[str, Facts]:
    """The facts of earlier processes; {} if the cache is missing, damaged or writable by others."""
    try:
        place = _place()
        if any(foreign(path) for path in (place.parent, place)):
            return {}
        found = read_json(place, of=dict)
        if found.get("digest") != digest_of(found.get("facts")):
            return {}
        return {key: _facts(*fields) for key, fields in found["facts"].items()}
    # RuntimeError: without a home folder there is no cache
    except (OSError, UserError, TypeError, ValueError, RuntimeError):
        return {}


def _facts(program: str, imports: Any, at_top: Any, tables: dict[str, list[str]]) -> Facts:
    everywhere, top = ([(module, list(names)) for module, names in some] for some in (imports, at_top))
    return Facts(program, everywhere, top, tables)


def keep() -> None:
    """Adds what this process read to the cache, atomically; does nothing if that is impossible."""
    if not _new:
        return
    kept = _kept()
    facts = kept if len(kept) <= MOST else {key: kept[key] for key in _new}
    _new.clear()
    content = {key: list(one) for key, one in sorted(facts.items())}
    with suppress(OSError, UserError, RuntimeError):
        place = _place()
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not foreign(place.parent):
            write_atomic(place, json_text({"digest": digest_of(content), "facts": content}))


_PLACE = re.compile(rf"({PACKAGE}(?:\.\w+)+):\w+")


def _tables(tree: ast.Module) -> dict[str, list[str]]:
    """Name assigned at the top of a module -> the modules named in its value's texts, f-strings included."""
    texts: dict[str, str] = {}
    tables: dict[str, list[str]] = {}
    for target, value in _assigned(tree):
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            texts[target] = value.value
        written = [_text(node, texts) for node in ast.walk(value)]
        if modules := {match[1] for text in written if (match := _PLACE.fullmatch(text))}:
            tables[target] = sorted(modules)
    return tables


def _assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Names assigned at the top of a module with their values; ``a, b = 1, 2`` is taken apart."""
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


def _imports(nodes: Iterable[ast.AST]) -> list[tuple[str, list[str]]]:
    found: dict[tuple[str, tuple[str, ...]], None] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {(alias.name, ()): None for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found[node.module, tuple(alias.name for alias in node.names)] = None
    return [(module, list(names)) for module, names in found]


def program(tree: ast.Module) -> str:
    """Digest of a module without the parts that affect no number; modifies `tree`."""
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
    """Blanks texts assigned to variables that are used only in messages."""
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
