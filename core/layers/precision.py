"""Computing in the dtype of the inputs, even under autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which operations on `device` keep the dtype of their inputs; no effect on a device without
    autocast."""
    if isinstance(device, torch.fx.Proxy):
        # torch.fx cannot record a context: a traced graph follows autocast
        return nullcontext()
    kind = device.type
    # torch.autocast refuses such a device (meta) even with enabled=False
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
