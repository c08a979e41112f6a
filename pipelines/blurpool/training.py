"""Training hooks: fine-tuning can start from torchvision's, our own or the authors' checkpoints."""

from stillpoint.core.config.schema import RunConfig
from stillpoint.core.training.train import TrainHooks
from stillpoint.pipelines.blurpool.weights import recognised


def hooks(config: RunConfig) -> TrainHooks:
    return TrainHooks(translate=recognised)
