"""What is installed: one import name, also from an archive without links, from a wheel and beside a user's own core."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from setuptools._distutils.filelist import FileList

import stillpoint
from tests import fresh

ROOT = Path(__file__).parent.parent


def python(program: str, folder: Path, *, path: Path) -> str:
    """What a program prints that sees the packages in `path` first."""
    environment = {"PYTHONPATH": str(path), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = fresh.run(["-c", program], cwd=folder, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as "Download ZIP" and torch.hub unpack it: what were links are text files."""
    folder = tmp_path_factory.mktemp("archive")
    packed = folder / "packed.zip"
    tracked = subprocess.run(["git", "stash", "create"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    subprocess.run(["git", "archive", "--format=zip", "-o", packed, tracked or "HEAD"], cwd=ROOT, check=True)
    with zipfile.ZipFile(packed) as inside:
        inside.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contents of a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(source)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as inside:
        inside.extractall(folder / "site")
    return folder / "site"


def test_the_version_stands_in_one_place_and_is_repeated_truly() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == version  # type: ignore[index]
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == version  # type: ignore[index]


def test_the_surface_is_found_by_completion_and_each_name_of_it_works() -> None:
    assert set(stillpoint.__all__) < set(dir(stillpoint))
    for name in stillpoint.__all__:
        assert getattr(stillpoint, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'surgery_of'"):
        _ = stillpoint.surgery_of


def test_no_module_is_loaded_under_two_names() -> None:
    program = (
        "import sys, stillpoint.pipelines.cli, stillpoint.pipelines.aps.models, stillpoint.core.training.train\n"
        "files = [getattr(m, '__file__', None) for m in list(sys.modules.values())]\n"
        "import collections, os\n"
        "house = tuple(os.path.realpath(name) + os.sep for name in ('core', 'pipelines', 'stillpoint'))\n"
        "real = collections.Counter(os.path.realpath(f) for f in files if f)\n"
        "real = {f: times for f, times in real.items() if f.startswith(house)}\n"
        "twice = [file for file, times in real.items() if times > 1]\n"
        "print(twice, 'core' in sys.modules, 'pipelines' in sys.modules, len(real) > 30)"
    )
    assert python(program, ROOT, path=ROOT) == "[] False False True"


def test_an_archive_without_links_works(archive: Path) -> None:
    assert (archive / "stillpoint" / "core").is_file()
    program = (
        "import stillpoint\n"
        "net = stillpoint.create('aps/resnet20_aps1', dataset='cifar10')\n"
        "print(type(net).__module__, len(stillpoint.names('aps/*')))"
    )
    here = f"stillpoint.core.backbones.resnet {len(stillpoint.names('aps/*'))}"
    assert python(program, archive, path=archive) == here
    hub = f"import torch; print(torch.hub.load({str(archive)!r}, 'names', 'aps/resnet20', source='local'))"
    assert python(hub, archive.parent, path=archive.parent) == "['aps/resnet20']"


def test_a_wheel_has_one_name_and_holds_what_commands_read(wheel: Path) -> None:
    assert {path.name for path in wheel.iterdir() if path.suffix != ".dist-info"} == {"stillpoint"}
    inside = wheel / "stillpoint"
    assert (inside / "py.typed").is_file() and (inside / "Snakefile").is_file() and (inside / "config.yaml").is_file()
    committed = subprocess.run(["git", "ls-files", "core", "pipelines"], cwd=ROOT, capture_output=True, text=True)
    files = [name for name in committed.stdout.splitlines() if not name.endswith((".md", ".gitignore"))]
    assert len(files) > 250
    assert not [name for name in files if not (inside / name).is_file()]


def test_an_sdist_holds_the_kept_runs_that_its_wheel_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()
    weights = [name for name in tracked if name.endswith("/weights.safetensors.dvc")]
    needed = {name for name in tracked if f"{Path(name).parent}/weights.safetensors.dvc" in weights}
    chosen = FileList()
    chosen.set_allfiles([*tracked, *(name.removesuffix(".dvc") for name in weights)])
    for line in (ROOT / "MANIFEST.in").read_text().splitlines():
        if not line.startswith("#"):
            chosen.process_template_line(line)
    assert len(weights) > 3 and not needed - set(chosen.files)
    assert not [name for name in chosen.files if name.endswith(".safetensors") and "/weights" in name]


def test_a_wheel_works_in_an_empty_folder_beside_other_packages_of_our_folders_names(
    wheel: Path, tmp_path: Path
) -> None:
    for name in ("core", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"name = 'my {name}'\n")
    program = (
        "import sys; sys.path.insert(0, '')\n"
        "import core, pipelines, stillpoint\n"
        "net = stillpoint.pretrained('translations/TwoFullNet')\n"
        "print(core.name, pipelines.name, sum(p.numel() for p in net.parameters()) > 0)\n"
        "from stillpoint.pipelines import code_digest, workflow\n"
        "print(workflow.plan('aps', {}).config.grid[0], len(code_digest.imported(('core/training/train.py',))) > 30)"
    )
    assert python(program, tmp_path, path=wheel) == "my core my pipelines True\nresnet20 True"
