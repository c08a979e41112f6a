"""The options of the networks: those of every paper's, in the MODEL section (`NetworkConfig`)."""

from typing import ClassVar

from stillpoint.core.config.network import NetworkConfig
from stillpoint.core.config.schema import RunConfig


class Config(RunConfig):
    LOGITS: ClassVar[bool] = True

    model: NetworkConfig = NetworkConfig()
