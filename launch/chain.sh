#!/usr/bin/env bash
# The whole way under Slurm by one command: prepare, pre-train, tune by each method, evaluate, each job once the one
# before it has succeeded. Where one fails, those that wait for it are cancelled.
#   INTERACTIONS=… USERS=… DATA=… RUN=… launch/chain.sh [sbatch's options: --nodes 2 --partition gpu …]
#
#   DATA            prepared data; made from INTERACTIONS (and USERS), or there already where INTERACTIONS is not set
#   RUN             the pre-trained run; tuned ones are RUN-METHOD
#   METHODS         methods to tune by, in words                                          (default: ppr-light)
#   PREPARE_FLAGS, PRETRAIN_FLAGS, TUNE_FLAGS, EVALUATE_FLAGS   more options of each command, in words
#   PRETRAIN_CONFIG, TUNE_CONFIG                                CONFIG of each
# Also what launch/node.sh reads.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for name in DATA RUN; do
    [ -n "${!name:-}" ] || { echo "launch/chain.sh: error: $name is not set (DATA=… RUN=… launch/chain.sh …)" >&2; exit 2; }
done
pretrained=$RUN
options=("$@")

# submit AFTER SCRIPT [ARGUMENT …]: prints the job's number.
submit() {
    local after=$1 job
    shift
    job=$(sbatch --parsable ${after:+--dependency=afterok:$after} --kill-on-invalid-dep=yes \
        ${options[@]+"${options[@]}"} "$@")
    echo "${job%%;*}"
}
say() { echo "launch: job $1: $2"; }

after=
if [ -n "${INTERACTIONS:-}" ]; then
    read -ra flags <<<"${PREPARE_FLAGS:-}"
    after=$(options+=(--nodes 1) && submit "" launch/prepare.sbatch ${flags[@]+"${flags[@]}"})
    say "$after" "prepare $DATA"
fi
read -ra flags <<<"${PRETRAIN_FLAGS:-}"
after=$(CONFIG=${PRETRAIN_CONFIG:-} submit "$after" launch/pretrain.sbatch ${flags[@]+"${flags[@]}"})
say "$after" "pre-train $pretrained"
read -ra tuning <<<"${TUNE_FLAGS:-}"
read -ra evaluation <<<"${EVALUATE_FLAGS:-}"
for method in ${METHODS:-ppr-light}; do
    tuned=$(CONFIG=${TUNE_CONFIG:-} INIT=$pretrained RUN=$pretrained-$method METHOD=$method \
        submit "$after" launch/tune.sbatch ${tuning[@]+"${tuning[@]}"})
    say "$tuned" "tune $pretrained-$method"
    last=$(RUN=$pretrained-$method submit "$tuned" launch/evaluate.sbatch ${evaluation[@]+"${evaluation[@]}"})
    say "$last" "evaluate $pretrained-$method"
done
