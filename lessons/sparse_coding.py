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
# # What a sparse-coding layer keeps
#
# A convolution weighs its input. A sparse-coding layer explains it: for an image `x` it finds a code `z` that makes
# `|x - A z|^2 + lambda |z|_1` small. The code is the layer's output, and `A z` shows what it kept. The [paper's
# page](../pipelines/sdnet/README.md) puts such layers in front of a ResNet.

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

from stillpoint import layers
from stillpoint.core.data.datasets import load

LENGTH = float(os.environ.get("LESSON_LENGTH", "1"))  # 0.1: a quick check that it runs
torch.manual_seed(0)
train, test = load("digits", "data", "train"), load("digits", "data", "test")
x, views = train.images.float() / 255, test.images[: max(12, round(60 * LENGTH))].float() / 255

# %% [markdown]
# ## A dictionary of strokes
#
# Twenty-four atoms of 7 x 7 pixels, learnt by minimising the sum of both terms, without labels.

# %%
layer = layers.SparseCoding2d(1, 24, 7, padding=3, iterations=6, penalty=0.05, scheme="fista")
optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
for step in range(max(3, round(100 * LENGTH))):
    batch = x[torch.randint(0, len(x), (32,))]
    fit, cost = layer.losses(batch, layer(batch))
    optimizer.zero_grad()
    (fit + cost).mean().backward()
    optimizer.step()
    if step % 33 == 0:
        print(f"step {step:3}: |x - Az|^2 {fit.mean():6.2f}, penalty {cost.mean():5.2f}")
layer.eval()

fig, axes = plt.subplots(3, 8, figsize=(6, 2.3))
for axis, atom in zip(axes.flat, layer.dictionary().detach()[:, 0], strict=True):
    axis.imshow(atom, cmap="gray")
    axis.axis("off")
plt.show()

# %% [markdown]
# ## What is kept?
#
# A larger `lambda` keeps less: fewer numbers of the code are not zero, and the drawing is coarser.


# %%
@torch.no_grad()
def kept(images: torch.Tensor, penalty: float) -> tuple[torch.Tensor, float]:
    """The images reconstructed from their codes, and the share of numbers in the codes that are not zero."""
    before, layer.penalty = layer.penalty, penalty
    code = layer(images)
    layer.penalty = before
    return layer.reconstruct(code, (32, 32)), (code != 0).float().mean().item()


penalties = (0.01, 0.05, 0.2, 0.5)
fig, axes = plt.subplots(len(penalties) + 1, 6, figsize=(6, 5))
for axis, image in zip(axes[0], views, strict=False):
    axis.imshow(image[0], cmap="gray")
for row, penalty in zip(axes[1:], penalties, strict=True):
    drawn, share = kept(views, penalty)
    error = (drawn - views).square().sum() / views.square().sum()
    print(f"lambda {penalty:4}: {share:5.1%} of the code is not zero, relative squared error {error:.3f}")
    for axis, image in zip(row, drawn, strict=False):
        axis.imshow(image[0], cmap="gray")
for axis in axes.flat:
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Why it resists noise
#
# Noise has no strokes in it, so it costs many atoms. For a noisy picture there is a `lambda` at which the layer keeps
# the digit and drops the noise. It grows with the noise: a network can be made more robust without being trained again.

# %%
tries = [0.01 * 2**k for k in range(7)]
for level in (0.05, 0.1, 0.2, 0.4):
    noisy = views + level * torch.randn(views.shape, generator=torch.Generator().manual_seed(0))
    errors = [(kept(noisy, penalty)[0] - views).square().mean().sqrt().item() for penalty in tries]
    best = min(range(len(tries)), key=errors.__getitem__)
    print(
        f"noise {level:4}: best lambda {tries[best]:.2f}, error {errors[best]:.3f} (of the noisy picture: {level:.3f})"
    )
    plt.plot(tries, errors, marker="o", markersize=3, label=f"noise {level}")
plt.xscale("log")
plt.xlabel("lambda")
plt.ylabel("error of what was kept")
plt.legend()
plt.show()

# %% [markdown]
# ## Does it move with the picture?
#
# At stride 1 it does, as long as nothing reaches the border: a convolution, its adjoint and a threshold of each
# number all commute with shifts. So what breaks shift invariance in such a network is, as everywhere, where it
# subsamples.

# %%
with torch.no_grad():
    wide = F.pad(views[:12], (48, 48, 48, 48))
    code, moved = layer(wide), layer(wide.roll((2, 1), (2, 3)))
    change = ((moved - code.roll((2, 1), (2, 3))).abs().max() / code.abs().max()).item()
print(f"largest relative change of the code: {change:.1e}")

# %% [markdown]
# **Try:** `nonnegative=False`; atoms of 11 x 11; two iterations, as the paper's networks use.
