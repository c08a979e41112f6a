# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Make your own network shift-invariant
#
# We measure a network of timm, explain it, antialias it, and measure it again. `pip install timm` installs it; any
# `nn.Module` will do.

# %%
import copy
import os

import timm
import torch
from torch.nn import functional as F

import stillpoint
from stillpoint.core.data.datasets import load

LENGTH = float(os.environ.get("LESSON_LENGTH", "1"))  # 0.1: a quick check that it runs
torch.manual_seed(0)
train, test = load("digits", "data", "train"), load("digits", "data", "test")


def prepared(images: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 1, 32, 32) -> normalised, at twice the size."""
    return F.interpolate((images.float() / 255 - train.mean[0]) / train.std[0], scale_factor=2.0, mode="bilinear")


x, y = prepared(train.images), train.labels
tried = slice(0, max(20, round(120 * LENGTH)))
views, labels = prepared(test.images)[tried], test.labels[tried]

# %% [markdown]
# ## A trained network
#
# Two epochs are enough for digits.


# %%
def fit(net: torch.nn.Module, epochs: int, rate: float) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate)
    part = max(64, round(len(x) * min(1.0, LENGTH)))
    for _ in range(epochs):
        for batch in torch.randperm(part).split(32):
            loss = F.cross_entropy(net.train()(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


net = timm.create_model("resnet10t", num_classes=10, in_chans=1)
fit(net, 2, 1e-3)

# %% [markdown]
# ## Measure
#
# `circular`: pairs of circular shifts of up to three pixels. `crop`: the window moves, and new pixels enter.


# %%
def told(name: str, net: torch.nn.Module) -> None:
    found = stillpoint.measure(net, views, labels, evaluations=("accuracy", "circular", "crop"), repeats=2)
    print(
        f"{name:12} accuracy {found['accuracy']:6.1%}, consistency {found['circular_consistency']:6.1%} circular, "
        f"{found['crop_consistency']:6.1%} crop, largest change of the logits {found['circular_max_logit_change']:.1e}"
    )


told("as it was", net)

# %% [markdown]
# ## Explain
#
# Which module first fails to move with its input?

# %%
explanation = stillpoint.explain(net.eval(), views[:4])
first = explanation.first_broken
print(f"{first.name} ({first.type}): error {first.error:.2f}")
print(explanation.remedy)

# %% [markdown]
# ## Antialias
#
# First the plan, as a dry run; then we antialias a copy. Weights stay, but later layers now see smoother maps: an epoch
# of fine-tuning lets them adapt.

# %%
print(stillpoint.antialias(copy.deepcopy(net), dry_run=True, verbose=False))

# %%
blurred = copy.deepcopy(net)
stillpoint.antialias(blurred, verbose=False)
told("blurred", blurred)
fit(blurred, 1, 2e-4)
told("fine-tuned", blurred)

# %% [markdown]
# ## Truly shift-invariant
#
# Every stride samples on a grid chosen from the map, and all padding is circular. The logits then change by rounding
# alone.

# %%
invariant = copy.deepcopy(net)
stillpoint.antialias(invariant, downsample="polyphase", padding="circular", verbose=False)
told("invariant", invariant)
fit(invariant, 1, 2e-4)
told("fine-tuned", invariant)

# %% [markdown]
# The circular consistency is exactly 100 %, trained or not. Where new pixels enter (`crop`), nothing is exact:
# filters and training with moving images help there.
#
# **Try:** another network of `timm.list_models()`; `downsample="ideal_lowpass"`; `policy="max_pool"`.
