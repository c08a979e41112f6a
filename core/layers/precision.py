"""Computing in the numbers that were given, whatever autocast says."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Within it, operations on `device` keep the dtype of their inputs; nothing on a device that has no autocast."""
    if isinstance(device, torch.fx.Proxy):
        # torch.fx has no place for a context: what it traced computes in whatever autocast says
        return nullcontext()
    kind = device.type
    # torch.autocast refuses such a device (meta) even to be turned off on it
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
