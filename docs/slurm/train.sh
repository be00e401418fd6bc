#!/bin/bash
# Train one model on several nodes: sbatch train.sh CONFIG OUTPUT
#
# OUTPUT is the folder that CONFIG names (output:). The job ends before its time is up, saves, and
# is put into the queue again until the training is finished; a node that is lost is done without.
#SBATCH --job-name=anisole-train
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
set -u
config=${1:?usage: sbatch train.sh CONFIG OUTPUT}
output=${2:?usage: sbatch train.sh CONFIG OUTPUT}
processes=${PROCESSES:-4} # on each node; with GPUs one for each of them

export OMP_NUM_THREADS=$((${SLURM_CPUS_PER_TASK:-processes} / processes))
# let torchrun go on with other nodes than it began with, and wait for a step to end
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=120

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --no-kill --kill-on-bad-exit=0 torchrun \
    --nnodes="1:$SLURM_JOB_NUM_NODES" --nproc-per-node="$processes" --max-restarts=10 \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-endpoint="$first:$((20000 + SLURM_JOB_ID % 20000))" \
    -m gnn train "$config" --go-on &
step=$!
# srun hands the signal to every torchrun, and these to their processes
trap 'kill -TERM "$step"' USR1 TERM
wait "$step"
status=$?
while kill -0 "$step" 2>/dev/null; do # the trap has ended the wait, not the step
    wait "$step"
    status=$?
done

if [ -e "$output/unfinished" ]; then
    echo "not finished ($(cat "$output/unfinished")): once more"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$status"
