"""The command ``pages``, which writes tables, figures and pages from the kept runs."""

from argparse import ArgumentParser, Namespace

from stillpoint.pipelines import networks
from stillpoint.pipelines.commands.base import Command, remove_left, tell


def _options(parser: ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if anything would change")


def _pages(args: Namespace) -> int:
    from stillpoint.core.base.files import write_together
    from stillpoint.core.runs import layout
    from stillpoint.pipelines import gathering, pages
    from stillpoint.pipelines.results import shown_by

    kept, changed = networks.kept_root(), []
    says = pages.Kept(kept)
    for paper, recipe in pages.recipes(kept):
        found = says.gathered(paper, recipe)
        assert found is not None
        shown = shown_by(found.paper, found.config, kept=True)
        contents = gathering.contents(found, shown)
        new = {path: text for path, text in contents.items() if not path.is_file() or path.read_text("utf-8") != text}
        figures = [layout.figure(paper, recipe, name, kept) for name in shown.figures]
        if not gathering.complete(run for own in found.runs.values() for run in own):
            figures = []
        draw = bool(new) or not all(path.is_file() for path in figures)
        changed += [*new, *(figures if draw else [])]
        if not args.check:
            write_together(contents)
            if figures and draw:
                gathering.draw_figures(found, shown)
    texts = dict(pages.outdated(kept))
    changed += texts
    if not args.check:
        remove_left(*{page.parent for page in pages.pages()})
        write_together(texts)
    tell(f"{'out of date' if args.check else 'written'}: {', '.join(map(str, changed)) or 'nothing'}")
    return int(args.check and bool(changed))


COMMANDS = {
    "pages": Command(
        "write tables and figures of the kept runs into pages",
        _options,
        _pages,
        ("stillpoint pages", "stillpoint pages --check"),
    ),
}
