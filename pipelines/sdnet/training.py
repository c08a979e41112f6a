"""What training does besides: a fine-tune may start from our file or from the authors'."""

from core.config import RunConfig
from core.train import TrainHooks
from pipelines.sdnet.weights import recognised


def hooks(config: RunConfig) -> TrainHooks:
    return TrainHooks(translate=recognised)
