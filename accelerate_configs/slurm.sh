#!/usr/bin/env bash
# Several machines under Slurm, FSDP2 over all their GPUs: sbatch accelerate_configs/slurm.sh recipe=wordnet_alpha2
# Run it where the project is, on a file system that all machines see. Checkpoints: requeue it with resume=auto.
#SBATCH --job-name=stoical
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120  # two minutes before the end: finish the step, save, exit with 143
set -euo pipefail

GPUS_PER_NODE=8
export MAIN_NODE OMP_NUM_THREADS=4 TOKENIZERS_PARALLELISM=false
MAIN_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)

# One launcher a machine; it starts one process a GPU. SLURM_NODEID is each machine's own, so srun must not expand it here.
# shellcheck disable=SC2016
srun bash -c '
  accelerate launch --config_file accelerate_configs/multi_node.yaml \
    --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" --num_processes "$1" \
    --main_process_ip "$MAIN_NODE" --main_process_port 29500 \
    train.py "${@:2}"
' launch "$((SLURM_NNODES * GPUS_PER_NODE))" "$@"
