#!/bin/sh
# Sets the variables of a rank from those of a SLURM task, and runs a program:
#
#     srun --kill-on-bad-exit=1 slurm/rank.sh python launch/train.py --ds_config ds_configs/zero2.json
#
# One task per device, and every task sees all devices of its node (--gpus-per-node, not --gpus-per-task): LOCAL_RANK picks
# one. The ranks meet on the first node of the list; MASTER_ADDR or MASTER_PORT in the environment win.
set -u

# SLURM_STEP_TASKS_PER_NODE says 2(x3),1 where three nodes have two tasks and the fourth has one.
node=$SLURM_NODEID
for entry in $(echo "$SLURM_STEP_TASKS_PER_NODE" | tr , ' '); do
    tasks=${entry%%(*}
    case $entry in
        *x*) nodes=${entry##*x} nodes=${nodes%)} ;;
        *) nodes=1 ;;
    esac
    [ "$node" -lt "$nodes" ] && break
    node=$((node - nodes))
done

export RANK="$SLURM_PROCID" WORLD_SIZE="$SLURM_STEP_NUM_TASKS" LOCAL_RANK="$SLURM_LOCALID"
export LOCAL_SIZE="$tasks" LOCAL_WORLD_SIZE="$tasks"
export MASTER_ADDR="${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_STEP_NODELIST" | head -n 1)}"
# A port below those of outgoing connections.
export MASTER_PORT="${MASTER_PORT:-$((10000 + SLURM_JOB_ID % 20000))}"

# Signals reach this shell and the program. The shell waits until the program has handled them.
ended=no
trap 'ended=yes' TERM
trap : USR1
"$@"
code=$?
# srun returns the highest code of all ranks. That must be the code of the rank that failed, not of ranks ended afterwards.
[ "$ended$code" = yes143 ] && exit 1
exit "$code"
