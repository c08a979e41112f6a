"""Buffers that no checkpoint holds, because what a layer was built with decides them."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn


class ConstantBuffers(nn.Module):
    """A Module whose constants come back when it was without numbers (on the meta device) and gets memory.

    ``to_empty`` leaves garbage in every buffer and trusts that a checkpoint fills it; these are in none.
    """

    __jit_ignored_attributes__ = ("_constants",)

    def __init__(self) -> None:
        super().__init__()
        # in tuples, which torch does not look into for parameters and constants
        self._constants: dict[str, tuple[Tensor]] = {}

    def register_constant(
        self,
        name: str,
        value: Tensor,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """A non-persistent buffer of a `value` that has numbers, on a device and, if it is floating, in a dtype:
        PyTorch's defaults where they are not told."""
        self._constants[name] = (value,)
        device = torch.get_default_device() if device is None else device
        dtype = (dtype or torch.get_default_dtype()) if value.is_floating_point() else value.dtype
        self.register_buffer(name, value.to(device=device, dtype=dtype), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **options: Any) -> Self:
        held = {name: self._buffers.get(name) for name in self._constants}
        lost = [name for name, buffer in held.items() if buffer is not None and buffer.is_meta]
        super()._apply(fn, *args, **options)
        for name in lost:
            buffer, (value,) = self._buffers[name], self._constants[name]
            if buffer is not None and not buffer.is_meta:
                with torch.no_grad():
                    buffer.copy_(value)
        return self
