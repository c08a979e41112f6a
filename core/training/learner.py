"""The learner: network, loss and optimiser, with a training step, an evaluation pass, and their state."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillpoint.core.base.distributed import Group, share_statistics
from stillpoint.core.base.errors import UserError, listed
from stillpoint.core.base.interrupt import StopRequest
from stillpoint.core.base.modes import weights_fixed
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.build import Loader
from stillpoint.core.runs.checkpoint import fill, not_finite, start_from
from stillpoint.core.runs.records import model_name
from stillpoint.core.training.averaging import Average
from stillpoint.core.training.hooks import Moment, TrainHooks
from stillpoint.core.training.loss import Sums, criterion
from stillpoint.core.training.optim import optimizer

Config = TypeVar("Config", bound=RunConfig)


def _keeps(module: nn.Module) -> bool:
    return hasattr(module, "between_steps") and hasattr(module, "go_on")


def whiten(net: nn.Module, source: Loader | None, count: int, name: str) -> None:
    """Fits the first layer of `net` to `count` training images; `UserError` if it has no such layer, or no images."""
    fit, sample = getattr(net, "whiten", None), getattr(source, "sample", None)
    if fit is None:
        raise UserError(f"TRAIN.WHITEN {count}: {name} has no first layer that can be fitted to images")
    if sample is None:
        raise UserError(f"TRAIN.WHITEN {count} needs training images in memory, not a streaming data set")
    fit(sample(count).cpu())


class Learner:
    """The network that `build` makes from a configuration, on `device`; with `fresh`, initialised from TRAIN.FINETUNE.

    source     the training images, for TRAIN.WHITEN
    net        the network itself, whose weights are saved
    average    the moving average of its weights, with TRAIN.EMA_DECAY
    model      the module called in training: `net`, compiled and wrapped for several processes if requested
    """

    def __init__(
        self,
        config: Config,
        build: Callable[[Config], nn.Module],
        hooks: TrainHooks,
        together: Group,
        device: torch.device,
        *,
        fresh: bool,
        source: Loader | None = None,
    ) -> None:
        recipe = config.train
        self.recipe, self.hooks, self.together, self.device = recipe, hooks, together, device
        self.name = model_name(config)
        self.criterion = criterion(recipe)
        net = build(config)
        if recipe.finetune and fresh:
            start_from(net, recipe.finetune, self.name, recipe.finetune_head, hooks.translate)
        if recipe.whiten and recipe.epochs:
            # also before a state is restored, since it makes the layer untrainable
            whiten(net, source, recipe.whiten, self.name)
        if together.world_size > 1:
            net = share_statistics(net, device)
        net = net.to(device)
        if recipe.channels_last:
            net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net, self.optimizer = net, optimizer(recipe, net, hooks.groups(net) if hooks.groups else ())
        self.infinite = set(not_finite(net.state_dict()))  # tensors initialised so, such as a mask
        self.average = Average(net, recipe.ema_decay, self.infinite) if recipe.ema_decay else None
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.unshared: nn.Module = torch.compile(net) if recipe.compile else net  # type: ignore[assignment]
        self.model = together.wrap(self.unshared)
        self.side: int | None = None
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            # states of older versions have no factor
            group["lr"] = group.get("lr_factor", 1.0) * rate

    def before_step(self, at: Moment) -> None:
        """Calls the paper's hook of that name."""
        if self.hooks.before_step is not None:
            with torch.no_grad():
                self.hooks.before_step(self.net, at)

    def set_side(self, side: int | None) -> None:
        """Shrinks the images of the next steps to `side` pixels; None leaves them unchanged."""
        self.side = side

    def step(self, batches: Iterator[Any], source: Loader, sums: Sums, steps: int = 0) -> Tensor:
        """Makes one optimiser step on the next of `batches`, and adds it to `sums`; `steps` were made before.

        Returns its loss with penalty, on the device.
        """
        recipe, together = self.recipe, self.together
        shared = 1.0 if recipe.accumulate_like_authors else 1.0 / recipe.accumulate
        whole = torch.zeros((), device=self.device)
        for part in range(recipe.accumulate):
            number, images, labels, _ = next(batches)
            # a process's loss is weighted by its share of the global batch; averaging over processes undoes world_size
            size = len(labels) if together.world_size == 1 else source.global_size(number)
            last = part + 1 == recipe.accumulate
            if self.side is not None and self.side < images.shape[-1]:
                images = functional.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
            if self.hooks.before_forward is not None:
                with torch.no_grad():
                    self.hooks.before_forward(self.net)
            with torch.enable_grad() if last else together.without_sync(self.model):
                with self.autocast():
                    output = self.model(images)
                loss = self.criterion(output, labels)
                objective = loss * (self.hooks.task_weight * shared * together.world_size / max(size, 1))
                if self.hooks.penalty is not None:
                    objective = objective + shared * self.hooks.penalty(self.net)
                objective.backward()
            sums.add(loss, output, labels)
            whole += objective.detach() / together.world_size
        if self.hooks.record is not None:
            self.hooks.record.update(self.net)
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(steps)
        return whole

    def measure(self, loader: Loader, epoch: int, stop: StopRequest) -> Sums | None:
        """Loss and correct predictions of the kept weights over a loader's images; None if stopped."""
        self.model.eval()
        sums = Sums(self.device)
        kept = nullcontext() if self.average is None else self.average.in_network()
        # a hook before each forward may change weights
        fixed = weights_fixed() if self.hooks.before_forward is None else nullcontext()
        with torch.no_grad(), kept, fixed, self.autocast():
            for _, images, labels, _ in loader.epoch(epoch):
                if self.together.largest(stop.number):
                    return None
                if self.hooks.before_forward is not None:
                    self.hooks.before_forward(self.net)
                output = self.unshared(images)
                sums.add(self.criterion(output, labels), output, labels)
        return sums

    def broken(self) -> str | None:
        """A clause on the tensors of network and optimiser that are no longer finite; None if all are."""
        tensors = dict(self.net.state_dict())
        for number, own in enumerate(self.optimizer.state.values()):
            tensors |= {f"the optimiser's {key} of parameter {number}": value for key, value in own.items()}
        found = [name for name in not_finite(tensors) if name not in self.infinite]
        count = self.together.largest(len(found))
        return f"{count} of {len(tensors)} tensors ({listed(found)}) became infinite" if count else None

    def weights(self) -> dict[str, Tensor]:
        """The weights to keep: the network's state_dict, averaged if the recipe says so."""
        return self.net.state_dict() if self.average is None else self.average.state_dict()

    def state(self) -> dict[str, Any]:
        """Weights, their average, non-persistent buffers, the optimiser's buffers, and a paper's record."""
        return {
            "model": dict(self.net.state_dict()),
            **({} if self.average is None else {"average": self.average.state_dict()}),
            "buffers": self._hidden(),
            "between_steps": self._between_steps(),
            "optimizer": self.optimizer.state_dict(),
            "record": {} if self.hooks.record is None else self.hooks.record.state(),
        }

    def restore(self, state: dict[str, Any], *, origin: str) -> None:
        """Restores a `state`, which was read from `origin`."""
        fill(self.net, state["model"], origin=origin, model=self.name)
        if self.average is not None:
            self.average.restore(state.get("average", {}), origin=origin)
        for name, buffer in state["buffers"].items():
            owner, _, leaf = name.rpartition(".")
            setattr(self.net.get_submodule(owner), leaf, buffer.to(self.device))
        for name, held in state.get("between_steps", {}).items():
            self.net.get_submodule(name).go_on(held)  # type: ignore[operator]
        self.optimizer.load_state_dict(state["optimizer"])
        if self.hooks.record is not None:
            self.hooks.record.restore(state.get("record", {}))

    def _between_steps(self) -> dict[str, Any]:
        """What modules carry from step to step beside their buffers."""
        asked = {name: module.between_steps() for name, module in self.net.named_modules() if _keeps(module)}  # type: ignore[operator]
        return {name: held for name, held in asked.items() if held}

    def _hidden(self) -> dict[str, Tensor]:
        """Non-persistent buffers that the next step depends on, such as a power iteration's vector."""
        saved = self.net.state_dict()
        return {name: buffer for name, buffer in self.net.named_buffers() if name not in saved}
