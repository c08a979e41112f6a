"""Estimates what a workflow would cost, by timing a few steps of each network.

Seconds are CPU time of one core, so other load on the machine does not count.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from stillpoint.core.base.words import counted
from stillpoint.core.config import evaluations
from stillpoint.core.config.catalogue import DATASETS

if TYPE_CHECKING:
    from stillpoint.core.config.schema import RunConfig
    from stillpoint.pipelines.workflow import Plan

#: training steps that are timed, after one for warm-up, and the most images in each; larger batches are in proportion
STEPS, IMAGES = 2, 128


class Cost(NamedTuple):
    """The cost of one network with one seed on this machine.

    step, steps   CPU seconds of a training step, averaged over the sides of its images, and their number
    view, views   CPU seconds of the forward of one view, and their number
    """

    step: float
    steps: int
    view: float
    views: int

    @property
    def training(self) -> float:
        return self.step * self.steps

    @property
    def measuring(self) -> float:
        return self.view * self.views


def cost(
    config: "RunConfig",
    train_images: int,
    test_images: int,
    progress: Callable[[str, int, int], object] = lambda what, done, total: None,
) -> Cost:
    """The cost of a run on one core; measuring counts only the views of core's evaluations.

    `progress` is told what is being timed, and how much of it is done: one network can take minutes.
    """
    import torch

    from stillpoint import pipelines
    from stillpoint.core.training import schedule
    from stillpoint.core.training.loss import criterion

    data, train = DATASETS[config.data.name], config.train
    side, batch = config.data.image_size or data.size, min(train.batch_size // train.accumulate, train_images)
    timed = min(batch, IMAGES)
    layout = torch.channels_last if train.channels_last else torch.contiguous_format
    net = pipelines.build(config).to(memory_format=layout)
    hooks, loss_of = pipelines.paper(config.pipeline).hooks(config), criterion(train)

    def drawn(side: int) -> torch.Tensor:
        return torch.randn(timed, data.channels, side, side).contiguous(memory_format=layout)

    def step(images: torch.Tensor) -> None:
        net.zero_grad()
        if hooks is not None and hooks.before_forward is not None:
            hooks.before_forward(net)
        with torch.autocast("cpu", torch.bfloat16, enabled=train.precision == "bfloat16"):
            output = net(images)
        if data.pairs:
            target = torch.zeros_like(output)
        else:
            shape = (timed, *output.shape[2:]) if data.label_maps else (timed,)
            target = torch.zeros(shape, dtype=torch.int64)
        loss = loss_of(output, target) / timed
        if hooks is not None and hooks.penalty is not None:
            loss = loss + hooks.penalty(net)
        loss.backward()

    epochs = Counter(schedule.side(train, epoch) or side for epoch in range(train.epochs))
    of_step = 0.0
    for number, (at, count) in enumerate(epochs.items()):
        images = drawn(at)
        progress("timings of this network", 2 * number, 2 * len(epochs) + 1)
        step(images)
        progress("timings of this network", 2 * number + 1, 2 * len(epochs) + 1)
        began = time.process_time()
        for _ in range(STEPS):
            step(images)
        of_step += (time.process_time() - began) / STEPS * batch / timed * count / train.epochs
    progress("timings of this network", 2 * len(epochs), 2 * len(epochs) + 1)
    net.eval()
    images = drawn(side)
    with torch.inference_mode():
        net(images)
        began = time.process_time()
        net(images)
        of_view = (time.process_time() - began) / timed
    steps = -(-train_images // batch) * train.epochs
    return Cost(of_step, steps, of_view, evaluations.views(config.evaluate, test_images, side))


def show(plan: "Plan") -> None:
    """Prints the cost of each network of a plan, and their total."""
    from rich.table import Table

    from stillpoint.core.base.device import pick, settings
    from stillpoint.core.data.build import images
    from stillpoint.pipelines.commands.base import console, reported, tell, tell_of_precision

    tell_of_precision(plan.config, "cpu", plan.settings.threads)
    sets = [images(plan.config, part, plan.data) for part in ("train", "test")]
    counts = [len(one) for one in sets if one is not None]
    table = Table("network", "step (ms)", "training (min)", "views", "measuring (min)", title_justify="left")
    total = 0.0
    with settings(pick("cpu"), plan.settings.threads), reported("timing a few steps of each network") as progress:
        for number, model in enumerate(plan.config.grid):
            progress("networks", number, len(plan.config.grid))
            found = cost(plan.resolved(model, 0), counts[0], counts[1], progress)
            total += plan.seeds * (found.training + found.measuring)
            table.add_row(
                model,
                f"{1000 * found.step:.0f}",
                f"{found.training / 60:.1f}",
                f"{found.views:,}",
                f"{found.measuring / 60:.1f}",
            )
    console().print(table)
    networks, seeds = counted(len(plan.config.grid), "network"), counted(plan.seeds, "seed")
    tell(f"nothing was trained: {networks} with {seeds} would take {total / 3600:.1f} core hours on this machine")
