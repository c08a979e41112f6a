"""The options of the networks, in the MODEL section: those that every paper has (`NetworkConfig`)."""

from typing import ClassVar

from stillpoint.core.config.network import NetworkConfig
from stillpoint.core.config.schema import RunConfig


class Config(RunConfig):
    LOGITS: ClassVar[bool] = True

    model: NetworkConfig = NetworkConfig()
