#!/usr/bin/env bash
# The single-GPU test mode, at most 8 minutes: GPU tests, the demo in bfloat16, the time of a step; one result file.
#   launch/gpu.sh [FOLDER]      results go to FOLDER (default: runs/gpu), result.md first
# Each stage has its own time limit, and the next one runs even where one fails. Status: 0 all well, 1 a stage failed,
# 3 no GPU here.
#
#   PPR_DIST_PYTHON   an interpreter that has everything installed   (default: .venv, made where it is missing)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-runs/gpu}

gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1) || true
if [ -z "$gpu" ]; then echo "launch/gpu.sh: no NVIDIA GPU here (nvidia-smi finds none); nothing was tried" >&2; exit 3; fi
if [ -z "${PPR_DIST_PYTHON:-}" ]; then
    launch/environment/setup.sh
    PPR_DIST_PYTHON=$PWD/.venv/bin/python
fi
export PPR_DIST_PYTHON CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
mkdir -p "$folder"
result=$folder/result.md
failed=0

# stage NAME SECONDS COMMAND …: run it, keep its output, add a row to the result.
stage() {
    local name=$1 limit=$2 started=$SECONDS status=0
    shift 2
    echo "--- $name: $*"
    timeout --kill-after 10 "$limit" "$@" 2>&1 </dev/null | tee "$folder/$name.log" || status=$?
    [ "$status" -eq 0 ] || failed=1
    echo "| $name | $status | $((SECONDS - started)) | $limit |" >>"$result"
}

{
    echo "# Single-GPU test mode"
    echo
    echo "$gpu, $(date -I), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown). \`launch/gpu.sh\`"
    echo
    echo "| stage | status (124: out of time) | seconds | limit |"
    echo "|---|---|---|---|"
} >"$result"
stage tests 170 "$PPR_DIST_PYTHON" -m pytest -m gpu
stage demo 170 env RANKS=1 METHODS=ppr-light FLAGS="--train.precision bfloat16" launch/demo.sh "$folder/demo"
stage step_time 120 "$PPR_DIST_PYTHON" -m benchmarks.step_time --out "$folder/step_time.md"

{
    echo
    grep -E '(passed|failed|error|skipped|no tests ran).* in [0-9.]+s' "$folder/tests.log" | tail -n 1 || echo "tests: no closing line"
    for part in demo/report.md step_time.md; do
        echo
        cat "$folder/$part" 2>/dev/null || echo "$part: not written"
    done
} >>"$result"
echo
cat "$result"
exit "$failed"
