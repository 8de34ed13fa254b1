#!/usr/bin/env bash
# Everything a GPU has to show, in at most nine minutes, the most important first; safe to cut at any second.
#
#   benchmarks/on_device.sh [--rehearse] [--seconds N] [--wheels FOLDER] [--out FOLDER] [--step NAME …]
#
# Results are appended to OUT/results.jsonl as they are found. Nothing is fetched: of what the machine lacks, the wheels
# in FOLDER (benchmarks/on_device_wheels.txt names them) are unpacked beside the results; what is still missing is skipped
# with a reason. --rehearse runs every step on the processor with tiny sizes.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-artifacts/on_device} wheels="" rest=()
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    --wheels) wheels=$2; shift 2 ;;
    *) rest+=("$1"); shift ;;
  esac
done
python=${PYTHON:-python3}
mkdir -p "$out"
if [ -n "$wheels" ]; then
  "$python" -m pip --disable-pip-version-check install --quiet --no-index --no-deps --upgrade --target "$out/site" \
    "$wheels"/*.whl || echo "the wheels could not be unpacked: going on without them"
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}:$out/site
exec "$python" -u benchmarks/on_device.py --out "$out" ${rest[@]+"${rest[@]}"}
