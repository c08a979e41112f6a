"""``torch.hub.load("<owner>/stillpoint", "create", "aps/resnet18_aps3", dataset="cifar10")``."""

dependencies = ["torch", "pydantic", "yacs", "yaml"]

from stillpoint import create, names, pretrained  # noqa: E402 - torch.hub reads `dependencies` before it imports them

__all__ = ["create", "names", "pretrained"]
