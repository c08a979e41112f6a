"""AutoAttack (Croce and Hein, ICML 2020), by its authors' own package where that is installed.

The package is in no registry, so the evaluation is offered only where it can be imported. Attack and defence are at the
lambda of training, in eval mode, through all iterations, as for projected gradient descent.
"""

from functools import partial
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from core.config import RunConfig
from core.errors import UserError
from core.evaluations import Result, View
from core.metrics import Tally, topk_correct
from pipelines.sdnet.pixels import Pixels

PACKAGE = "autoattack"
#: the package's names of the norms -> ours
NORMS = {"Linf": "linf", "L2": "l2"}


class AutoAttacked:
    """Accuracy under AutoAttack's standard version: ``autoattack_<norm>_accuracy``, of EVALUATE.LIMIT_ATTACK images.

    The package draws for a batch as a whole, so a result depends on EVALUATE.BATCH_SIZE. `UserError` where it is not
    installed.
    """

    def __init__(self, config: Any, seed: int, *, run: RunConfig) -> None:
        if find_spec(PACKAGE) is None:
            raise UserError(
                f"the evaluation autoattack needs its authors' package, which is in no registry: install {PACKAGE} "
                "from github.com/fra31/auto-attack, or use the evaluation attack (projected gradient descent)"
            )
        self.config, self.seed, self.pixels = config, seed, Pixels.of(run)
        self.tallies = {norm: Tally() for norm in NORMS.values()}

    def update(self, view: View) -> None:
        from autoattack import AutoAttack  # type: ignore[import-not-found]

        from pipelines.sdnet.evaluate import chosen, network

        rows = chosen(view, self.config.limit_attack)
        if not len(rows):
            return
        net, labels = network(view), view.labels[rows]
        images = self.pixels.scaled(view.images[rows]).clamp(0, 1).contiguous()
        for theirs, norm in NORMS.items():
            view.progress(f"AutoAttack, {norm}", 0, 1)
            radius = self.config.attack_linf / 255 if norm == "linf" else self.config.attack_l2
            attacker = AutoAttack(
                partial(self._logits, net),
                norm=theirs,
                eps=radius,
                seed=self.seed,
                version="standard",
                device=str(images.device),
                verbose=False,
            )
            found = attacker.run_standard_evaluation(images, labels, bs=len(images)).to(images)
            if (excess := float((found - images).abs().amax())) > radius * 1.001 + 1e-6:
                raise UserError(f"{PACKAGE} changed a pixel by {excess:.4f}, more than the {radius:.4f} it was allowed")
            right = topk_correct(view.predict(self.pixels.normalised(found)), labels)[:, 0]
            self.tallies[norm].update(right)

    def _logits(self, net: Any, pixels: Tensor) -> Tensor:
        return net(self.pixels.normalised(pixels))

    def result(self) -> Result:
        return {f"autoattack_{norm}_accuracy": tally.mean for norm, tally in self.tallies.items()}
