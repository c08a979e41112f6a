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
# # Wavelets in the first layer
#
# The first layer of a trained network is full of oriented waves. Followed by a stride and a max-pool, a wave is
# unstable: move the picture by a pixel and the pool meets another phase. The modulus of a complex wave has no phase
# to lose. The [paper's page](../pipelines/wavelet_twins/README.md) builds twins of AlexNet and ResNet on that.

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

import stillpoint
from stillpoint import layers
from stillpoint.core.data.datasets import load
from stillpoint.core.data.shifts import fourier_shift

LENGTH = float(os.environ.get("LESSON_LENGTH", "1"))  # 0.1: a quick check that it runs
torch.manual_seed(0)
test = load("digits", "data", "test")
views = test.images[: max(20, round(200 * LENGTH))].float() / 255

# %% [markdown]
# ## The filters
#
# Dual-tree complex wavelet packets: each map has a real and an imaginary part, the same wave a quarter of a period
# apart.

# %%
packets = layers.WaveletPackets2d(depth=2, stride=1, padding="circular")
kernels = packets.kernels()
chosen = kernels.flatten(1).norm(dim=1).argsort(descending=True)[:8].sort().values.tolist()
fig, axes = plt.subplots(2, 8, figsize=(9, 2.5))
for column, q in zip(axes.T, chosen, strict=True):
    for axis, part in zip(column, kernels[q], strict=True):
        axis.imshow(part, cmap="gray")
        axis.axis("off")
plt.show()

# %% [markdown]
# ## Real part, or modulus?
#
# Three ways from the picture to a map of a quarter of its size:
#
# - **real part, stride 2, max-pool**: what a standard first layer does;
# - **real part, blurred max-pool**: the same with BlurPool;
# - **modulus, stride 4**: a map of the same size, without a pool.
#
# How much does the global average of each map change when the picture moves? The average removes the motion: what
# remains is aliasing.

# %%
coarse = {q for q in range(32) if q % 16 == 0}  # the low-pass packets: smooth, whatever is done
waves = [q for q in range(32) if q not in coarse]


def fronts(x: torch.Tensor) -> dict[str, torch.Tensor]:
    y = layers.WaveletPackets2d(2, 1, maps=waves, padding="circular")(x)  # (B, 1, maps, 2, H, W)
    real = y[:, 0, :, 0]
    padded = layers.pad(real[..., ::2, ::2].relu(), [(1, 1), (1, 1)], padding="circular")
    dense = F.max_pool2d(padded, 3, 1)
    return {
        "real part, max-pool": dense[..., ::2, ::2],
        "real part, blurred max-pool": layers.blur_pool2d(dense, size=3, padding="circular"),
        "modulus": layers.complex_modulus(y[:, 0])[..., ::4, ::4],
    }


still = fronts(views)
distances = [k / 4 for k in range(0, 17, 1 if LENGTH >= 1 else 4)]
curves: dict[str, list[float]] = {name: [] for name in still}
for distance in distances:
    for name, found in fronts(fourier_shift(views, torch.tensor([0.0, distance]))).items():
        before, after = still[name].mean((2, 3)), found.mean((2, 3))
        curves[name].append(((after - before).norm(dim=1) / before.norm(dim=1)).mean().item())
for name, curve in curves.items():
    plt.plot(distances, curve, marker="o", markersize=3, label=name)
plt.xlabel("shift (pixels)")
plt.ylabel("relative change of the averages")
plt.legend()
plt.show()
for name, curve in curves.items():
    print(f"{name:28} after one pixel: {curve[distances.index(1.0)]:.3f}")

# %% [markdown]
# At multiples of four pixels, the stride, nothing changes. Between them the real part flickers, a blur halves that at
# best, and the modulus hardly moves.
#
# ## A twin of ResNet
#
# In a *wavelet twin* some channels of the first layer stay free and the others mix packets. `R18wyC_mod` takes the
# modulus. The stems have the same form and can be exchanged.

# %%
x = F.interpolate(views[:8], scale_factor=3.0, mode="bilinear").expand(-1, 3, -1, -1)
for name in ("wavelet_twins/R18C", "wavelet_twins/R18wyC_mod"):
    net = stillpoint.create(name, dataset="cifar10").eval()
    explanation = stillpoint.explain(net, x[:2], shifts=[(1, 0), (0, 1)])
    first = explanation.first_broken
    print(f"{name:26} first broken: {first.name if first else 'nothing'}")

# %% [markdown]
# **Try:** `depth=3`; a photograph of your own; `padding="zeros"`.
