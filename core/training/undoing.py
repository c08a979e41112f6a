"""Training hooks with the penalties of translation invariant polyphase sampling (Saha and Gokhale, WACV 2025)."""

from torch import Tensor, nn

from stillpoint.core.layers.translation_invariant import Response, TranslationInvariantDownsample2d
from stillpoint.core.layers.translation_losses import Shift, draw_shift, evenness_penalty, undoing_losses
from stillpoint.core.training.hooks import Moment, TrainHooks


class UndoingPenalty:
    """The terms added to the task loss, computed from the layers' responses in each training forward.

    Args:
        seed: the run's; shifts are functions of (seed, epoch, step, forward, layer).
        alpha: weight of the mean undoing loss; the task has weight 1 - alpha from the start.
        wake_up_at: first epoch, counted from 1, with undoing losses.
        max_shift: largest shift, as a fraction of a map's side.
        of_image: measure `max_shift` in sides of the image (the first map) instead.
        kind: of the shift, see `undoing_losses`.
        detach: whether to stop gradients into the shifted target.
        evenness: whether to add the evenness penalty, which punishes even weights.
    """

    def __init__(
        self,
        seed: int,
        *,
        alpha: float,
        wake_up_at: int,
        max_shift: float = 0.25,
        of_image: bool = False,
        kind: str = "standard",
        detach: bool = True,
        evenness: bool = True,
    ) -> None:
        self.seed, self.alpha, self.wake_up_at = seed, alpha, wake_up_at
        self.max_shift, self.of_image = max_shift, of_image
        self.kind, self.detach, self.evenness = kind, detach, evenness
        self.seen: list[Response] = []
        self.at = Moment(0, 0, 0, 0)
        self.part = 0

    def begin(self, net: nn.Module, at: Moment) -> None:
        self.at, self.part = at, 0

    def watch(self, net: nn.Module) -> None:
        self.seen = []
        for module in net.modules():
            if isinstance(module, TranslationInvariantDownsample2d):
                module.watched = self.seen if net.training else None

    def penalty(self, net: nn.Module) -> Tensor:
        whole = evenness_penalty(self.seen) if self.evenness else self.seen[0].tau.new_zeros(())
        if self.at.epoch + 1 >= self.wake_up_at:
            key = (self.seed, self.at.epoch, self.at.step, self.part)
            shifts = [draw_shift(self._largest(seen.x), *key, layer) for layer, seen in enumerate(self.seen)]
            losses = undoing_losses(self.seen, shifts=shifts, kind=self.kind, detach=self.detach)
            whole = whole + self.alpha * losses.mean()
        self.seen, self.part = [], self.part + 1
        return whole

    def _largest(self, x: Tensor) -> Shift:
        height, width = (self.seen[0].x if self.of_image else x).shape[2:]
        return int(self.max_shift * height), int(self.max_shift * width)

    def hooks(self) -> TrainHooks:
        return TrainHooks(
            before_step=self.begin, before_forward=self.watch, penalty=self.penalty, task_weight=1 - self.alpha
        )
