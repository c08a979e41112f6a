"""The evaluation "worst_shift": accuracy under the worst circular shift by a few pixels."""

import torch

from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data.shifts import roll
from stillpoint.core.evaluation.view import ALONE, Result, View
from stillpoint.core.metrics import topk_correct
from stillpoint.core.metrics.accumulate import Tally


class WorstShift:
    """Fraction of LIMIT_DEAR images classified correctly at every circular shift of up to WORST_SHIFT pixels per axis.

    An image that is misclassified once is not moved again, so a network that fails needs few views.

    If an image fails, the map ``worst_shift_example`` holds the first of the shortest such shifts (image number, rows,
    columns, its class, the predicted class), and ``worst_shift_example_image`` the image (C, H, W) as the network sees
    it.
    """

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.reach, self.limit = config.worst_shift, config.limit_dear
        self.right, self.still = Tally(**ALONE), Tally(**ALONE)
        self.example: tuple[tuple[int, ...], torch.Tensor] | None = None

    def update(self, view: View) -> None:
        rows = view.sample(self.limit)
        if len(rows) == 0:
            return
        rows = rows.to(view.images.device)
        images, labels = view.images[rows], view.labels[rows]
        right = topk_correct(view.logits[rows], labels)[:, 0]
        self.still.count(right)
        shifts = self.shifts()
        for number, shift in enumerate(shifts):
            view.progress("worst shift", number, len(shifts))
            (left,) = right.nonzero(as_tuple=True)
            if not len(left):
                break
            logits = view.predict(roll(images[left], shift))
            right[left] = topk_correct(logits, labels[left])[:, 0]
            fallen = (~right[left]).nonzero().flatten()
            if len(fallen):
                one = int(left[fallen[0]])
                given = int(logits[fallen[0]].argmax())
                self._note(images[one], int(view.indices[rows.cpu()[one]]), shift, int(labels[one]), given)
        view.progress("worst shift", len(shifts), len(shifts))
        self.right.count(right)

    def _note(self, image: torch.Tensor, number: int, shift: tuple[int, int], label: int, given: int) -> None:
        found = (number, *shift, label, given)
        if self.example is None or _order(found) < _order(self.example[0]):
            self.example = found, image.float().cpu()

    def shifts(self) -> list[tuple[int, int]]:
        """All non-zero shifts, odd ones first, since those break a stride of two."""
        steps = torch.arange(-self.reach, self.reach + 1)
        every = [(int(r), int(c)) for r, c in torch.cartesian_prod(steps, steps) if r or c]
        return sorted(every, key=lambda shift: -(shift[0] % 2 + shift[1] % 2))

    def compute(self) -> Result:
        found: Result = {}
        if self.example is not None:
            found = {
                "worst_shift_example": torch.tensor(self.example[0]),
                "worst_shift_example_image": self.example[1],
            }
        return found | {
            "worst_shift_images": float(int(self.right.images)),
            "worst_shift_accuracy": self.right.mean,
            "worst_shift_accuracy_standard_error": self.right.standard_error,
            "worst_shift_unshifted_accuracy": self.still.mean,
        }


def _order(found: tuple[int, ...]) -> tuple[int, ...]:
    number, rows, columns, *_ = found
    return rows * rows + columns * columns, number, rows, columns
