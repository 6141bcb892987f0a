#!/bin/bash
#SBATCH --job-name=coca
#SBATCH --array=0-15
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --output=coca-%A-%a.log

# Run a command of coca on 16 machines, each with its shard of the inputs, in a folder that all of them see:
#
#   sbatch examples/cluster/slurm.sh caption videos/ -o out.jsonl
#   coca merge out-*.jsonl -o out.jsonl
#
# Both can be given again: shards resume where they stopped. If coca merge names some that are incomplete:
#
#   sbatch --array=3,7 examples/cluster/slurm.sh caption videos/ -o out.jsonl

shards=16 # as many as --array above has, which counts from 0

exec coca "$@" --shard "auto/$shards"
