"""Training hooks: fine-tuning can start from our checkpoints or the authors'."""

from stillpoint.core.config.schema import RunConfig
from stillpoint.core.training.train import TrainHooks
from stillpoint.pipelines.sdnet.weights import recognised


def hooks(config: RunConfig) -> TrainHooks:
    return TrainHooks(translate=recognised)
