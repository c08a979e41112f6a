"""Caching of filters that depend only on options, for functions that are called repeatedly."""

from collections.abc import Callable
from functools import lru_cache
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from stillpoint.core.kernels.pool import plain_only

Options = ParamSpec("Options")
Module = TypeVar("Module", bound=nn.Module)
_KEPT = 32


def built_once(build: Callable[Options, Module]) -> Callable[Options, Module]:
    """Decorates `build`, which makes a parameterless Module from hashable options, with a cache of its last results.

    Results made while PyTorch traces, transforms or exports, or on the meta device, are not cached.
    """
    kept = lru_cache(_KEPT, typed=True)(build)

    def get(*options: Options.args, **named: Options.kwargs) -> Module:
        observed = torch.compiler.is_compiling() or plain_only()
        if observed or torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
            return build(*options, **named)
        # a cached tensor may be needed for a derivative later
        with torch.inference_mode(False):
            return kept(*options, **named)  # type: ignore[arg-type]

    return get
