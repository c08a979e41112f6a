"""What only this pipeline can be told."""

from pydantic import Field, model_validator

from core.config import ModelConfig, RunConfig
from pipelines.wavelet_twins.catalogue import form


class Model(ModelConfig):
    """An architecture of the paper and its configuration."""

    arch: str = Field(
        "dtcwpt_resnet18", description="architecture, as the authors name it: dtcwpt_zhang_resnet34, AlexNet, ..."
    )
    config: str = Field(
        "", description="configuration: Ft40YEx_mod, Bf3, ...; empty is Std, which wavelet networks do not have"
    )

    @model_validator(mode="after")
    def _known(self) -> "Model":
        if self.config or "dtcwpt" not in self.arch.lower():
            form(self.arch, self.config)
        return self


class Config(RunConfig):
    """A run of the wavelet_twins pipeline."""

    model: Model = Model()
