"""Digests of the code that decides a result: equal digests mean equal bits; comments and messages do not count.

A digest covers

  modules    of this repository that given files import, directly or not, and modules named as ``module:name`` in a
             table in which a file looks names up (`LOOKUP`); without comments, docstrings, messages, help, and the
             fields of settings classes, which act through the configuration
  C++        of the kernels, without comments, if a module that compiles them is among these
  libraries  that these modules import, by version
"""

import re
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from stillpoint.core.base.files import digest_of
from stillpoint.pipelines import code_facts
from stillpoint.pipelines.code_facts import PACKAGE

#: The folder that holds core/ and pipelines/; links that lead there are resolved.
ROOT = Path(__file__).resolve().parents[1]
#: Libraries that transport, check or show values but compute nothing.
CARRIERS = frozenset({"dvc", "pydantic", "rich", "safetensors", "snakemake", "yacs", "yaml"})
#: Distributions whose name differs from their import name.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "pywt": "PyWavelets"}
#: The function that imports by name: tables ``{"name": "module:name"}`` imported with it count as imports too.
LOOKUP = "stillpoint.core.base.lookup.find"
#: Name of folders of C++ that their package compiles.
COMPILED = "csrc"


@cache
def code_digest(entries: tuple[str, ...]) -> str:
    """Digest of `entries` (files relative to `ROOT`), of the repository's files that they import, and of libraries."""
    files = imported(entries)
    programs = [[str(path), _module(ROOT / path).program] for path in files]
    code_facts.keep()
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
        # importing a package executes only the imports at its top; those in its functions belong to their callers. For
        # the parent of an imported module, the same holds for everything that its top imports in turn
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
    """Dotted names that a file imports from this repository; ``from a import b`` imports a and a.b.

    Imports count everywhere in the file, or with `top` only outside functions, classes and conditions. Modules named in
    a table are imported by the functions that look them up, never at the top.
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
    """Files that importing a dotted name runs, relative to `ROOT`: the module, and the ``__init__`` of its parents."""
    parts = name.split(".")
    if parts[0] == PACKAGE:
        # the package's folders are links to the repository's top folders
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
    # UTF-8, not the locale's encoding, so that the digest is the same everywhere
    return _read(path.read_text("utf-8"))


@cache
def _read(text: str) -> _Module:
    facts = code_facts.of(text)
    # which of these names are modules depends on the files that exist, so it is not among the facts
    names, at_top = _imports(facts.imports), _imports(facts.imports_at_top)
    own = frozenset(name for name in names if name.split(".")[0] == PACKAGE)
    own_at_top = frozenset(name for name in at_top if name.split(".")[0] == PACKAGE)
    others = frozenset(name.split(".")[0] for name in names - own)
    return _Module(facts.program, own, own_at_top, others, {k: frozenset(v) for k, v in facts.tables.items()})


def _imports(written: Iterable[tuple[str, list[str]]]) -> frozenset[str]:
    names: set[str] = set()
    for module, members in written:
        inside = {f"{module}.{member}" for member in members}
        # importing a package's modules uses nothing of the package itself
        own = not inside or any(not any(_is(file, name) for file in module_files(name)) for name in inside)
        names |= inside | ({module} if own else set())
    return frozenset(names)


_CPP = re.compile(r'(?P<text>"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')|//[^\n]*|/\*.*?\*/', re.DOTALL)


def _without_comments(source: str) -> str:
    """C++ without comments, empty lines and trailing blanks."""
    bare = _CPP.sub(lambda match: match["text"] or " ", source)
    return "\n".join(line.rstrip() for line in bare.splitlines() if line.strip())
