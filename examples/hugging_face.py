"""Shift metrics with Hugging Face's Trainer: python -m examples.hugging_face

Two ways: a callback that shifts the evaluation images itself, and `compute_metrics`, which receives the logits of a
plain and of a shifted copy of every image as NumPy arrays.
"""

import tempfile
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, PretrainedConfig, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from examples.bare_loop import digits, network
from stillpoint import metrics as shift_metrics


class Digits(PreTrainedModel):
    """Takes ``pixel_values`` and returns a dictionary of loss and logits, as the library's image classifiers do."""

    config_class = PretrainedConfig

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.net = network()
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.net(pixel_values)
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


class Shifts(TrainerCallback):
    """Adds shift consistency and logit change to the metrics of each evaluation."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **more: Any) -> None:
        model, batches = more["model"], more["eval_dataloader"]
        found = {
            "eval_consistency": shift_metrics.ShiftConsistency(max_shift=2),
            "eval_logit_change": shift_metrics.LogitChange(max_shift=2),
        }
        for batch in batches:
            for metric in found.values():
                metric.update(model, batch["pixel_values"].to(model.device))
        metrics |= {name: float(metric.compute()) for name, metric in found.items()}
        state.log_history[-1].update(metrics)


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Metrics from the logits of images, followed by those of the same images moved by a pixel."""
    plain, moved = np.split(prediction.predictions, 2)
    accuracy, flips = shift_metrics.Accuracy(), shift_metrics.FlipRate()
    accuracy.update(plain, np.split(prediction.label_ids, 2)[0])
    flips.update(plain, moved)
    return {"accuracy": float(accuracy.compute()), "flip_rate": float(flips.compute())}


def main(epochs: int = 3) -> dict[str, float]:
    images, labels = digits()
    tests = torch.cat([images[1500:], images[1500:].roll(1, 3)])

    def rows(x: torch.Tensor, y: torch.Tensor) -> list[dict[str, Any]]:
        return [{"pixel_values": image, "labels": label} for image, label in zip(x, y, strict=True)]

    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            learning_rate=1e-2,
            per_device_train_batch_size=64,
            per_device_eval_batch_size=99,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            seed=0,
        )
        trainer = Trainer(
            Digits(PretrainedConfig()),
            options,
            train_dataset=rows(images[:1500], labels[:1500]),
            eval_dataset=rows(tests, labels[1500:].repeat(2)),
            compute_metrics=compute_metrics,
            callbacks=[Shifts()],
        )
        trainer.train()
        found = trainer.evaluate()
    print({name: value for name, value in found.items() if "_per_second" not in name})
    return found


if __name__ == "__main__":
    main()
