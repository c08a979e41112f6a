#!/usr/bin/env bash
# Tries to fetch a run from another machine over SSH: a real sshd on loopback plays that machine. Needs
# Debian's openssh-server and `pip install '.[ssh]'`.
#   scripts/dvc_ssh_remote.sh     train a short run there, release it here, keep its weights there and fetch them again
# With a real cluster, two lines for DVC (in .dvc/config.local, or without --local for everybody), then one for each run:
#   dvc remote add --local cluster ssh://cluster.example.org/path/to/stillpoint
#   dvc remote modify --local cluster user me          (keyfile, port and the like: dvc remote modify --help)
#   stillpoint release remote://cluster/results/aps/cifar10/resnet20_aps3/seed1
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
port=${PORT:-8766}
python=${PYTHON:-python}
sshd=$(command -v sshd || echo /usr/sbin/sshd)
[ -x "$sshd" ] || { echo "sshd is not installed: apt-get install openssh-server" >&2; exit 2; }
place=$(mktemp -d)
pid=
stop() { [ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$place"; }
trap stop EXIT
trap 'exit 130' INT TERM
ssh-keygen -q -t ed25519 -N '' -f "$place/host"
ssh-keygen -q -t ed25519 -N '' -f "$place/user"
cat >"$place/sshd_config" <<CONF
Port $port
ListenAddress 127.0.0.1
HostKey $place/host
PidFile $place/sshd.pid
AuthorizedKeysFile $place/user.pub
StrictModes no
PasswordAuthentication no
UsePAM no
Subsystem sftp internal-sftp
CONF
[ "$(id -u)" != 0 ] || mkdir -p /run/sshd
"$sshd" -D -e -f "$place/sshd_config" 2>"$place/sshd.log" &
pid=$!
# the other machine: its own checkout, in which a short run is trained and evaluated
git clone -q "$root" "$place/there"
cd "$place/there"
export PYTHONPATH=$place/there
network=aps/resnet20_aps1
run=results/aps/digits/resnet20_aps1/seed0
short=(TRAIN.EPOCHS 1 DATA.LIMIT 64 MODEL.WIDTH 0.25 EVALUATE.METRICS "['accuracy','circular']")
$python -m stillpoint train $network --threads 1 "${short[@]}" >/dev/null
$python -m stillpoint evaluate $run --threads 1 >/dev/null
# this machine
git clone -q "$root" "$place/here"
cd "$place/here"
export PYTHONPATH=$place/here${SSH_PACKAGES:+:$SSH_PACKAGES}
dvc() { $python -m dvc "$@"; }
dvc remote add -q --local cluster "ssh://127.0.0.1:$port$place/there"
dvc remote modify -q --local cluster user "$(id -un)"
dvc remote modify -q --local cluster keyfile "$place/user"
# runs/aps/digits may hold kept runs: this one goes to a folder of its own
$python -m stillpoint release "remote://cluster/$run" --to brought/runs --threads 1
kept=brought/runs/aps/digits/resnet20_aps1/seed0
cmp "$kept/metrics.json" "$place/there/$run/metrics.json"
echo "the same bytes: metrics.json"
# with --remote its weights stay there, in a DVC remote, and the card says how to fetch them
$python -m stillpoint release "remote://cluster/$run" --to brought/runs --threads 1 --weights --remote cluster --anew
[ ! -e "$kept/weights.safetensors.dvc" ] || { echo "a plain dvc pull would ask the cluster" >&2; exit 1; }
mv "$kept/weights.safetensors" "$place/weights"
fetch=$(sed -n 's/^\(dvc get-url .*[^ ]\)  *# fetches the weights$/\1/p' "$kept/card.md")
read -r _ _ address _ <<<"$fetch"
dvc get-url -q "$address" "$kept/weights.safetensors"
cmp "$kept/weights.safetensors" "$place/weights"
echo "the same bytes: weights.safetensors, by $fetch"
# a run that is damaged there is refused here
printf x >>"$place/there/$run/weights.safetensors"
if $python -m stillpoint release "remote://cluster/$run" --to brought/runs --threads 1 --anew; then exit 1; fi
cmp "$kept/weights.safetensors" "$place/weights"
echo "$(grep -c 'Accepted publickey' "$place/sshd.log") connections: release and DVC over SSH work"
