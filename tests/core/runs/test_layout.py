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
