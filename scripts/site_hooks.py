"""Hooks of MkDocs: add pages from outside docs/ to the site, and the files that pages link to.

READMEs, lessons and the changelog become pages under names of their own. A link from any page to another file of the
repository (a recipe, a card of weights, a figure) adds that file. Broken links stay, so that MkDocs's strict mode,
which `make docs` uses, fails on them.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
#: executed lessons, written by `make lessons`; other lessons are shown without output
LESSONS = ROOT / "build" / "lessons"
#: file of the repository -> page of the site
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "README.md": "index.md",
    "pipelines/README.md": "index.md",
}
_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)]*)?\))")


def pages() -> dict[str, str]:
    """File of the repository -> page of the site, except for those in docs/."""
    papers = {f"pipelines/{path.parent.name}/README.md": f"papers/{path.parent.name}.md" for path in _readmes()}
    lessons = {f"lessons/{path.name}": f"lessons/{path.stem}.md" for path in sorted((ROOT / "lessons").glob("*.py"))}
    return {**PAGES, **papers, **lessons}


def _readmes() -> list[Path]:
    return sorted(ROOT.glob("pipelines/*/README.md"))


def _where(name: str, known: dict[str, str]) -> str:
    """The place on the site of a file of the repository."""
    if name in known:
        return known[name]
    return name.removeprefix("docs/") if name.startswith("docs/") else f"files/{name}"


def _linked(text: str, name: str) -> Iterator[tuple[re.Match[str], str]]:
    """(link, file) for each link of a page to an existing file of the repository."""
    for found in _LINK.finditer(text):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), found[2]))
        if "://" not in found[2] and not target.startswith("..") and (ROOT / target).is_file():
            yield found, target


def on_files(files: Files, config: Any) -> Files:
    known = pages()
    for name, page in known.items():
        if page != "index.md" and not name.endswith(".py") and (ROOT / name).is_file():
            files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    for lesson in sorted((ROOT / "lessons").glob("*.py")):
        files.append(File.generated(config, f"lessons/{lesson.stem}.md", content=_lesson(lesson)))
        for picture in sorted(LESSONS.glob(f"{lesson.stem}_files/*")):
            place = f"lessons/{lesson.stem}_files/{picture.name}"
            files.append(File.generated(config, place, abs_src_path=str(picture)))
    there = {file.src_uri for file in files}
    waiting = [_origin(file) for file in files.documentation_pages()]
    while waiting:
        name = waiting.pop()
        if name is None or not (ROOT / name).is_file():
            continue
        for _, target in _linked((ROOT / name).read_text(), name):
            place = _where(target, known)
            if place not in there:
                there.add(place)
                files.append(File.generated(config, place, abs_src_path=str(ROOT / target)))
                if target.endswith(".md"):
                    waiting.append(target)
    return files


def _lesson(path: Path) -> str:
    """A lesson with its output if it was executed, else its text and code."""
    executed = LESSONS / f"{path.stem}.md"
    if executed.is_file():
        return executed.read_text()
    import jupytext

    return jupytext.writes(jupytext.read(path), fmt="md")


def _origin(file: File) -> str | None:
    """The file of the repository that a page is made from."""
    if file.abs_src_path is None:
        return next((name for name, page in pages().items() if page == file.src_uri and name.endswith(".py")), None)
    path = Path(file.abs_src_path)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else None


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    name, known = _origin(page.file), pages()
    if name is None:
        return markdown
    here = posixpath.dirname(page.file.src_uri)
    for found, target in reversed(list(_linked(markdown, name))):
        place = posixpath.relpath(_where(target, known), here or ".")
        markdown = f"{markdown[: found.start(2)]}{place}{markdown[found.end(2) :]}"
    return markdown
