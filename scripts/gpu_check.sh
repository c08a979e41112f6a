#!/usr/bin/env bash
# All checks on a GPU in under eight minutes: every Triton kernel against the CPU's values, layers and ResNet-50 beside their
# floor and peers, the fast recipe's seconds to accuracy, and as much of the full recipes as the time allows. Each part has
# its own limit and writes results as it goes, so that an interruption costs only the current part.
#   scripts/gpu_check.sh --dry-run                     shows the parts, their limits and the size of the upload
#   scripts/gpu_check.sh --toy --out DIR               the same on the CPU at a toy size, in a few minutes
#   scripts/gpu_check.sh --data DATA --out DIR         on the GPU; DATA as `stillpoint prepare cifar10` expects it
#   scripts/gpu_check.sh --from DIR --out DIR2 ...     continues from what an earlier call left in DIR
#   scripts/gpu_check.sh --unpack DIR RESULTS          extracts its runs; keep: stillpoint release RESULTS/<paper>/<recipe>/...
# The GPU machine needs torch, torchvision, triton, numpy, safetensors and pyyaml; pydantic with its dependencies, yacs,
# torchmetrics and lightning-utilities are uploaded as wheels in WHEELS, for that machine's Python:
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux2014_x86_64 -d WHEELS pydantic ...
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
case " $* " in
  *" --dry-run "* | *" --unpack "*) ;; # runs nothing; the wheels may be for the other machine's Python
  *)
    if [ -n "${WHEELS:-}" ]; then
      if ! compgen -G "$WHEELS/*.whl" >/dev/null; then
        echo "there is no wheel in $WHEELS: name their folder in WHEELS" >&2
        exit 2
      fi
      site=$(mktemp -d)
      "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
      export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} GPU_CHECK_SITE=$site
    fi
    ;;
esac
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
# exec: a signal to the script reaches the program, which saves the states of its parts
exec "$python" scripts/gpu_check.py "$@"
