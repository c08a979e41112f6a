"""The way the code is written: formatted and linted by ruff, typed by mypy."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = ["core", "pipelines", "stillpoint/__init__.py", "stillpoint/__main__.py", "tests", "hubconf.py"]


@pytest.mark.parametrize(
    "command",
    [["ruff", "format", "--check", *CODE], ["ruff", "check", *CODE], ["mypy"]],
    ids=["format", "lint", "types"],
)
def test_code_has_the_style_of_the_house(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
