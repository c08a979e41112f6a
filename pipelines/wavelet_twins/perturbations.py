"""Flip rates along the videos of ImageNet-P (Hendrycks and Dietterich, ICLR 2019).

The folder holds ``<perturbation>/<class>/<video>``: a video is a file (.mp4, as published; read by ffmpeg) or a
folder of numbered frames.
"""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stillpoint.core.base.errors import UserError
from stillpoint.core.data.formats import IMAGE_SUFFIXES, decode_image
from stillpoint.core.data.shifted_crops import one_crop
from stillpoint.core.evaluation.registry import Result, View
from stillpoint.core.metrics.flip_rate import flips
from stillpoint.pipelines.wavelet_twins.config import Evaluate

#: frames of ImageNet-P are already cut to this size
_SIDE = 224


def videos(folder: Path) -> dict[str, list[Path]]:
    """The videos of each perturbation, in order; `UserError` that says which files to put where if there are none."""
    found = {
        kind.name: sorted(p for p in kind.glob("[!._]*/[!._]*") if p.suffix == ".mp4" or p.is_dir())
        for kind in sorted(folder.iterdir() if folder.is_dir() else ())
        if kind.is_dir() and not kind.name.startswith((".", "_"))
    }
    found = {kind: paths for kind, paths in found.items() if paths}
    if not found:
        raise UserError(
            f"ImageNet-P is not in {folder}: unpack its archives (Zenodo record 3565846) so that {folder} holds "
            f"<perturbation>/<class>/<video>.mp4, and set EVALUATE.IMAGENET_P to this folder"
        )
    return found


def frames(video: Path) -> Tensor:
    """The frames of a video, uint8 (F, 3, 224, 224); `UserError` if it cannot be read."""
    if video.is_dir():
        paths = sorted(p for p in video.iterdir() if p.name.endswith(IMAGE_SUFFIXES) and not p.name.startswith("."))
        if not paths:
            raise UserError(f"{video} holds no frames")
        return torch.cat([one_crop(decode_image(p, str(p)), _SIDE) for p in paths])
    program = shutil.which("ffmpeg")
    if program is None:
        raise UserError(f"reading {video} needs the program ffmpeg: install it, or unpack videos into frames")
    # never read as a playlist, which could refer to other files and addresses
    taken = ["-protocol_whitelist", "file,pipe", "-f", "mov", "-i", f"file:{video}"]
    words = [program, "-v", "error", *taken, "-f", "rawvideo", "-pix_fmt", "rgb24"]
    done = subprocess.run([*words, "-s", f"{_SIDE}x{_SIDE}", "-"], capture_output=True)
    size = 3 * _SIDE * _SIDE
    if done.returncode or not done.stdout or len(done.stdout) % size:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(f"{video} cannot be read as a video{f' ({reason[-1]})' if reason else ''}")
    pixels = np.frombuffer(done.stdout, dtype=np.uint8).reshape(-1, _SIDE, _SIDE, 3)
    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2)


class Perturbations:
    """How often the class flips from a normalised frame to the one `step` later, step = 1..PERTURBATION_STEPS.

    ``perturbations_<name>`` is the mean over the steps, ``perturbations_<name>_curve`` has the rate of each step.
    """

    def __init__(
        self, config: Evaluate, seed: int, *, mean: Sequence[float] | None, std: Sequence[float] | None
    ) -> None:
        if not config.imagenet_p:
            raise UserError("the evaluation perturbations needs the videos of ImageNet-P: set EVALUATE.IMAGENET_P")
        self.found = videos(Path(config.imagenet_p))
        self.steps, self.mean, self.std = config.perturbation_steps, mean, std
        self.view: View | None = None

    def update(self, view: View) -> None:
        # the videos replace the view's images; the view provides the network and the device
        self.view = view

    def _classes(self, paths: Sequence[Path]) -> Iterator[Tensor]:
        view = self.view
        assert view is not None and view.image_set is not None
        mean, std = (
            torch.tensor(values, device=view.images.device)[:, None, None]
            for values in (self.mean or view.image_set.mean, self.std or view.image_set.std)
        )
        for number, path in enumerate(paths):
            view.progress(f"videos of {path.parent.parent.name}", number, len(paths))
            images = frames(path).to(view.images.device).float() / 255
            yield view.predict((images - mean) / std).argmax(1)

    def compute(self) -> Result:
        if self.view is None:
            raise ValueError("perturbations has seen no image")
        results: Result = {}
        for kind, paths in self.found.items():
            flipped = {step: [0, 0] for step in range(1, self.steps + 1)}
            for classes in self._classes(paths):
                for step, sums in flipped.items():
                    if step < len(classes):
                        each = flips(classes[None], step)
                        sums[0] += int(each.sum())
                        sums[1] += each.numel()
            rates = [sums[0] / sums[1] for sums in flipped.values() if sums[1]]
            if not rates:
                raise UserError(f"the videos of {kind} have only one frame each, so there is nothing to compare")
            results[f"perturbations_{kind}"] = sum(rates) / len(rates)
            results[f"perturbations_{kind}_curve"] = torch.tensor(rates)
        return results
