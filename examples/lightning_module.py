"""Shift metrics in a LightningModule: python -m examples.lightning_module

Lightning calls `compute` and `reset` at the end of an epoch, over all processes; the metrics are logged as they are.
"""

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from examples.bare_loop import digits, network
from stillpoint import metrics


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.accuracy = metrics.Accuracy()
        self.consistency = metrics.ShiftConsistency(max_shift=2)
        self.change = metrics.LogitChange(max_shift=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)

    def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def validation_step(self, batch: list[torch.Tensor], number: int) -> None:
        images, labels = batch
        # a metric takes logits, or the network and images, which it then shifts
        self.accuracy.update(self(images), labels)
        self.consistency.update(self.net, images)
        self.change.update(self.net, images)
        self.log("accuracy", self.accuracy)
        self.log("consistency", self.consistency)
        self.log("logit_change", self.change)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def main(epochs: int = 3) -> dict[str, float]:
    lightning.seed_everything(0, verbose=False)
    images, labels = digits()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", **quiet)
    module = Classifier()
    trainer.fit(
        module,
        DataLoader(TensorDataset(images[:1500], labels[:1500]), batch_size=64, shuffle=True),
        DataLoader(TensorDataset(images[1500:], labels[1500:]), batch_size=100),
    )
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    print(found)
    return found


if __name__ == "__main__":
    main()
