"""AutoAttack (Croce and Hein, ICML 2020) from an installed package: its authors' or torchattacks.

Nothing else needs either, so a package is required only when the evaluation is used. Attack and defence use the lambda
of training, in eval mode, through all iterations, as for projected gradient descent.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.evaluation.registry import Result, View
from stillpoint.core.metrics import topk_correct
from stillpoint.core.metrics.accumulate import Tally
from stillpoint.pipelines.sdnet.pixels import Pixels
from stillpoint.pipelines.sdnet.views import chosen, network

#: in the order of preference; the first is not on PyPI
PACKAGES = ("autoattack", "torchattacks")
#: the packages' names of the norms -> ours
NORMS = {"Linf": "linf", "L2": "l2"}
#: number of target classes of the standard version
TARGETS = 9


class _FromPixels(nn.Module):
    """A network whose inputs are pixels in [0, 1]."""

    def __init__(self, net: nn.Module, pixels: Pixels) -> None:
        super().__init__()
        self.net, self.pixels = net, pixels

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.pixels.normalised(images))


class AutoAttacked:
    """Accuracy under AutoAttack's standard version on LIMIT_ATTACK images: ``autoattack_<norm>_accuracy``.

    The packages draw for a whole batch, so results depend on EVALUATE.BATCH_SIZE. ``autoattack_authors_package`` is 1
    if the authors' package was used. `UserError` if neither is installed.
    """

    def __init__(self, config: Any, seed: int, *, run: RunConfig) -> None:
        found = [name for name in PACKAGES if find_spec(name) is not None]
        if not found:
            raise UserError(
                "the evaluation autoattack needs a package: pip install --no-deps torchattacks, or its authors' own, "
                "autoattack from github.com/fra31/auto-attack; the evaluation attack (projected gradient descent) "
                "needs none"
            )
        self.package = found[0]
        self.config, self.seed, self.pixels = config, seed, Pixels.of(run)
        self.tallies = {norm: Tally() for norm in NORMS.values()}

    def update(self, view: View) -> None:
        rows = chosen(view, self.config.limit_attack)
        if not len(rows):
            return
        net, labels = network(view), view.labels[rows]
        images = self.pixels.scaled(view.images[rows]).clamp(0, 1).contiguous()
        moving = [parameter for parameter in net.parameters() if parameter.requires_grad]
        for theirs, norm in NORMS.items():
            view.progress(f"AutoAttack, {norm}", 0, 1)
            radius = self.config.attack_linf / 255 if norm == "linf" else self.config.attack_l2
            try:
                for parameter in moving:
                    parameter.requires_grad_(False)
                # they seed torch's own generator
                with torch.random.fork_rng([images.device] if images.is_cuda else []):
                    found = self._attacked(_FromPixels(net, self.pixels), images, labels, theirs, radius)
            finally:
                for parameter in moving:
                    parameter.requires_grad_(True)
            change = (found - images).flatten(1)
            excess = float((change.abs().amax(1) if norm == "linf" else change.norm(dim=1)).amax())
            if excess > radius * 1.001 + 1e-6:
                raise UserError(
                    f"{self.package} changed an image by {excess:.4f} in the {norm} norm, more than the allowed "
                    f"{radius:.4f}"
                )
            right = topk_correct(view.predict(self.pixels.normalised(found)), labels)[:, 0]
            self.tallies[norm].update(right)

    def _attacked(self, net: nn.Module, images: Tensor, labels: Tensor, norm: str, radius: float) -> Tensor:
        net.eval()
        if self.package == "autoattack":
            from autoattack import AutoAttack  # type: ignore[import-not-found]

            attacker = AutoAttack(
                net,
                norm=norm,
                eps=radius,
                seed=self.seed,
                version="standard",
                device=str(images.device),
                verbose=False,
            )
            return attacker.run_standard_evaluation(images, labels, bs=len(images)).to(images)
        import torchattacks  # type: ignore[import-not-found]

        with torch.no_grad():
            classes = net(images[:1]).shape[1]
        made = torchattacks.AutoAttack(
            net, norm=norm, eps=radius, version="standard", n_classes=min(classes, TARGETS + 1), seed=self.seed
        )
        return made(images, labels).to(images)

    def compute(self) -> Result:
        found: Result = {f"autoattack_{norm}_accuracy": tally.mean for norm, tally in self.tallies.items()}
        return found | {"autoattack_authors_package": float(self.package == "autoattack")}
