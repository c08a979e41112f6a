#!/usr/bin/env bash
# Tries a DVC remote on a real web server: starts nginx with PUT on loopback, pushes the kept weights to it, pulls them
# into a fresh clone without another store, and removes everything. Needs Debian's nginx-light.
#   scripts/dvc_http_remote.sh          try it: push, clone, pull, compare
#   scripts/dvc_http_remote.sh serve    serve until Ctrl-C; it prints the commands that use it
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
port=${PORT:-8765}
dvc=${DVC:-dvc}
command -v nginx >/dev/null || { echo "nginx is not installed: apt-get install nginx-light" >&2; exit 2; }
place=$(mktemp -d)
chmod 755 "$place"
mkdir -m 777 "$place/store" "$place/body"
cat >"$place/nginx.conf" <<CONF
pid $place/nginx.pid;
error_log $place/error.log;
events {}
http {
  access_log $place/access.log;
  client_body_temp_path $place/body;
  client_max_body_size 0;
  server {
    listen 127.0.0.1:$port;
    root $place/store;
    # the methods that DVC uses; anyone who can reach the address can write: on a network, add auth_basic and TLS
    dav_methods PUT DELETE;
    create_full_put_path on;
    dav_access user:rw group:r all:r;
  }
}
CONF
nginx -c "$place/nginx.conf"
stop() { nginx -c "$place/nginx.conf" -s quit || true; sleep 1; rm -rf "$place"; }
trap stop EXIT
trap 'exit 130' INT TERM
url=http://127.0.0.1:$port
if [ "${1:-try}" = serve ]; then
  echo "dvc remote add --local web $url && dvc remote modify --local web method PUT"
  echo "dvc push -r web runs/*/*/*/*/*.dvc"
  echo "serving $place/store; Ctrl-C ends and removes it"
  while :; do sleep 1; done
fi
# in a clone, so that this checkout's settings do not change
git clone -q "$root" "$place/from"
cd "$place/from"
$dvc pull -q runs/*/*/*/*/*.dvc
$dvc remote add --local web "$url"
$dvc remote modify --local web method PUT
$dvc push -r web runs/*/*/*/*/*.dvc
git clone -q "$root" "$place/to"
cd "$place/to"
rm -rf .dvc-store
$dvc remote add --local web "$url"
$dvc pull -r web runs/*/*/*/*/*.dvc
for file in runs/*/*/*/*/weights.safetensors; do
  cmp "$file" "$place/from/$file"
  echo "the same bytes: $file"
done
echo "PUT $(grep -c '"PUT' "$place/access.log"), GET $(grep -c '"GET' "$place/access.log"): push and pull over HTTP work"
