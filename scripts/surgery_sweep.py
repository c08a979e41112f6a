#!/usr/bin/env python3
"""What `stillpoint.antialias` does to one or two networks of every family of torchvision and timm, as a table.

    python scripts/surgery_sweep.py docs/surgery.csv --missing              # the networks that it lacks
    python scripts/surgery_sweep.py docs/surgery.csv --missing --deployed   # their export from Python
    python scripts/surgery_sweep.py docs/surgery.csv --total --page docs/antialias.md   # its totals

Random weights, no network access. Each network is written as soon as it is done. Places are counted independently of
the surgery: a TorchDispatchMode sees every convolution and max-pool that runs with kernel > stride > 1, before and
after; fixed filters, which are convolutions too, are left out. Columns:

    found, after, bare  such places before; after the default policy, which leaves the stem; with the stem treated too
    half                additions of a filtered and an unfiltered map, since they branched
    changed, left       lines of the report; `reasons` counts each reason
    oracle              largest change of an output, over the largest output, with plain subsampling in place of filters
    sizes               of five sizes (least, +1, x 1.5, x 1.5 + 1, 32): how many the treated network accepts, of those
                        that the original accepts
    scripts, traces, exports, onnx
                        whether the exported treated network has the same outputs; "-" if the original fails as well,
                        "slow" if neither finished; at one size, ONNX in onnxruntime
"""

import argparse
import contextlib
import copy
import csv
import re
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision import models

import stillpoint
from stillpoint.core.surgery.antialias import POLICIES

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
DEPLOYED = ("scripts", "traces", "exports", "onnx")
FIELDS = (
    *("network", "library", "side", "found", "after", "bare", "half", "changed", "left", "untraced", "oracle", "sizes"),
    *DEPLOYED,
    *("seconds", "reasons", "error"),
)
MARKED = re.compile(r"(<!-- stated: docs/surgery\.csv -->\n\n).*?(\n\n<!-- /stated -->)", re.S)
Row = dict[str, Any]


class Overlapping(TorchDispatchMode):
    """Counts what runs with kernel > stride > 1, whoever calls it, and the additions with only one side filtered.

    Each stride that a map went through is an event, filtered or bare; average pools and patches are neither. The events
    of one side only of an addition show whether its maps are still aligned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = self.half = 0
        self._events: dict[int, frozenset[tuple[int, str]]] = {}
        self._kept: list[Tensor] = []  # keeps tensors alive, so that no id is used twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func._schema.name
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        seen = [self._events.get(id(x), frozenset()) for x in given]
        events = frozenset().union(*seen)
        if name in ("aten::add", "aten::add_") and len(seen) > 1:
            own = [{kind for _, kind in one - (seen[0] & seen[1])} for one in seen[:2]]
            self.half += {frozenset(kinds) for kinds in own} == {frozenset({"bare"}), frozenset({"filtered"})}
        kind = self._kind(name, args)
        if kind:
            events |= {(len(self._kept), kind)}
        for y in tree_leaves(made):
            if isinstance(y, Tensor):
                self._kept.append(y)
                self._events[id(y)] = events
        return made

    def _kind(self, name: str, args: Any) -> str:
        if name == "aten::convolution" and not args[6]:
            weight, strides = args[1], [*args[3]] * 3
            fixed = weight.shape[1] == 1 and len(weight) > 1 and bool((weight == weight[:1]).all())
            sides = [(k, s) for k, s in zip(weight.shape[2:], strides, strict=False) if s > 1]
            if fixed or not sides:
                return "filtered" if sides else ""
            self.count += any(k > s for k, s in sides)
            return "bare" if any(k > s or k == 1 for k, s in sides) else ""
        if name.startswith("aten::max_pool"):
            strides = [*(args[2] if len(args) > 2 and args[2] else args[1])] * 3
            overlaps = any(k > s > 1 for k, s in zip([*args[1]] * 3, strides, strict=False))
            self.count += overlaps
            return "bare" if max(strides) > 1 else ""
        return "filtered" if name == "stillpoint::blur_pool" and max(args[3]) > 1 else ""


def create(library: str, name: str) -> nn.Module:
    torch.manual_seed(0)
    if library == "timm":
        return timm.create_model(name, pretrained=False).eval()
    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return getattr(models, name)(weights=None, **options).eval()


def output(net: nn.Module, x: Tensor) -> Tensor | None:
    """The first tensor that the network returns; None if it does not accept the size."""
    with contextlib.suppress(Exception):
        y = net(x)
        while not isinstance(y, Tensor):
            y = y[0] if isinstance(y, list | tuple) else next(iter(y.values()))
        return y
    return None


def noise(side: int) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(side))


def seen(net: nn.Module, x: Tensor) -> Overlapping:
    with Overlapping() as mode:
        net(x)
    return mode


def scripted(net: nn.Module, x: Tensor) -> Any:
    return torch.jit.script(net)


def traced(net: nn.Module, x: Tensor) -> Any:
    return torch.jit.trace(net, x, strict=False)


def exported(net: nn.Module, x: Tensor) -> Any:
    return torch.export.export(net, (x,)).module()


def in_onnxruntime(net: nn.Module, x: Tensor) -> Any:
    import onnxruntime

    program = torch.onnx.export(net, (x,), dynamo=True, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def leaves(way: Callable[[nn.Module, Tensor], Any], net: nn.Module, x: Tensor, limit: int) -> str:
    """ "yes" if the network exported that way has the same outputs, "slow" after `limit` seconds, else "no"."""
    expected = output(net, x)
    assert expected is not None
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(limit)
    try:
        made = output(way(copy.deepcopy(net), x), x)
    except _Late:
        return "slow"
    except Exception:
        return "no"
    finally:
        signal.alarm(0)
    scale = float(expected.abs().max())
    return "yes" if made is not None and torch.allclose(made, expected, rtol=1e-3, atol=1e-4 * scale) else "no"


class _Late(BaseException):
    pass


def _late(*_: Any) -> None:
    raise _Late


WAYS = dict(zip(DEPLOYED, (scripted, traced, exported, in_onnxruntime), strict=True))


@torch.no_grad()
def treated(library: str, name: str) -> Row:
    net = create(library, name)
    side = next((n for n in (96, 128, 224, 240, 256, 299) if output(net, noise(n)) is not None), 0)
    if not side:
        return {"error": "takes none of the sizes tried"}
    x = noise(side)
    before, found, plain, whole = output(net, x), seen(net, x).count, copy.deepcopy(net), copy.deepcopy(net)
    sizes = [n for n in (side, side + 1, side * 3 // 2, side * 3 // 2 + 1, 32) if output(net, noise(n)) is not None]
    shapes = {n: output(net, noise(n)).shape for n in sizes}  # type: ignore[union-attr]
    report = stillpoint.antialias(net, verbose=False)
    kept = [n for n in sizes if (y := output(net, noise(n))) is not None and y.shape == shapes[n]]
    stillpoint.antialias(whole, POLICIES, verbose=False)
    stillpoint.antialias(plain, downsample="subsample", verbose=False)
    after, left = output(plain, x), seen(net, x)
    assert before is not None and after is not None
    reasons = Counter(reason for _, reason in report.left)
    return {
        **{"side": side, "found": found, "after": left.count, "bare": seen(whole, x).count, "half": left.half},
        **{"changed": len(report.changes), "left": len(report.left), "untraced": len(report.untraced)},
        "oracle": f"{float((after - before).abs().max() / before.abs().max()):.0e}",
        "sizes": f"{len(kept)}/{len(sizes)}",
        "reasons": "; ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items())),
    }


@torch.no_grad()
def deployed(library: str, name: str, side: int, limit: int) -> Row:
    plain, x = create(library, name), noise(side)
    net = copy.deepcopy(plain)
    stillpoint.antialias(net, verbose=False)
    found: Row = {}
    for column, way in WAYS.items():
        found[column] = leaves(way, net, x, limit)
        if found[column] != "yes" and leaves(way, plain, x, limit) == found[column]:
            found[column] = "slow" if found[column] == "slow" else "-"
    return found


def rows(todo: list[tuple[str, str]], table: dict[tuple[str, str], Row], options: argparse.Namespace) -> Iterator[Row]:
    until = time.monotonic() + options.seconds
    for library, name in todo:
        if time.monotonic() > until:
            return
        begun, held = time.monotonic(), table.get((library, name), {})
        try:
            if options.deployed:
                made = {**held, **deployed(library, name, int(held["side"]), options.limit)}
            else:
                made = {**{column: held.get(column, "") for column in DEPLOYED}, **treated(library, name)}
                made["seconds"] = f"{time.monotonic() - begun:.0f}"
        except Exception as error:
            made = {**held, "error": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"}
        made |= {"network": name, "library": library}
        print(made, file=sys.stderr, flush=True)
        yield made


def summary(table: Iterable[Row]) -> list[tuple[str, str]]:
    """(description, number) for each total of a table's rows; export from Python only once all were tried."""
    rows = [row for row in table if row.get("bare")]
    found, after, bare = (sum(int(row[column]) for row in rows) for column in ("found", "after", "bare"))
    behind = found - (after - bare)
    sizes = [list(map(int, row["sizes"].split("/"))) for row in rows]
    said = [
        ("networks of torchvision and timm", str(len(rows))),
        ("their overlapping strides behind the stem", str(behind)),
        ("of these, treated", f"{behind - bare} ({(behind - bare) / max(behind, 1):.1%})"),
        ("additions of a filtered and a bare map", str(sum(int(row["half"]) for row in rows))),
        ("image sizes that the originals take", str(sum(of for _, of in sizes))),
        ("of these, taken by the treated networks", str(sum(kept for kept, _ in sizes))),
        (
            "largest change of an output, plain subsampling in place of filters",
            f"{max((float(row['oracle']) for row in rows), default=0):.0e}",
        ),
    ]
    for column, way in zip(DEPLOYED, ("TorchScript", "torch.jit.trace", "torch.export", "onnxruntime"), strict=True):
        tried = Counter(row[column] for row in rows)
        if not tried[""]:
            slow = f" ({tried['slow']} more came to no end)" if tried["slow"] else ""
            said.append(
                (f"{way}, of those whose original does", f"{tried['yes']} of {tried['yes'] + tried['no']}{slow}")
            )
    return said


def markdown(said: list[tuple[str, str]]) -> str:
    return "\n".join(
        f"| {what} | {number} |" for what, number in [("counted over all networks", "number"), ("---", "---"), *said]
    )


def read(path: Path) -> dict[tuple[str, str], Row]:
    if not path.exists():
        return {}
    with path.open() as file:
        lines = [line for line in file if not line.startswith("#")]
    return {(row["library"], row["network"]): row for row in csv.DictReader(lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--only", nargs="+", default=[], help="names of networks")
    parser.add_argument("--seconds", type=float, default=540, help="start no further network after this many seconds")
    parser.add_argument("--limit", type=int, default=60, help="seconds for each form of export")
    parser.add_argument(
        "--deployed", action="store_true", help="script, trace, export and ONNX of networks in the table"
    )
    parser.add_argument("--missing", action="store_true", help="only what the table lacks")
    parser.add_argument("--total", action="store_true", help="only print the totals of the table")
    parser.add_argument("--page", type=Path, help="with --total: write them to the marked lines of this page")
    options = parser.parse_args()
    table = read(options.table)
    if options.total:
        said = summary(table.values())
        print("\n".join(map(": ".join, said)))
        if options.page:
            text = options.page.read_text()
            options.page.write_text(MARKED.sub(lambda found: found[1] + markdown(said) + found[2], text))
        return
    warnings.filterwarnings("ignore")
    everything = [("torchvision", name) for name in TORCHVISION] + [("timm", name) for name in TIMM]
    todo = [key for key in everything if not options.only or key[1] in options.only]
    if options.deployed:
        todo = [key for key in todo if table.get(key, {}).get("side")]
    if options.missing:
        wanted = DEPLOYED[0] if options.deployed else "bare"  # rows of an older script lack it
        todo = [key for key in todo if not table.get(key, {}).get(wanted)]
    for made in rows(todo, table, options):
        table[made["library"], made["network"]] = made
        with options.table.open("w", newline="") as file:  # after each network, so that an interruption loses none
            file.write(f"# torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}\n")
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table[key] for key in everything if key in table)


if __name__ == "__main__":
    main()
