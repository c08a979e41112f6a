"""What the digest of code sees, and what it does not: on a copy of the real tree, edited as one would."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stillpoint.core import metrics
from stillpoint.core.config import slot
from stillpoint.core.config.catalogue import DATASETS
from stillpoint.pipelines import code_digest, workflow
from stillpoint.pipelines.code_digest import ROOT

TRAINING = ("core/training/train.py", "pipelines/aps/models.py", "core/data/sources/digits.py")


def forget() -> None:
    for kept in (code_digest.code_digest, code_digest.imported, code_digest.module_files, code_digest._module):
        kept.cache_clear()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of all code that the digest can reach."""
    for part in ("core", "pipelines"):
        ignored = shutil.ignore_patterns("__pycache__", "*.md", "report")
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignored)
    (tmp_path / "stillpoint").mkdir()
    shutil.copy(ROOT / "stillpoint" / "__init__.py", tmp_path / "stillpoint")
    monkeypatch.setattr(code_digest, "ROOT", tmp_path)
    forget()
    yield tmp_path
    forget()


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text, f"{path} no longer holds {before!r}: choose another place to edit"
    path.write_text(text.replace(before, after, 1))


def digests() -> tuple[str, str]:
    forget()
    return code_digest.code_digest(TRAINING), code_digest.code_digest(("core/evaluation/run.py",))


def test_a_training_is_decided_by_some_forty_files_and_more_not_by_those_that_show_results() -> None:
    files = {str(path) for path in code_digest.imported(TRAINING)}
    # 83 today; an import name that the digest cannot follow would leave one or two
    assert len(files) >= 41
    wanted = {"core/layers/polyphase.py", "core/backbones/resnet.py", "core/data/loading.py", "core/base/files.py"}
    assert {*wanted, "stillpoint/__init__.py", "core/kernels/native.py"} <= files
    assert not files & {"core/reporting/tables.py", "core/reporting/figures.py", "pipelines/cli.py"}
    assert "pipelines/aps/weights.py" not in files


def test_every_stage_of_every_paper_has_its_files() -> None:
    for paper in workflow.pipelines.papers():
        for stage, least in (("train", 41), ("evaluate", 41), ("table", 10), ("figures", 10)):
            assert len(code_digest.imported(workflow.entries(stage, paper, "digits"))) >= least, (paper, stage)


def test_a_data_set_that_is_imported_by_its_name_is_among_them() -> None:
    for name in DATASETS:
        assert (ROOT / f"core/data/sources/{name}.py").is_file()
        assert f"core/data/sources/{name}.py" in workflow.entries("train", "aps", name)


def test_a_file_that_is_reached_through_a_link_is_the_file(tree: Path) -> None:
    assert code_digest.module_files("stillpoint.core.layers.blur")[-1] == Path("core/layers/blur.py")
    assert code_digest.module_files("stillpoint")[-1] == Path("stillpoint/__init__.py")


def test_doubling_a_tap_in_the_compiled_kernels_changes_it(tree: Path) -> None:
    before = digests()
    edit(tree / "core/kernels/csrc/passes.hpp", "A v = weight[0] * middle[c];", "A v = 2 * weight[0] * middle[c];")
    assert all(new != old for new, old in zip(digests(), before, strict=True))


def test_a_comment_in_the_compiled_kernels_does_not(tree: Path) -> None:
    before = digests()
    edit(tree / "core/kernels/csrc/passes.hpp", "// Prefetches what", "// (said otherwise) Prefetches what")
    edit(tree / "core/kernels/csrc/pool.cpp", "\n\n", "\n/* two\n   lines */\n\n")
    assert digests() == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("core/base/interrupt.py", "is in use by another process", "belongs to another process just now"),
        ("core/base/interrupt.py", ": wait for it to end", ", so wait"),
        ("core/training/loop.py", "training resumes (", "this training resumes: ("),
        ("core/training/monitor.py", "training stopped, and the last good", "training ended here, and the last good"),
        ("core/config/schema.py", "linear rise of the rate per step", "the rate rises linearly"),
        ("core/layers/blur.py", '"""', '"""Said otherwise. '),
    ],
)
def test_a_sentence_for_people_does_not(tree: Path, file: str, old: str, new: str) -> None:
    before = digests()
    edit(tree / file, old, new)
    assert digests() == before


def test_a_new_setting_with_a_default_does_not(tree: Path) -> None:
    before = digests()
    edit(
        tree / "core/config/schema.py", "    nesterov: bool = False\n", "    nesterov: bool = False\n    new: int = 0\n"
    )
    fields = '    young: bool = Field(False, description="a new one")\n    arch: '
    edit(tree / "pipelines/aps/config.py", "    arch: ", fields)
    assert digests() == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("core/training/schedule.py", "return ", "return 0.5 * "),
        ("core/data/loading.py", "return self.normalise(", "return 2 * self.normalise("),
        ("core/data/sources/digits.py", "mean=(0.1718,)", "mean=(0.1719,)"),
        # a text that is used for more than a sentence decides
        ("core/base/randomness.py", "import ", "import sys as said\nimport "),
    ],
)
def test_code_does(tree: Path, file: str, old: str, new: str) -> None:
    before = digests()
    edit(tree / file, old, new)
    assert digests()[0] != before[0]


@pytest.mark.parametrize("file", ["core/layers/polyphase.py", "core/layers/translation_invariant.py"])
def test_a_filling_that_a_table_names_decides_a_training_and_its_docstring_does_not(tree: Path, file: str) -> None:
    entries = workflow.entries("train", "aps", "digits")
    assert Path(file) in code_digest.imported(entries)
    before = code_digest.code_digest(entries)
    edit(tree / file, '"""', '"""Said otherwise. ')
    forget()
    assert code_digest.code_digest(entries) == before
    edit(tree / file, "return (y, ", "return (2 * y, ")
    forget()
    assert code_digest.code_digest(entries) != before


def test_all_that_a_table_of_the_slots_names_is_followed_where_it_is_looked_up() -> None:
    wanted = {one.where.partition(":")[0] for one in slot.FILLINGS.values()}
    assert wanted <= code_digest.imports_of(ROOT / "core/layers/downsample.py")
    wanted = {where.partition(":")[0] for where in [*slot.ACTIVATIONS.values(), *slot.NORMS.values()]}
    assert wanted <= code_digest.imports_of(ROOT / "core/layers/slots.py")
    wanted = {where.partition(":")[0] for where in slot.BACKBONES.values()}
    assert wanted <= code_digest.imports_of(ROOT / "pipelines/blurpool/models.py")
    # what a network may be told imports none of them
    assert not [name for name in code_digest.imports_of(ROOT / "core/config/network.py") if ".layers" in name]


def test_no_other_file_imports_by_a_text() -> None:
    """Each that does is known: what it imports is followed, or decides no result, or is an entry of its own."""
    known = {
        "core/base/lookup.py",  # the tables beside `find`
        "core/config/catalogue.py",  # an entry of each stage, by the data set
        "core/evaluation/registry.py",  # entries of evaluations
        "core/metrics/__init__.py",  # its metrics' files are imported by their own names, see below
        "pipelines/networks.py",  # a paper's own files are entries
        "pipelines/commands/foreign.py",  # a user's networks
    }
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.glob("core/**/*.py")}
    sources |= {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.glob("pipelines/**/*.py")}
    assert {name for name, text in sources.items() if re.search(r"\b(import_module|__import__)\(", text)} == known
    imports = {found for name in sources for found in code_digest.imports_of(ROOT / name)}
    assert not imports & {f"stillpoint.core.metrics.{name}" for name in metrics._CLASSES}


def one(tmp_path: Path, text: str) -> str:
    (tmp_path / "one.py").write_text(text)
    forget()
    return code_digest.code_digest(("one.py",))


@pytest.mark.parametrize(
    ("text", "other", "same"),
    [
        ('"""A."""\nx = 1\n', '"""B."""\n\n# a reason\nx = 1\n', True),
        ("x = 1\n", "x = 2\n", False),
        ('def f(a):\n    raise ValueError(f"no {a}")\n', 'def f(a):\n    raise ValueError(f"never {a}")\n', True),
        ('def f(a):\n    raise ValueError(f"no {a}")\n', 'def f(a):\n    raise KeyError(f"no {a}")\n', False),
        (
            'def f():\n    s = "no"\n    raise ValueError(s)\n',
            'def f():\n    s = "nope"\n    raise ValueError(s)\n',
            True,
        ),
        ('def f():\n    s = "no"\n    return s\n', 'def f():\n    s = "nope"\n    return s\n', False),
        # both a sentence and a key: it decides
        (
            'def f(d):\n    s = "no"\n    if d[s]:\n        raise ValueError(s)\n',
            'def f(d):\n    s = "nope"\n    if d[s]:\n        raise ValueError(s)\n',
            False,
        ),
        ('def f():\n    print("a")\n', 'def f():\n    print("b")\n', True),
        # what a call returns may be used
        ('def f():\n    return note("a")\n', 'def f():\n    return note("b")\n', False),
        ("class A(Section):\n    x: int = 1\n", "class A(Section):\n    x: int = 1\n    y: int = 2\n", True),
        ("class A(Module):\n    x: int = 1\n", "class A(Module):\n    x: int = 1\n    y: int = 2\n", False),
    ],
)
def test_what_counts_as_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, other: str, same: bool
) -> None:
    monkeypatch.setattr(code_digest, "ROOT", tmp_path)
    assert (one(tmp_path, text) == one(tmp_path, other)) is same
    forget()


def test_the_versions_of_libraries_that_compute_are_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = code_digest.libraries(code_digest.imported(TRAINING))
    assert {"torch", "numpy"} <= set(found) and not {"pydantic", "yaml", "os"} & set(found)
    before = code_digest.code_digest(TRAINING)
    version: Callable[[str], str | None] = code_digest._version
    monkeypatch.setattr(code_digest, "_version", lambda name: "0.0" if name == "torch" else version(name))
    forget()
    assert code_digest.code_digest(TRAINING) != before
    forget()


def test_the_digest_is_the_same_in_every_process_and_locale() -> None:
    import subprocess
    import sys

    # with files in which there are letters beyond ASCII
    files = (*TRAINING, "core/reporting/tables.py", "pipelines/cli.py")
    words = f"from stillpoint.pipelines.code_digest import code_digest; print(code_digest({files}))"
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    found = {
        subprocess.run(
            [sys.executable, "-c", words],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, **locale},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed, locale in (("1", {}), ("2", plain))
    }
    assert found == {code_digest.code_digest(files)}
