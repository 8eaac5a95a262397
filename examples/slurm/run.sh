#!/bin/bash
# One run on two nodes, a process on each. Every node sees the folder of the run.
#
#     sbatch examples/slurm/run.sh --config=configs/ptb_char.py --workdir=runs/chars
#
# Two minutes before its time limit (USR1) and when another job takes its place (TERM)
# the run saves and ends with exit code 138 or 143. Its job then goes back into the queue,
# and the run goes on from where it was. `scancel JOB` ends it for good;
# `scancel --signal=USR1 JOB` saves and puts it back.
#SBATCH --job-name=run
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

# srun does not take the number of cores from sbatch.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    "${PYTHON:-.venv/bin/python}" -m experiments.run "$@"
code=$?

# The script of a job that was cancelled may still run, but its job does not: requeued, it
# would come back. One that ends so a hundred times gets nowhere.
if [[ $code == 138 || $code == 143 ]] &&
    [[ $(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID") == RUNNING ]] &&
    ((${SLURM_RESTART_COUNT:-0} < 100)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
