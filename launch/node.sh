#!/usr/bin/env bash
# One torchrun launcher on each node of a Slurm job, for launch/*.sbatch:
#   launch/node.sh MODULE [ARGUMENT …]
#
# The launchers meet (c10d rendezvous) on the job's first node. On SIGTERM from Slurm, which is what the batch scripts ask
# for shortly before the time limit and what preemption sends, the ranks are ended and the job is put back in the queue;
# a job that is being cancelled is left to end.
#
#   NPROC_PER_NODE  ranks on each node                     (default: the GPUs that Slurm gave the node)
#   TORCHRUN        the launcher, the same on all nodes    (default: .venv/bin/python launch/torchrun.py)
#   RDZV_PORT       port of the rendezvous                 (default: by the job's number, 10000 to 29999)
set -euo pipefail

die() { echo "launch/node.sh: error: $*" >&2; exit 2; }
state() { squeue --noheader --jobs "$SLURM_JOB_ID" --format %T 2>/dev/null || true; }

[ -n "${SLURM_JOB_ID:-}" ] || die "not in a Slurm job; submit launch/pretrain.sbatch or launch/tune.sbatch"
ranks=${NPROC_PER_NODE:-${SLURM_GPUS_ON_NODE:-0}}
[ "$ranks" != 0 ] || die "Slurm gave no GPU: submit with --gpus-per-node, or set NPROC_PER_NODE"
torchrun=(.venv/bin/python launch/torchrun.py)
if [ -n "${TORCHRUN:-}" ]; then torchrun=("$TORCHRUN"); fi
[ -x "${torchrun[0]}" ] || die "${torchrun[0]} is not there in $PWD: run 'make env', or set TORCHRUN"

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=${RDZV_PORT:-$((10000 + SLURM_JOB_ID % 20000))}
start=${SLURM_RESTART_COUNT:-0}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1

echo "launch: job $SLURM_JOB_ID, start $((start + 1)): $SLURM_JOB_NUM_NODES node(s) x $ranks rank(s), meeting on $first:$port"
# Job steps do not inherit the job's processors: without --cpus-per-task a launcher and its ranks share one.
srun --nodes "$SLURM_JOB_NUM_NODES" --ntasks "$SLURM_JOB_NUM_NODES" --ntasks-per-node 1 \
    --cpus-per-task "${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" --kill-on-bad-exit=1 \
    "${torchrun[@]}" --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$ranks" \
    --rdzv-backend c10d --rdzv-endpoint "$first:$port" --rdzv-id "$SLURM_JOB_ID-$start" \
    -m "$@" &
step=$!

requeue() {
    trap '' TERM
    if [ "$(state)" = RUNNING ]; then
        echo "launch: SIGTERM; job $SLURM_JOB_ID goes back to the queue and will go on from its last checkpoint"
        kill -TERM "$step" 2>/dev/null || true
        wait "$step" || true
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit 143
}
trap requeue TERM
wait "$step"
