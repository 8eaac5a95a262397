#!/bin/bash
# A sweep by eight workers, each a job of an array. Every node sees the sweep's folder and
# reaches the database.
#
#     sbatch examples/slurm/sweep.sh --config=configs/addition.py \
#         --space=configs/spaces/addition.py --workdir=runs/addition_sweep \
#         --storage=postgresql://USER@HOST/DATABASE
#
# Two minutes before its time limit (USR1) and when another job takes its place (TERM) a
# worker saves its run and ends with exit code 138 or 143. Its job then goes back into the
# queue, and takes up what is left. `scancel JOB` ends all of them for good, and the same
# sbatch goes on.
#SBATCH --job-name=sweep
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.out

# srun does not take the number of cores from sbatch.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    "${PYTHON:-.venv/bin/python}" -m experiments.sweep "$@"
code=$?

# One job's SLURM_JOB_ID is that of the whole array: requeued by it, all would come back.
# The script of a job that was cancelled may still run, but its job does not: it would
# come back too. One that ends so a hundred times gets nowhere.
job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
if [[ $code == 138 || $code == 143 ]] &&
    [[ $(squeue --noheader --format=%T --jobs="$job") == RUNNING ]] &&
    ((${SLURM_RESTART_COUNT:-0} < 100)); then
    scontrol requeue "$job"
fi
exit $code
