#!/usr/bin/env bash
# All that a GPU is to show, in under eight minutes: every Triton kernel against the CPU's values, layers and ResNet-50 beside
# their floor and peers, the fast recipe's seconds to accuracy, and as much of the full recipes as the time allows. Each part
# has its own limit and writes as it goes, so that a cut loses only the part under way.
#   scripts/gpu_check.sh --dry-run                     what it would do, how long, and what must be carried there
#   scripts/gpu_check.sh --toy --out DIR               the same on the CPU at a toy size, in some minutes
#   scripts/gpu_check.sh --data DATA --out DIR         on the GPU; DATA as `stillpoint prepare cifar10` wants it
#   scripts/gpu_check.sh --from DIR --out DIR2 ...     goes on from what an earlier call left in DIR
#   scripts/gpu_check.sh --unpack DIR RESULTS          its runs, to be kept: stillpoint release RESULTS/<paper>/<recipe>/...
# Needs torch, torchvision, triton, numpy, safetensors and pyyaml there, and what it carries as wheels in WHEELS (pydantic and
# what that needs, yacs, torchmetrics and lightning-utilities), for that machine's Python:
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux2014_x86_64 -d WHEELS pydantic ...
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
case " $* " in
  *" --dry-run "* | *" --unpack "*) ;; # nothing is run, and the wheels may be of the other machine's Python
  *)
    if [ -n "${WHEELS:-}" ]; then
      site=$(mktemp -d)
      "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
      export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} GPU_CHECK_SITE=$site
    fi
    ;;
esac
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
# this process's own signals: who ends the script ends its parts, whose states are saved
exec "$python" scripts/gpu_check.py "$@"
