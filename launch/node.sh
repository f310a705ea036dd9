#!/usr/bin/env bash
# One torchrun on each node of a Slurm job, for launch/*.sbatch:
#   launch/node.sh MODULE [ARGUMENT …]
#
# The launchers meet (c10d rendezvous) on the job's first node. On SIGTERM or SIGUSR1, which the batch scripts ask for
# shortly before the time limit, the ranks finish their step, save and leave RUN/preempted, and the job goes back to the
# queue. A job that fails or is being cancelled does not.
#
#   RUN             the run's folder; without it nothing is put back to the queue
#   NPROC_PER_NODE  ranks on each node                     (default: the GPUs that Slurm gave the node)
#   TORCHRUN        the launcher, the same on all nodes    (default: .venv/bin/torchrun)
#   RDZV_PORT       port of the rendezvous                 (default: by the job's number, 10000 to 29999)
#   MAX_RESTARTS    restarts by torchrun after a rank's failure, in the same job      (default: 0)
#   SAVE_SECONDS    what ranks are given to save before they are killed               (default: 100)
#   LOG_DIR         logs of each rank: LOG_DIR/NODE/…/LOCAL_RANK/std{out,err}.log (default: JOBNAME-JOB.ranks)
set -euo pipefail

die() { echo "launch/node.sh: error: $*" >&2; exit 2; }
# A job is SIGNALING while Slurm hands it the signal that it asked for.
running() { case $(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T 2>/dev/null) in RUNNING | SIGNALING) ;; *) false ;; esac; }
# What the run has come to: its notice of a preemption, its last checkpoint.
stands() { cat "$RUN/preempted" 2>/dev/null; ls "$RUN/checkpoints" 2>/dev/null | tail -n 1; }

[ -n "${SLURM_JOB_ID:-}" ] || die "not in a Slurm job; submit launch/pretrain.sbatch or launch/tune.sbatch"
ranks=${NPROC_PER_NODE:-${SLURM_GPUS_ON_NODE:-0}}
[ "$ranks" != 0 ] || die "Slurm gave no GPU: submit with --gpus-per-node, or set NPROC_PER_NODE"
torchrun=${TORCHRUN:-.venv/bin/torchrun}
[ -x "$torchrun" ] || die "$torchrun is not there in $PWD: run 'make env', or set TORCHRUN"

start=${SLURM_RESTART_COUNT:-0}
if [ "$SLURM_JOB_NUM_NODES" = 1 ]; then
    meet=(--standalone)
else
    first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    endpoint=$first:${RDZV_PORT:-$((10000 + SLURM_JOB_ID % 20000))}
    meet=(--rdzv-backend c10d --rdzv-endpoint "$endpoint" --rdzv-id "$SLURM_JOB_ID-$start")
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1
export LOG_DIR=${LOG_DIR:-$SLURM_JOB_NAME-$SLURM_JOB_ID.ranks}
# Without it restarts by torchrun fail from the second on: ranks find the addresses of the ones before (torch 2.13).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
RUN=${RUN:-}
before=$(stands || true)

echo "launch: job $SLURM_JOB_ID, start $((start + 1)): $SLURM_JOB_NUM_NODES node(s) x $ranks rank(s)${endpoint:+, meeting on $endpoint}"
# Job steps do not inherit the job's processors: without --cpus-per-task a launcher and its ranks share one.
# SIGUSR1 would kill torchrun and leave its ranks behind if it were not told to hand it on.
# shellcheck disable=SC2016 # each node puts in its own name
srun --nodes "$SLURM_JOB_NUM_NODES" --ntasks "$SLURM_JOB_NUM_NODES" --ntasks-per-node 1 \
    --cpus-per-task "${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" --kill-on-bad-exit=1 \
    bash -c 'exec "$0" --log-dir "$LOG_DIR/$SLURMD_NODENAME" "$@"' "$torchrun" --tee 3 \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$ranks" "${meet[@]}" --max-restarts "${MAX_RESTARTS:-0}" \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout "${SAVE_SECONDS:-100}" \
    -m "$@" &
step=$!

signalled=
stop() {
    trap '' TERM USR1
    signalled=yes
    # Cancelled or requeued by someone: Slurm has told the ranks itself.
    running || return 0
    echo "launch: told to stop; the ranks of job $SLURM_JOB_ID save"
    kill -USR1 "$step" || true # srun hands it on to all processes; at SIGTERM it would kill them
}
trap stop TERM USR1
status=0
wait "$step" || status=$?
# A trap ends a wait before its time.
if [ -n "$signalled" ]; then
    status=0
    wait "$step" || status=$?
fi
trap '' TERM USR1

# Not where nothing was saved since this start: such a job would never get on. A node that is gone is Slurm's to notice;
# srun waits until it does, and --requeue puts the job back.
if [ "$status" != 0 ] && [ -n "$RUN" ] && [ "$(stands || true)" != "$before" ] &&
    { [ -n "$signalled" ] || [ -e "$RUN/preempted" ]; } && running; then
    echo "launch: job $SLURM_JOB_ID goes back to the queue and will go on from its last checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
