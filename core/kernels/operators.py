"""How the kernels become operators of PyTorch."""

from collections.abc import Callable

import torch
from torch._ops import OpOverload


def operator(name: str) -> Callable[[Callable], OpOverload]:
    """Makes the decorated function an operator of that name ("library::operator"), on the CPU, and returns it.

    The schema is read from the annotations. Fake and autograd rules are registered by `torch.library.register_fake` and
    `register_autograd`, a kernel for another device by `torch.library.impl(op.name(), "cuda")`. Unlike the decorator
    `torch.library.custom_op`, what is defined here does not import PyTorch's compiler (four to five seconds) when it is
    called for the first time.
    """

    def define(function: Callable) -> OpOverload:
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, "cpu", function)
        library, _, op = name.partition("::")
        return getattr(getattr(torch.ops, library), op).default

    return define
