#!/bin/sh
# Tries a wheel in an empty environment: scripts/try_install.sh WHEEL [TORCH...], such as  ... dist/*.whl 2.6 locked
# "locked" is the torch of requirements.lock. Each takes some 6 GB and minutes; the environment is removed afterwards.
# PYTHON names the interpreter (python3). pip takes packages from wherever it is configured to.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
wheel=$(readlink -f "$1"); shift
[ $# -gt 0 ] || set -- 2.6 locked
for torch in "$@"; do
  [ "$torch" != locked ] || torch=$(sed -n 's/^torch==//p' "$root/requirements.lock")
  work=$(mktemp -d); trap 'rm -rf "$work"' EXIT INT TERM
  "${PYTHON:-python3}" -m venv "$work/env"
  "$work/env/bin/python" -m pip install --quiet "torch==$torch.*" "$wheel" 2>"$work/said" || { cat "$work/said"; exit 1; }
  cp "$root/scripts/try_install.py" "$work/try.py"
  (cd "$work" && STILLPOINT_CACHE="$work/cache" env/bin/python try.py && STILLPOINT_KERNELS=0 env/bin/python try.py)
  (cd "$work" && env/bin/stillpoint list 'lps/resnet20*' >/dev/null && env/bin/stillpoint --version)
  rm -rf "$work"
done
