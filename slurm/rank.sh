#!/bin/sh
# Tells a task of SLURM which rank it is, and runs a program as that:
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
# Below the ports that systems give to outgoing connections.
export MASTER_PORT="${MASTER_PORT:-$((10000 + SLURM_JOB_ID % 20000))}"

# Signals come to this shell and to the program; the shell waits for what the program makes of them.
ended=no
trap 'ended=yes' TERM
trap : USR1
"$@"
code=$?
# srun returns the highest code of all ranks: that of the one that failed, not of those that were ended because it had.
[ "$ended$code" = yes143 ] && exit 1
exit "$code"
