#!/bin/bash
# Make or label frames on several nodes: sbatch generate.sh generate CO --name meoh --frames 1000
#                                        sbatch generate.sh label unknown.extxyz
#
# One task runs Dask's scheduler beside the command, the others are its workers. What is finished
# stays finished: the same line, given again, goes on.
#SBATCH --job-name=anisole-data
#SBATCH --ntasks=33
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=4G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
set -u
: "${1:?usage: sbatch generate.sh generate|label ARGUMENTS}"
file=$PWD/scheduler-$SLURM_JOB_ID.json
export OMP_NUM_THREADS=1

dask scheduler --scheduler-file "$file" --no-dashboard --port 0 &
scheduler=$!
trap 'kill "$scheduler"; rm -f "$file"' EXIT
until [ -s "$file" ]; do
    kill -0 "$scheduler" || exit 1
    sleep 1
done
srun --no-kill --kill-on-bad-exit=0 --ntasks=$((SLURM_NTASKS - 1)) \
    dask worker --scheduler-file "$file" --nworkers 1 --nthreads 1 --no-dashboard &

anisole data "$@" --scheduler "$file"
