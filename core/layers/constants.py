"""Buffers that no checkpoint holds, because the constructor's arguments determine them."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn


class ConstantBuffers(nn.Module):
    """A Module whose constants are restored when it moves from the meta device to memory.

    ``to_empty`` leaves every buffer uninitialised for a checkpoint to fill, but these are in none.
    """

    __jit_ignored_attributes__ = ("_constants",)

    def __init__(self) -> None:
        super().__init__()
        # in tuples, in which torch does not search for parameters
        self._constants: dict[str, tuple[Tensor]] = {}

    def register_constant(
        self,
        name: str,
        value: Tensor,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Registers `value`, which must not be on the meta device, as a non-persistent buffer on `device` and, if it is
        floating, in `dtype`; PyTorch's defaults where these are None."""
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
