#!/usr/bin/env bash
# Runs a command in a real Slurm on this machine, and removes it afterwards. Needs root, and Debian's slurm-wlm and munge.
#   scripts/slurm_local.sh snakemake pipelines/aps/all --profile profiles/slurm --set-resources ...
#   scripts/slurm_local.sh                 a shell in which sbatch, squeue and the profile work
# Meanwhile /etc/slurm/slurm.conf is a link to a configuration under /tmp, because jobs look for it there (snakemake's
# plugin removes SLURM_CONF from their environment). If the system has its own Slurm configuration, this refuses to run.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "root is needed: the daemons start jobs as other users" >&2; exit 2; }
for tool in munged slurmctld slurmd; do
  command -v $tool >/dev/null || { echo "$tool is not installed: apt-get install --no-install-recommends slurm-wlm munge" >&2; exit 2; }
done
conf=/etc/slurm/slurm.conf
if [ -e $conf ]; then echo "$conf exists: this machine has its own Slurm" >&2; exit 2; fi
place=$(mktemp -d "${TMPDIR:-/tmp}/slurm.XXXXXX")
chmod 755 "$place"
mkdir -p "$place"/{state,spool,munge}
dd if=/dev/urandom of="$place/munge/key" bs=64 count=1 status=none
chmod 400 "$place/munge/key"
chmod 755 "$place/munge"
host=$(hostname -s)
memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
cat >"$place/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$place/munge/socket
CredType=cred/munge
SlurmctldPort=${PORT:-16817}
SlurmdPort=$((${PORT:-16817} + 1))
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd.log
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
mkdir -p "$(dirname $conf)"
ln -sfn "$place/slurm.conf" $conf
stop() {
  scancel --user="$(id -un)" 2>/dev/null || true
  for daemon in slurmd slurmctld munged; do
    [ -s "$place/$daemon.pid" ] && kill "$(cat "$place/$daemon.pid")" 2>/dev/null || true
  done
  sleep 2
  rm -rf "$place" $conf
}
trap stop EXIT
trap 'exit 130' INT TERM
munged --force --key-file="$place/munge/key" --socket="$place/munge/socket" --pid-file="$place/munged.pid" \
  --log-file="$place/munged.log" --seed-file="$place/munge/seed"
slurmctld
slurmd
for _ in $(seq 30); do
  [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && break
  sleep 1
done
sinfo || { tail -n 20 "$place"/*.log >&2; exit 1; }
cd "$(dirname "$0")/.."
"${@:-bash}"
