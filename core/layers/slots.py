"""Activations and norms by name: factories that a backbone calls with the number of channels."""

from collections.abc import Callable

from torch import nn

from stillpoint.core.base.lookup import find
from stillpoint.core.config.slot import ACTIVATIONS, NORMS

#: (channels) -> a module that keeps the shape (B, channels, H, W)
ModuleFactory = Callable[[int], nn.Module]


def activation_factory(name: str) -> ModuleFactory:
    """The activation of that name; ValueError, with the nearest names, for an unknown one."""
    return find("activation", name, ACTIVATIONS)


def norm_factory(name: str) -> ModuleFactory:
    """The norm of that name; ValueError, with the nearest names, for an unknown one."""
    return find("norm", name, NORMS)


def relu(channels: int) -> nn.Module:
    return nn.ReLU(inplace=True)


def relu6(channels: int) -> nn.Module:
    return nn.ReLU6(inplace=True)


def gelu(channels: int) -> nn.Module:
    return nn.GELU()


def silu(channels: int) -> nn.Module:
    return nn.SiLU(inplace=True)


def batch_norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels)


def instance_norm(channels: int) -> nn.Module:
    """Instance norm without parameters."""
    return nn.InstanceNorm2d(channels)


def group_norm(channels: int) -> nn.Module:
    """Group norm with the largest number of groups, at most 32, that divides the channels (Wu and He, ECCV 2018)."""
    return nn.GroupNorm(next(groups for groups in range(32, 0, -1) if channels % groups == 0), channels)


def no_norm(channels: int) -> nn.Module:
    return nn.Identity()
