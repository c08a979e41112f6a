"""Adds to a wheel the workflow's files, the kept board and the kept runs that have weights.

The weights come from DVC's committed store, where files are named by their digests, so no `dvc pull` is needed.
"""

import hashlib
import shutil
from pathlib import Path

import yaml
from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
STORE = ROOT / ".dvc-store" / "files" / "md5"


class BuildWithWorkflow(build_py):
    """`build_py` that also copies the files that `stillpoint run` and ``--pretrained`` read."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        home = Path(self.build_lib) / "stillpoint"
        # `stillpoint board` adds networks to the board that the kept runs make
        for source in (ROOT / "Snakefile", ROOT / "config.yaml", *sorted(ROOT.glob("runs/board/*/board.json"))):
            self._lay(source, home / source.relative_to(ROOT))
        pointers = sorted(ROOT.glob("runs/*/*/*/*/weights.safetensors.dvc"))
        if not pointers:
            raise SystemExit(f"{ROOT / 'runs'} has no kept run with weights, which a wheel needs: see MANIFEST.in")
        for pointer in pointers:
            (tracked,) = yaml.safe_load(pointer.read_text())["outs"]
            digest = tracked["md5"]
            weights = STORE / digest[:2] / digest[2:]
            if hashlib.md5(weights.read_bytes(), usedforsecurity=False).hexdigest() != digest:
                raise SystemExit(f"{weights} is damaged: its digest differs from the one in {pointer}")
            self._lay(weights, home / pointer.relative_to(ROOT).with_suffix(""))
            for source in sorted({*pointer.parent.glob("[!.]*")} - {pointer, pointer.with_suffix("")}):
                self._lay(source, home / source.relative_to(ROOT))

    def _lay(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


setup(cmdclass={"build_py": BuildWithWorkflow})
