"""The evaluation "accuracy"."""

from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.evaluation.view import ALONE, Result, View
from stillpoint.core.metrics.accuracy_metrics import Accuracy


class OnUnshifted:
    """Top-1 accuracy with its standard error, and top-5 for at least 10 classes, on unshifted images."""

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.top1, self.top5 = Accuracy(**ALONE), Accuracy(top_k=5, **ALONE)
        self.many = False

    def update(self, view: View) -> None:
        self.many = view.logits.shape[1] >= 10
        for metric in (self.top1, self.top5) if self.many else (self.top1,):
            metric.update(view.logits, view.labels)

    def compute(self) -> Result:
        found: Result = {"accuracy": self.top1.mean, "accuracy_standard_error": self.top1.standard_error}
        return found | ({"accuracy_top5": self.top5.mean} if self.many else {})
