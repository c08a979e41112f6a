"""What training does besides: a fine-tune may start from torchvision's file, ours, or the authors'."""

from core.config import RunConfig
from core.train import TrainHooks
from pipelines.blurpool.weights import recognised


def hooks(config: RunConfig) -> TrainHooks:
    return TrainHooks(translate=recognised)
