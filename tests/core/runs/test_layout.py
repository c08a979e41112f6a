"""A run's folder and back."""

from pathlib import Path

import pytest

from stillpoint.core.base.errors import UserError
from stillpoint.core.runs import layout
from stillpoint.core.runs.layout import Run


@pytest.mark.parametrize("root", [Path("results"), Path("/data/of mine/results"), Path()])
def test_a_run_is_found_again_by_its_folder(root: Path) -> None:
    run = Run("aps", "cifar10_crop", "resnet18_aps3", 12, root)
    assert Run.of(run.folder) == run


@pytest.mark.parametrize("folder", ["results/aps/digits/resnet20", "seed0", "results/aps/digits/resnet20/seedling"])
def test_another_folder_is_refused(folder: str) -> None:
    with pytest.raises(UserError, match="not a run's folder"):
        Run.of(folder)


def test_all_files_of_a_run_are_in_its_folder() -> None:
    run = Run("aps", "digits", "resnet20", 0)
    names = [name for name, value in vars(Run).items() if isinstance(value, property) and name != "folder"]
    assert len(names) > 8
    assert all(getattr(run, name).is_relative_to(run.folder) for name in names)
    assert layout.table("aps", "digits", "csv").parent == run.folder.parent.parent


def test_a_run_may_be_named_from_inside_and_by_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("aps", "digits", "resnet20", 3, tmp_path / "results")
    run.folder.mkdir(parents=True)
    (tmp_path / "latest").symlink_to(run.folder)
    (run.folder.parent / "seed7").symlink_to(run.folder)
    assert Run.of(tmp_path / "latest") == run
    # a link that is called as another run is
    assert Run.of(run.folder.parent / "seed7") == run
    monkeypatch.chdir(run.folder)
    assert Run.of(".") == run and Run.of("../seed3") == run
    monkeypatch.chdir(run.folder.parent)
    assert Run.of("seed3") == run
    # where the results lie below, they are shown as they were typed
    monkeypatch.chdir(tmp_path)
    here = Run("aps", "digits", "resnet20", 3, Path("results"))
    assert Run.of("results/aps/digits/resnet20/seed3") == here and Run.of("latest") == here


@pytest.mark.parametrize("name", ["", ".", "..", "../../aps/configs/digits", "a/b", "a\0b"])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_no_part_of_a_runs_name_leads_elsewhere(name: str, part: int) -> None:
    parts = ["aps", "digits", "resnet20"]
    parts[part] = name
    with pytest.raises(UserError, match="cannot be the name of a"):
        Run(*parts, 0)
