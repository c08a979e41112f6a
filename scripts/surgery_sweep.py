#!/usr/bin/env python3
"""What `stillpoint.antialias` does to one or two networks of every family of torchvision and timm, as a table.

    python scripts/surgery_sweep.py docs/surgery.csv --part 1/4      # one part of four; each adds or replaces its rows

Random weights, no network access. Places are counted without the surgery: a TorchDispatchMode sees every convolution
and max-pool that runs with kernel > stride > 1, before and after; fixed filters, which are convolutions too, are left
out. Columns:

    found, after     such places before, and after the default policy, which leaves the stem
    changed, left    lines of the report; `reasons` gives each reason with how often
    oracle           largest change of an output, of the largest output, with plain subsampling for a filter
    sizes            of five sizes (least, +1, x 1.5, x 1.5 + 1, 32) those that the original takes, and treated too
    scripts, exports as the treated network does; "-" where the original does not
"""

import argparse
import contextlib
import copy
import csv
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import models

import stillpoint

_TORCHVISION = """
alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5
mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x0_5
squeezenet1_0 swin_t vgg11_bn wide_resnet50_2
"""
_TIMM = """
bat_resnext26ts botnet26t_256 caformer_s18 coat_tiny coatnet_0_rw_224 convformer_s18 convit_tiny convmixer_768_32
convnext_atto convnextv2_atto crossvit_tiny_240 cs3darknet_s cspdarknet53 cspresnet50 darknet53 davit_tiny
deit_tiny_patch16_224 densenet121 densenetblur121d dla34 dla46_c dm_nfnet_f0 dpn48b eca_botnext26ts_256 eca_nfnet_l0
ecaresnet26t edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientnet_lite0
efficientnetv2_rw_t efficientvit_b0 efficientvit_m0 ese_vovnet19b_slim fastvit_t8 fbnetc_100 fbnetv3_b
focalnet_tiny_srf gc_efficientnetv2_rw_t gcresnet33ts gcvit_xxtiny gernet_s ghostnet_050 ghostnetv2_100 ghostnetv3_050
halonet26t hardcorenas_a haloregnetz_b hgnet_tiny hgnetv2_b0 hiera_tiny_224 hrnet_w18_small inception_next_atto
inception_resnet_v2 inception_v3 inception_v4 lambda_resnet26t lcnet_035 legacy_seresnet18 legacy_xception levit_128s
levit_conv_128s mambaout_femto maxvit_rmlp_pico_rw_256 maxxvit_rmlp_nano_rw_256 mixer_s32_224 mixnet_s mnasnet_small
mobilenet_edgetpu_v2_xs mobilenetv1_100 mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small mobileone_s0
mobilevit_xxs mobilevitv2_050 mvitv2_tiny nest_tiny nextvit_small nf_regnet_b0 nf_resnet26 nfnet_l0 pit_ti_224
pnasnet5large poolformer_s12 poolformerv2_s12 pvt_v2_b0 regnetv_040 regnetx_002 regnety_002 regnetz_005
repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s res2next50 resmlp_12_224 resnest14d resnest26d resnet10t
resnet18 resnet26d resnet32ts resnet33ts resnet50_gn resnetblur18 resnetaa34d resnetrs50 resnetv2_18 resnetv2_50
resnext26ts rexnet_100 rexnetr_100 sebotnet33ts_256 sehalonet33ts selecsls42 semnasnet_075 seresnet18 skresnet18
spnasnet_100 starnet_s1 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 tf_efficientnet_b0
tf_mobilenetv3_small_minimal_100 tiny_vit_5m_224 tinynet_e tnt_s_patch16_224 tresnet_m twins_pcpvt_small vgg11
visformer_tiny vit_tiny_patch16_224 volo_d1_224 vovnet39a wide_resnet50_2 xception41 xcit_nano_12_p16_224
"""
TORCHVISION, TIMM = _TORCHVISION.split(), _TIMM.split()
FIELDS = (
    *("network", "library", "side", "found", "after", "changed", "left", "untraced", "oracle", "sizes", "scripts"),
    *("exports", "seconds", "reasons", "error"),
)


class Overlapping(TorchDispatchMode):
    """Counts what runs with kernel > stride > 1, whoever calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name == "aten::convolution" and not args[6]:
            weight, strides = args[1], [*args[3]] * 3
            fixed = weight.shape[1] == 1 and len(weight) > 1 and bool((weight == weight[:1]).all())
            self.count += not fixed and any(k > s > 1 for k, s in zip(weight.shape[2:], strides, strict=False))
        elif name.startswith("aten::max_pool"):
            strides = [*(args[2] if len(args) > 2 and args[2] else args[1])] * 3
            self.count += any(k > s > 1 for k, s in zip([*args[1]] * 3, strides, strict=False))
        return func(*args, **(kwargs or {}))


def create(library: str, name: str) -> nn.Module:
    torch.manual_seed(0)
    if library == "timm":
        return timm.create_model(name, pretrained=False).eval()
    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return getattr(models, name)(weights=None, **options).eval()


def output(net: nn.Module, x: Tensor) -> Tensor | None:
    """The first tensor that the network gives; none where it does not take the size."""
    with contextlib.suppress(Exception):
        y = net(x)
        while not isinstance(y, Tensor):
            y = y[0] if isinstance(y, list | tuple) else next(iter(y.values()))
        return y
    return None


def noise(side: int) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(side))


def counted(net: nn.Module, x: Tensor) -> int:
    with Overlapping() as seen:
        net(x)
    return seen.count


def scripted(net: nn.Module, x: Tensor) -> bool:
    with contextlib.suppress(Exception):
        y = torch.jit.script(net)(x)
        return torch.allclose(output(lambda _: y, x), output(net, x), rtol=1e-3, atol=1e-5)  # type: ignore[arg-type]
    return False


def exported(net: nn.Module, x: Tensor) -> bool:
    with contextlib.suppress(Exception):
        y = torch.export.export(net, (x,)).module()(x)
        return torch.allclose(output(lambda _: y, x), output(net, x), rtol=1e-3, atol=1e-5)  # type: ignore[arg-type]
    return False


@torch.no_grad()
def row(library: str, name: str, *, deployed: bool) -> dict[str, Any]:
    net = create(library, name)
    side = next((n for n in (96, 128, 224, 240, 256, 299) if output(net, noise(n)) is not None), 0)
    if not side:
        return {"error": "takes none of the sizes tried"}
    x = noise(side)
    before, found, bare = output(net, x), counted(net, x), copy.deepcopy(net)
    sizes = [n for n in (side, side + 1, side * 3 // 2, side * 3 // 2 + 1, 32) if output(net, noise(n)) is not None]
    shapes = {n: output(net, noise(n)).shape for n in sizes}  # type: ignore[union-attr]
    plain = (scripted(net, x), exported(net, x)) if deployed else (False, False)
    report = stillpoint.antialias(net, verbose=False)
    kept = [n for n in sizes if (y := output(net, noise(n))) is not None and y.shape == shapes[n]]
    stillpoint.antialias(bare, downsample="subsample", verbose=False)
    after = output(bare, x)
    assert before is not None and after is not None
    reasons = Counter(reason for _, reason in report.left)
    return {
        **{"side": side, "found": found, "after": counted(net, x), "changed": len(report.changes)},
        **{"left": len(report.left), "untraced": len(report.untraced), "sizes": f"{len(kept)}/{len(sizes)}"},
        "oracle": f"{float((after - before).abs().max() / before.abs().max()):.0e}",
        "scripts": ("yes" if scripted(net, x) else "no") if plain[0] else "-",
        "exports": ("yes" if exported(net, x) else "no") if plain[1] else "-",
        "reasons": "; ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items())),
    }


def rows(todo: list[tuple[str, str]], seconds: float, *, deployed: bool) -> Iterator[dict[str, Any]]:
    until = time.monotonic() + seconds
    for library, name in todo:
        if time.monotonic() > until:
            return
        begun = time.monotonic()
        try:
            made = row(library, name, deployed=deployed)
        except Exception as error:
            made = {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"}
        made |= {"network": name, "library": library, "seconds": f"{time.monotonic() - begun:.0f}"}
        print(made, file=sys.stderr, flush=True)
        yield made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--part", default="1/1", help="such as 2/4: every fourth network, from the second")
    parser.add_argument("--seconds", type=float, default=540, help="begin no network after that long")
    parser.add_argument("--deployed", action="store_true", help="also script and export, which takes most of the time")
    parser.add_argument("--missing", action="store_true", help="only networks that the table does not hold")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    table: dict[tuple[str, str], dict[str, Any]] = {}
    if options.table.exists():
        with options.table.open() as file:
            lines = [line for line in file if not line.startswith("#")]
        table = {(line["library"], line["network"]): line for line in csv.DictReader(lines)}
    everything = [("torchvision", name) for name in TORCHVISION] + [("timm", name) for name in TIMM]
    first, of = map(int, options.part.split("/"))
    todo = [key for key in everything[first - 1 :: of] if not (options.missing and key in table)]
    for made in rows(todo, options.seconds, deployed=options.deployed):
        table[made["library"], made["network"]] = made
        with options.table.open("w", newline="") as file:  # each time: a part that is ended keeps what it has
            file.write(f"# torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}\n")
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table[key] for key in everything if key in table)


if __name__ == "__main__":
    main()
