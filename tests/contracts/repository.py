"""A copy of the repository to add a toy to, and what the toy changed in it."""

import os
import shutil
import subprocess
from pathlib import Path

from tests import fresh

ROOT = Path(__file__).resolve().parents[2]
#: what a network needs to come to a table
PARTS = ("core", "pipelines", "stillpoint", "Snakefile", "config.yaml", "dvc.yaml")
#: settings that make a training of digits one of seconds
TINY = ["TRAIN.EPOCHS", "1", "DATA.LIMIT", "32", "MODEL.WIDTH", "0.25"]


class Copy:
    """The files of `PARTS` that git knows or would take, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PARTS]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        self.files = sorted({line for line in listed.stdout.splitlines() if os.path.lexists(ROOT / line)})
        for name in self.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)

    def replace(self, name: str, old: str, new: str) -> None:
        """Edits one file, in which `old` stands once."""
        text = (self.folder / name).read_text()
        assert text.count(old) == 1, (name, old)
        (self.folder / name).write_text(text.replace(old, new))

    def changed(self) -> set[str]:
        """Files that are not the repository's, or not there: results and what Python keeps left aside."""
        made = {
            path.relative_to(self.folder).as_posix()
            for part in ("core", "pipelines")
            for path in (self.folder / part).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        same = {
            name
            for name in self.files
            if (self.folder / name).is_dir() or (self.folder / name).read_bytes() == (ROOT / name).read_bytes()
        }
        return (made | set(self.files)) - same

    def run(self, *words: str) -> str:
        """What Python says in the copy, of the copy; fails where it fails."""
        own = {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        done = fresh.run([*words], cwd=self.folder, env={**os.environ, **own})
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done.stdout + done.stderr

    def to_its_table(self, paper: str, networks: tuple[str, ...], pairs: list[str]) -> str:
        """Trains and measures networks of a paper on some digits, makes its table and figures, and gives table.csv."""
        lines = ["from stillpoint.pipelines.cli import main", "import sys", "here = ['--data', 'data']"]
        for network in networks:
            folder = f"results/{paper}/digits/{network}/seed0"
            words = ["train", f"{paper}/{network}", "--device", "cpu", *pairs]
            lines += [f"assert not main([*{words!r}[:2], *here, *{words!r}[2:]])"]
            lines += [f"assert not main(['evaluate', {folder!r}, *here, '--device', 'cpu'])"]
        lines += [f"assert not main([{what!r}, {paper!r}, *{pairs!r}])" for what in ("table", "figures")]
        self.run("-c", "\n".join(lines))
        return (self.folder / "results" / paper / "digits" / "table.csv").read_text()
