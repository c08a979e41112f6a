"""The README's Python works as it is printed, and the commands and links of all pages are those that there are."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18

import stillpoint
from stillpoint.core.surgery.filtered import Filtered
from stillpoint.pipelines.cli import parser
from stillpoint.pipelines.commands import COMMANDS
from tests.pages import agrees, session

ROOT = Path(__file__).parent.parent
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [*sorted(ROOT.glob("*.md")), *ROOT.glob("pipelines/*/README.md"), *sorted(ROOT.glob("docs/**/*.md"))]
}


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language; "" is those that name none."""
    # what stands between two fences is in turn prose and code
    code = re.split(r"^```", text, flags=re.M)[1::2]
    return [block.partition("\n")[2] for block in code if block.partition("\n")[0] == language]


#: pages whose Python is whole programs
PROGRAMS = ("README.md", "docs/index.md", "docs/train.md", "docs/extending.md")


@pytest.mark.parametrize(
    ("name", "code"), [(name, code) for name in PROGRAMS for code in blocks(TEXTS[name], "python")]
)
def test_a_block_of_python_runs(name: str, code: str) -> None:
    exec(compile(code, name, "exec"), {})


@pytest.mark.parametrize("name", ["antialias", "measure", "libraries"])
def test_a_page_shows_what_its_python_prints(name: str) -> None:
    for code, shown, printed in session(TEXTS[f"docs/{name}.md"]):
        assert shown is None or agrees(shown, printed), f"{code}\nprints\n{printed}"


def calls(name: str) -> list[dict[str, Any]]:
    """The settings in the tables of goals and calls of a page, those of a cell apart; what names another call alone is
    a filter."""
    known = {"images": torch.randn(2, 3, 32, 32), "normalise": torch.sigmoid, "stillpoint": stillpoint}
    known |= {"downsample_factory": stillpoint.layers.downsample_factory}
    found = []
    for cell in re.findall(r"^\| [^|`]+ \| (.*`.*) \|$", TEXTS[f"docs/{name}.md"], re.M):
        for code in re.findall(r"`([^`]+)`", cell):
            inner = code.removeprefix("antialias(net, ").removesuffix(")") if code.startswith("antialias(") else code
            inner = f"downsample={inner}" if inner.startswith("downsample_factory(") else inner
            if re.match(r"\w+=", inner):
                found.append(eval(f"dict({inner})", known))
    return found


@pytest.mark.parametrize("options", calls("antialias"), ids=", ".join)
def test_a_call_in_the_table_of_the_page_on_surgery_changes_something(options: dict[str, Any]) -> None:
    net = resnet18(weights=None)
    report = stillpoint.antialias(net, verbose=False, **options)
    assert report.changes and bool(options.get("dry_run")) == (not any(isinstance(m, Filtered) for m in net.modules()))


@pytest.mark.parametrize("options", calls("measure"), ids=", ".join)
def test_a_call_in_the_table_of_the_page_on_measuring_runs(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(2048, 5)
    )
    images = torch.randn(3, 3, 32, 32)
    of = (lambda x: {"a": x, "logits": net(x)}) if "output" in options else net
    assert stillpoint.measure(of, images, **options)["images"] == 3


def test_a_page_that_shows_something_else_is_found() -> None:
    assert agrees("one\n...\nfour\n", "one\ntwo\nthree\nfour\n") and agrees("a (b)\n", "a (b)\n")
    assert not agrees("one\n...\nfour\n", "one\ntwo\n") and not agrees("one\n", "one\ntwo\n")


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_and_option_exists(name: str) -> None:
    for block in (block for language in ("", "sh", "console") for block in blocks(TEXTS[name], language)):
        for line in block.replace("\\\n", " ").splitlines():
            if not re.match(r"(\$ )?stillpoint ", line):
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            assert words[1] in COMMANDS, line
            args, rest = parser().parse_known_args(words[1:])
            assert not [word for word in rest if word.startswith("-")] and (not rest or args.pairs is not None), line


@pytest.mark.parametrize("name", TEXTS)
def test_every_picture_and_page_that_is_linked_is_there(name: str) -> None:
    folder = (ROOT / name).parent
    links = [link for link in re.findall(r"\]\(([^)#]+)", TEXTS[name]) if "://" not in link]
    assert not [link for link in links if not (folder / link).exists()]


#: what reads like a result: a spread, a share, a difference, or a row of a table with several measured numbers
RESULT = re.compile(r"±|\d[\d.,]* ?%|\d[\d.,]* points|^\|(?:.*\b\d+\.\d{2,}\b){2}", re.M)
#: between these stands what the kept runs say, or what a paper or another file says, which the marker names
MARKED = re.compile(r"<!-- (kept|stated): ([^>]*?) -->.*?<!-- /\1 -->", re.S)


#: pages whose every number a test of their own holds to its file
HELD = {"docs/performance.md", "docs/board.md"}


@pytest.mark.parametrize("name", [name for name in TEXTS if name not in HELD])
def test_no_result_stands_outside_a_marker(name: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", TEXTS[name], flags=re.M | re.S)
    text = re.sub(r"`[^`]*`", "", MARKED.sub("", prose))
    assert not [line for line in text.splitlines() if RESULT.search(line)]
    for kind, source in re.findall(r"<!-- (kept|stated): ([^>]*?) -->", prose):
        # the kept runs are compared in tests/test_kept.py
        assert kind == "kept" or source in ("law", "paper") or (ROOT / source).is_file(), source


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("pipelines/*/configs/*.yaml")), ids=lambda path: f"{path.parent.parent.name}-{path.stem}"
)
def test_a_recipes_comment_states_no_result_but_the_papers(path: Path) -> None:
    """Ours are in the tables of the kept runs, which a comment would not follow."""
    published = path.parent.parent / "published.yaml"
    numbers = re.findall(r"\d+(?:\.\d+)?", published.read_text()) if published.is_file() else []
    # a file may hold errors, or fractions
    known = [100.0, *(value for n in map(float, numbers) for value in (n, 100 * n, 100 - n, 100 - 100 * n))]
    comments = re.findall(r"#(.*)$", path.read_text(), re.M)
    for number in re.findall(r"\b(\d\d\.\d+|\d+(?:\.\d+)?(?= ?%)|\d+(?= dB))", " ".join(comments)):
        half = 0.5 * 10 ** -len(number.partition(".")[2])
        assert any(abs(float(number) - value) <= half + 1e-9 for value in known), number


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_of_python_finds_its_code_in_a_clone(name: str) -> None:
    """As a module where it imports others of its folder, which a file that is run by its path does not find."""
    for block in (block for language in ("", "sh", "console") for block in blocks(TEXTS[name], language)):
        for words in re.findall(r"^(?:\$ )?python3? (?!-c|-m (?:stillpoint|pip|pytest|venv)\b)(.+)$", block, re.M):
            module = re.match(r"-m ([\w.]+)", words)
            file = ROOT / (module[1].replace(".", "/") + ".py" if module else shlex.split(words)[0])
            assert file.is_file(), words
            assert module or not re.search(rf"^(from|import) {file.parent.name}\b", file.read_text(), re.M), words
