"""The same code for one process or many: under torchrun, the processes of a `Group` share each global batch.

The trained weights do not depend on the number of processes (up to rounding): loss and batch-norm statistics are
averaged over the global batch.
"""

import atexit
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stillpoint.core.base.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """This process's rank among those that torchrun started; a single process has rank 0 of 1."""

    rank: int = 0
    world_size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    @property
    def place(self) -> tuple[int, int]:
        """(rank, world_size)."""
        return self.rank, self.world_size

    def agree(self, work: Callable[[], T]) -> T:
        """Runs `work` on the main process, and returns its result, or raises its `UserError`, on all processes."""
        if self.world_size == 1:
            return work()
        outcome: list[object] = [None, None]
        if self.main:
            try:
                outcome[0] = work()
            except UserError as error:
                outcome[1] = str(error)
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise UserError(str(outcome[1]))
        return outcome[0]  # type: ignore[return-value]

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, on each process."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def largest(self, value: int) -> int:
        """The largest `value` over all processes, without waiting for a GPU."""
        if self.world_size == 1:
            return value
        shared = torch.tensor(value)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared)

    def wrap(self, net: nn.Module) -> nn.Module:
        """`net` with its gradients averaged over the processes; in a single process, `net` itself."""
        return DistributedDataParallel(net, gradient_as_bucket_view=True) if self.world_size > 1 else net

    def without_sync(self, model: nn.Module) -> AbstractContextManager[object]:
        """A context in which backward passes through a wrapped `model` do not synchronise gradients, for gradient
        accumulation."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def group(device: torch.device) -> Group:
    """The group of processes that torchrun started, read from its environment variables; it lasts until they end."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Group()
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # CPU tensors use gloo even with GPUs, so that asking whether to stop waits for no kernel
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        # not destroyed after each training: the same processes cannot form a group twice
        atexit.register(dist.destroy_process_group)
    return Group(dist.get_rank(), world_size)


_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _GroupSum(torch.autograd.Function):
    """The sum of a tensor over all processes; in backward, each process gets the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


def _group_sum(values: Tensor) -> Tensor:
    return _GroupSum.apply(values)  # type: ignore[no-any-return]


class _GroupStatistics(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batches of all processes, in plain operations: torch's own needs a GPU."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"a batch norm needs a tensor of at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:  # (B, C, ...)
        if not self.training:
            return super().forward(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        x = input.float()
        count = x.new_tensor(float(x.numel() // x.shape[1]))
        dist.all_reduce(count)
        mean = _group_sum(x.sum(axes)) / count  # (C,)
        centred = x - mean.view(shape)
        variance = _group_sum(centred.square().sum(axes)) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr, operator]
            weight = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.float()  # type: ignore[union-attr, operator]
            with torch.no_grad():
                self.running_mean.lerp_(mean, weight)
                self.running_var.lerp_(variance * (count / (count - 1)), weight)
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)


def share_statistics(net: nn.Module, device: torch.device) -> nn.Module:
    """Makes the batch norms of `net` take their statistics over all processes; names and parameters stay.

    Subclasses of torch's batch norms keep their own forward, and so the statistics of their own process only.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(net)
    for name, child in net.named_children():
        # subclasses may define another forward
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and type(child) in _PLAIN:
            options = child.eps, child.momentum, child.affine, child.track_running_stats
            shared = _GroupStatistics(child.num_features, *options)
            shared._parameters, shared._buffers = child._parameters, child._buffers
            setattr(net, name, shared.train(child.training))
        else:
            share_statistics(child, device)
    return net
