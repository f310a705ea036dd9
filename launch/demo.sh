#!/usr/bin/env bash
# The whole way on a synthetic catalogue, two ranks: the commands a user would type, one after the other.
#   launch/demo.sh [FOLDER]     results go to FOLDER (default: runs/demo), which is made anew
#
#   RANKS=2  METHODS="fine-tune ppr-light ppr-full"  FLAGS=""   ranks, methods to tune by, more flags of training
#   PPR_DIST_PYTHON=.venv/bin/python                            the interpreter
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
demo=${1:-runs/demo}
python=${PPR_DIST_PYTHON:-.venv/bin/python}
torchrun=("${python%/*}/torchrun")
[ -x "${torchrun[0]}" ] || torchrun=("$python" -m torch.distributed.run)
read -ra methods <<<"${METHODS:-fine-tune ppr-light ppr-full}"
read -ra flags <<<"${FLAGS:-}"
export OMP_NUM_THREADS=1

step() { echo; echo "--- $*"; "$@"; }
trained() {
    step "${torchrun[@]}" --standalone --nproc-per-node "${RANKS:-2}" -m "$@" ${flags[@]+"${flags[@]}"}
}

if [ -e "$demo" ] && [ ! -e "$demo/.demo" ]; then echo "launch/demo.sh: error: $demo is there and is no demo" >&2; exit 2; fi
rm -rf "$demo"
mkdir -p "$demo"
touch "$demo/.demo"

step "$python" -m ppr_dist.data.synthetic --out "$demo/log" --users 12000 --items 5000 --follow 0.25 --stay 0.1
step "$python" -m ppr_dist.prepare --interactions "$demo/log/interactions.parquet" --users "$demo/log/users.parquet" \
    --out "$demo/data" --buckets.age 6 --tune-validation-fraction 0.1 \
    --users-per-member 256 --members-per-shard 4
trained ppr_dist.pretrain --config configs/demo/pretrain.yaml --data "$demo/data" --run-dir "$demo/pre-train"
for method in "${methods[@]}"; do
    case $method in
        ppr-light) config=configs/demo/tune.yaml ;;
        ppr-full | fine-tune) config=configs/demo/tune-full.yaml ;;
        *) config=configs/demo/tune-$method.yaml ;;
    esac
    trained ppr_dist.tune --config "$config" --data "$demo/data" --init "$demo/pre-train" --method "$method" \
        --run-dir "$demo/$method"
done
step "$python" -m ppr_dist.evaluate --run-dir "$demo/pre-train" --task few-shot zero-shot joint --baseline popularity
for run in pre-train "${methods[@]}"; do
    step "$python" -m ppr_dist.evaluate --run-dir "$demo/$run" --task few-shot zero-shot joint
done
served=${methods[0]}
[[ " ${methods[*]} " == *" ppr-light "* ]] && served=ppr-light
step "$python" -m ppr_dist.recommend --run-dir "$demo/$served" --users "$demo/log/users.parquet" \
    --interactions "$demo/log/interactions.parquet" --k 10 --out "$demo/recommendations"
step "$python" -m ppr_dist.report --runs "$demo/pre-train" "${methods[@]/#/$demo/}" --out "$demo" --html "$demo/report.html"
