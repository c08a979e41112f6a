"""What training does besides: a fine-tune may start from our file or from the authors'."""

from stillpoint.core.config.schema import RunConfig
from stillpoint.core.training.train import TrainHooks
from stillpoint.pipelines.sdnet.weights import recognised


def hooks(config: RunConfig) -> TrainHooks:
    return TrainHooks(translate=recognised)
