"""Any registered network as a scikit-learn classifier.

from stillpoint.pipelines.estimator import NetworkClassifier
NetworkClassifier("wavelet_twins/R18wyC_mod", settings=("TRAIN.EPOCHS", "5")).fit(X, y).score(X, y)
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from stillpoint import pipelines
from stillpoint.core.base.device import pick
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.catalogue import info
from stillpoint.core.data.build import Loaders, augmentation
from stillpoint.core.data.datasets import content_digest
from stillpoint.core.data.loading import DeviceLoader
from stillpoint.core.data.sets import ImageSet
from stillpoint.core.evaluation.engine import Predictor
from stillpoint.core.runs.checkpoint import load_weights
from stillpoint.core.runs.layout import Run
from stillpoint.core.training.train import train


class NetworkClassifier(ClassifierMixin, BaseEstimator):
    """A network of a paper, trained by one of its recipes on images in memory.

    Args:
        network: full name, such as ``aps/resnet20_aps1``.
        recipe: of the network's paper; its data set determines the images' shape and normalisation.
        settings: KEY VALUE pairs that override the recipe, ``("TRAIN.EPOCHS", "5")``.
        seed: of the weights, the order of images and the augmentation.
        device: see `stillpoint.core.base.device.pick`.
        folder: where to store the run, so that an interrupted fit resumes; None: nothing is stored.

    `X` are uint8 images (N, C, H, W), or (N, H, W) with one channel, of the data set's shape; `y` are labels (N,) of
    any type, with at most as many different values as the data set has classes. `fit` sets `classes_`, `net_` and
    `history_`. Equal arguments and images produce equal networks.
    """

    def __init__(
        self,
        network: str = "aps/resnet20",
        *,
        recipe: str = "digits",
        settings: Sequence[str] = (),
        seed: int = 0,
        device: str = "auto",
        folder: str | Path | None = None,
    ) -> None:
        self.network, self.recipe, self.settings = network, recipe, settings
        self.seed, self.device, self.folder = seed, device, folder

    def fit(self, X: np.ndarray, y: np.ndarray) -> "NetworkClassifier":
        """Trains a new network.

        Raises `UserError` for images or labels that do not fit the data set, and scikit-learn's ValueError for labels
        that are not classes.
        """
        # X has neither validation nor test images
        pairs = [*self.settings, "DATA.VALIDATION", "0", "TRAIN.KEEP", "last", "TRAIN.TEST_EACH_EPOCH", "False"]
        config = pipelines.configure(self.network, self.recipe, pairs, self.seed)
        labels, X = np.asarray(y), np.asarray(X)
        if labels.ndim != 1 or not X.ndim:
            raise UserError(f"images must be (N, C, H, W) and labels (N,), not {X.shape} and {labels.shape}")
        check_classification_targets(labels)
        classes, numbers = np.unique(labels, return_inverse=True)
        entry = info(config.data.name)
        if len(labels) != len(X):
            raise UserError(f"there must be one label for each image, not {len(labels)} for {len(X)}")
        if len(classes) > entry.num_classes:
            raise UserError(
                f"there are {len(classes)} different labels, but {config.data.name} has {entry.num_classes} classes"
            )
        self.config_ = config
        images = self._images(X)
        statistics: dict[str, Any] = {"mean": config.data.mean or entry.mean, "std": config.data.std or entry.std}
        digest = content_digest(images.numpy(), numbers)
        held = ImageSet(
            images, torch.from_numpy(numbers), tuple(map(str, classes)), title="images", digest=digest, **statistics
        )

        def loaders(device: torch.device, rank: int, world_size: int) -> Loaders:
            size = config.train.batch_size // config.train.accumulate
            options: dict[str, Any] = {"device": device, "rank": rank, "world_size": world_size, "seed": config.seed}
            options |= {"shuffle": True, "channels_last": config.train.channels_last}
            changes = augmentation(config, training=True)
            return Loaders(DeviceLoader(held, size, augment=changes, **options), digest=digest)

        with TemporaryDirectory() as scratch:
            root = Path(self.folder) if self.folder is not None else Path(scratch)
            run = Run(config.pipeline, self.recipe, config.model.name, self.seed, root)
            options: dict[str, Any] = {
                "build": pipelines.build,
                "device": self.device,
                "hooks": pipelines.paper(config.pipeline).hooks(config),
            }
            self.history_ = train(config, run, loaders=loaders, **options)
            net = pipelines.build(config)
            load_weights(net, run.weights)
        self.net_, self.classes_ = net.eval(), classes
        self.mean_, self.std_ = statistics["mean"], statistics["std"]
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Probabilities of `classes_`: float32 (N, classes). The network's outputs beyond these are dropped."""
        check_is_fitted(self)
        images, device = self._images(X), pick(self.device)
        net = self.net_.to(device)
        mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (self.mean_, self.std_))
        predict = Predictor(net)
        size = self.config_.evaluate.batch_size
        logits = [predict((part.to(device).float() / 255 - mean) / std).cpu() for part in images.split(size)]
        return torch.cat(logits)[:, : len(self.classes_)].softmax(1).numpy()

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The most probable label of each image, as given to `fit`: (N,)."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(1)]

    def _images(self, X: np.ndarray) -> torch.Tensor:
        X = np.asarray(X)
        entry = info(self.config_.data.name)
        size = self.config_.data.image_size or entry.size
        if X.ndim == 3 and entry.channels == 1:
            X = X[:, None]
        if X.dtype != np.uint8 or X.ndim != 4 or X.shape[1:] != (entry.channels, size, size) or not len(X):
            raise UserError(
                f"images for {self.config_.data.name} must be uint8 (N, {entry.channels}, {size}, {size}), "
                f"not {X.dtype} {X.shape}"
            )
        return torch.from_numpy(np.ascontiguousarray(X))
