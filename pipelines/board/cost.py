"""The cost of an entry relative to its base, both timed in turn in one process."""

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.base.files import write_json
from stillpoint.core.config.catalogue import info
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.runs.layout import Run
from stillpoint.core.surgery.cost import cost, peak_memory
from stillpoint.pipelines.board.catalogue import LINES, STEMS, base_of
from stillpoint.pipelines.board.config import Model
from stillpoint.pipelines.board.models import build

#: images of a batch, at this side (fewer of larger images); timing turns, whose median counts
BATCH, SIDE, TURNS = 64, 32, 5


def keep_cost(config: RunConfig, run: Run) -> None:
    """Writes the cost of a run's network relative to its base to the run's ``beside.json``."""
    data, own = info(config.data.name), config.model
    assert isinstance(own, Model)
    stem = STEMS[LINES[base_of(own.name)].stem] if own.name in LINES else "plain"
    base = Model.model_validate({"ARCH": own.arch, "WIDTH": own.width, "STEM": stem})
    nets = (network(config, own), network(config, base))
    write_json(run.beside, {"cost": beside(*nets, (data.channels, data.size, data.size), data.num_classes)})


def network(config: RunConfig, model: Model) -> nn.Module:
    """The network of a MODEL section for the images of a configuration, with any weights: they do not affect cost."""
    data = info(config.data.name)
    size = config.data.image_size or data.size
    return build(model, in_channels=data.channels, num_classes=data.num_classes, image_size=size)


def beside(net: nn.Module, base: nn.Module, shape: tuple[int, ...], classes: int) -> dict[str, float]:
    """The cost of `net`, and its times relative to those of `base`, for images of `shape` (C, H, W).

    parameters          of the network
    multiply_adds       of one image
    inference_time, training_time   of a forward, and of a forward and backward, over the base's: medians of turns
    peak_memory         peak bytes of a training step beyond the network, per image
    peak_memory_ratio   that peak over the base's
    """
    random = torch.Generator().manual_seed(0)
    batch = max(4, min(BATCH, BATCH * SIDE * SIDE // (shape[1] * shape[2])))
    images = torch.randn((batch, *shape), generator=random)
    labels = torch.randint(0, classes, (batch,), generator=random)
    steps = _step(net, images, labels), _step(base, images, labels)
    peak, peak_base = (_peak(one, step) for one, step in zip((net, base), steps, strict=True))
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "multiply_adds": cost(net, images[:1]).multiply_adds,
        "peak_memory": peak / batch,
        "peak_memory_ratio": peak / peak_base,
        "inference_time": _ratio(_forward(net, images), _forward(base, images)),
        "training_time": _ratio(*steps),
    }


def _ratio(own: Callable[[], object], other: Callable[[], object]) -> float:
    """Median ratio of the times of a turn: other load on the machine affects both alike."""
    # CPU time excludes other processes, and with one thread it is the time of the work
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    own(), other()
    found = []
    for _ in range(TURNS):
        times = []
        for work in (own, other):
            began = clock()
            work()
            times.append(clock() - began)
        found.append(times[0] / times[1])
    return median(found)


def _forward(net: nn.Module, images: Tensor) -> Callable[[], object]:
    def work() -> None:
        net.eval()
        with torch.inference_mode():
            net(images)

    return work


def _step(net: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], object]:
    def work() -> None:
        net.train()
        net.zero_grad()
        F.cross_entropy(net(images), labels).backward()

    return work


def _peak(net: nn.Module, step: Callable[[], object]) -> int:
    """Peak memory of a training step in bytes, including the gradients, which the step allocates."""
    step()
    net.zero_grad()
    return peak_memory(step, "cpu")
