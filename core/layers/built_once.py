"""Filters that depend on options alone, made once for a function that is called again and again."""

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
    """`build`, which makes a Module without parameters from hashable options, with its last results kept.

    What is made while PyTorch traces, transforms, exports or computes without numbers belongs there, and is not kept.
    """
    kept = lru_cache(_KEPT)(build)

    def get(*options: Options.args, **named: Options.kwargs) -> Module:
        observed = torch.compiler.is_compiling() or plain_only()
        if observed or torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
            return build(*options, **named)
        # it may be wanted for a derivative later
        with torch.inference_mode(False):
            return kept(*options, **named)  # type: ignore[arg-type]

    return get
