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
# # Moving objects
#
# Why does a perceptron lose its accuracy when the object moves, and what restores it? After part 2 of Jean Feydy's
# workshop "From wavelet transforms to convolutional neural networks", on scikit-learn's handwritten digits, which need
# no download. The [paper's page](../pipelines/translations/README.md) has the same experiment on Fashion-MNIST,
# with the notebook's numbers.

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

from stillpoint import pipelines
from stillpoint.core.data.datasets import load
from stillpoint.core.evaluation.maximise import class_images, neuron_images, strongest_pair_share

LENGTH = float(os.environ.get("LESSON_LENGTH", "1"))  # 0.1: a quick check that it runs
EPOCHS = max(1, round(8 * LENGTH))
_ = torch.manual_seed(0)

# %% [markdown]
# ## The images
#
# A digit of 24 x 24 pixels lies in the middle of 32 x 32. We paint it on a canvas of 96 x 96 and cut out 64 x 64:
# either always the middle, or at a random place, drawn anew each time an image is seen.

# %%
train, test = load("digits", "data", "train"), load("digits", "data", "test")
MEAN, STD, CANVAS, WINDOW = train.mean[0], train.std[0], 96, 64


def placed(images: torch.Tensor, moves: bool) -> torch.Tensor:
    """uint8 (B, 1, 32, 32) -> normalised (B, 1, 64, 64), the object in the middle or anywhere."""
    canvas = F.pad(images.float() / 255, (32, 32, 32, 32))
    most = CANVAS - WINDOW
    at = torch.randint(0, most + 1, (len(images), 2)) if moves else torch.full((len(images), 2), most // 2)
    windows = [image[:, i : i + WINDOW, j : j + WINDOW] for image, (i, j) in zip(canvas, at.tolist(), strict=True)]
    return (torch.stack(windows) - MEAN) / STD


fig, axes = plt.subplots(2, 8, figsize=(9, 2.5))
for row, moves in zip(axes, (False, True), strict=True):
    for axis, image in zip(row, placed(test.images[::45][:8], moves), strict=True):
        axis.imshow(image[0], cmap="gray")
        axis.axis("off")
plt.show()

# %% [markdown]
# ## Two networks
#
# A perceptron of one hidden layer of 100 neurons, and the notebook's convolutional network. Each is trained twice:
# with the object in the middle, and with the object anywhere.


# %%
def accuracy(net: nn.Module, moves: bool) -> float:
    torch.manual_seed(1)  # the same places for every network
    with torch.no_grad():
        return (net.eval()(placed(test.images, moves)).argmax(1) == test.labels).float().mean().item()


def trained(name: str, moves: bool, epochs: int = EPOCHS) -> nn.Module:
    torch.manual_seed(0)
    net = pipelines.build(pipelines.configure(f"translations/{name}", "digits", ["MODEL.WIDTH", "0.4"]))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
    images, labels = (part[: max(100, round(len(train) * min(1.0, LENGTH)))] for part in (train.images, train.labels))
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(50):
            loss = F.nll_loss(net.train()(placed(images[part], moves)), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net


nets = {(name, moves): trained(name, moves) for name in ("TwoFullNet", "TwoConvTwoFullNet") for moves in (False, True)}
for (name, moves), net in nets.items():
    print(f"{name:18} {'anywhere' if moves else 'centred':9} {accuracy(net, moves):6.1%}")

# %% [markdown]
# Centred, both read the digits. Once the digit may be anywhere, the perceptron fails: each of its hidden neurons weighs
# every pixel of the window, so it must see a shape at each place to recognise it there. Fashion-MNIST has forty times
# the images, and accuracy falls by 15 points there. The convolutions help although their head still sees positions.
#
# ## Which classes are confused?

# %%
confusion = torch.zeros(10, 10)
with torch.no_grad():
    guessed = nets["TwoConvTwoFullNet", True].eval()(placed(test.images, True)).argmax(1)
confusion.index_put_((test.labels, guessed), torch.ones(len(guessed)), accumulate=True)
plt.imshow(confusion, cmap="Blues")
plt.xlabel("predicted class")
plt.ylabel("true class")
plt.show()

# %% [markdown]
# ## What does a class look like to the network?
#
# We start from a grey image and ascend the probability of a class. The perceptron trained on centred digits asks for
# strokes in the middle; the one trained on moving digits asks for stripes.

# %%
shape = (1, WINDOW, WINDOW)
fig, axes = plt.subplots(2, 6, figsize=(9, 3.2))
for row, moves in zip(axes, (False, True), strict=True):
    for axis, image in zip(row, class_images(nets["TwoFullNet", moves], shape, range(6)).images, strict=True):
        axis.imshow(image[0], cmap="gray")
        axis.axis("off")
plt.show()

# %% [markdown]
# ## Neurons as stripes
#
# A linear map that commutes with translations is diagonal in the Fourier basis. A first layer trained on objects at all
# places comes closer to that: the image that maximises a neuron has more of its energy in its strongest pair of
# frequencies.

# %%
fig, axes = plt.subplots(2, 8, figsize=(9, 2.5))
for row, moves in zip(axes, (False, True), strict=True):
    net = nets["TwoFullNet", moves]
    images = neuron_images(net, shape)[:, 0]
    shares = strongest_pair_share(images)
    print(f"{'anywhere' if moves else 'centred':9} mean share of the strongest pair: {shares.mean():.1%}")
    for axis, image in zip(row, images[shares.argsort(descending=True)[:8]], strict=True):
        axis.imshow(image, cmap="gray")
        axis.axis("off")
plt.show()

# %% [markdown]
# ## What restores the accuracy?
#
# Networks of about equally many parameters. *Consistency* is the share of test images that keep their class when the
# object is somewhere else.

# %%
CHANGES = {
    "cnn": "no dropout",
    "cnn_blur": "a blur before each subsampling",
    "cnn_aps": "adaptive polyphase sampling",
    "cnn_average": "a global average instead of flattening",
    "cnn_average_aps": "both",
    "scattering": "fixed wavelets, modulus, local mean in front",
}


def consistency(net: nn.Module) -> float:
    torch.manual_seed(2)
    with torch.no_grad():
        first, second = (net.eval()(placed(test.images, True)).argmax(1) for _ in range(2))
    return (first == second).float().mean().item()


print(f"{'network':18} {'accuracy':>8} {'consistency':>11}")
for name in ("TwoFullNet", "TwoConvTwoFullNet", *CHANGES):
    net = nets.get((name, True)) or trained(name, True)
    print(f"{name:18} {accuracy(net, True):8.1%} {consistency(net):11.1%}  {CHANGES.get(name, '')}")

# %% [markdown]
# A head that averages over positions, or a front whose channels hardly change, restores most of it. A blur or adaptive
# sampling before a flattening head does not: its linear layers still see positions. One seed and 360 test images are a
# demonstration, not a result.
#
# **Try:** `EPOCHS = 20`; `lr=0.001`; `moves=False` in the last cell.
