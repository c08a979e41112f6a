"""The minimal paper: copy this folder under a new name, and add the name to `stillpoint.pipelines.papers`.

It takes two networks, plain and blurred, from the catalogue to a table. `stillpoint.pipelines.paper` lists what else a
paper can define.
"""

from typing import TYPE_CHECKING, Any

from stillpoint.pipelines.paper import ModelEntry, Paper

if TYPE_CHECKING:
    from torch import nn

    from stillpoint.core.config.schema import RunConfig


class Template(Paper):
    def models(self) -> dict[str, ModelEntry]:
        plain = ModelEntry("plain", source="author and year, table, row")
        return {entry.name: entry for entry in (plain, ModelEntry("blurred", {"DOWNSAMPLE": "blur", "FILTER_SIZE": 3}))}

    def schema(self) -> "type[RunConfig]":
        from .config import Config

        return Config

    def build(self, model: Any, **shape: int) -> "nn.Module":
        from .models import build

        return build(model, **shape)


PAPER = Template()
