"""What the networks can be told."""

from typing import ClassVar

from pydantic import Field

from stillpoint.core.config.schema import ModelConfig, RunConfig


class Model(ModelConfig):
    taps: int = Field(1, ge=1, le=7, description="of the blur wherever the network strides; 1: none")
    width: int = Field(16, ge=1, description="channels of the first stage")


class Config(RunConfig):
    LOGITS: ClassVar[bool] = True

    model: Model = Model()
