# shellcheck shell=sh
# What the batch scripts here have in common. They read it with `.` and call:
#
#   name_run ARGUMENT...   RUN becomes the run directory: the last output_dir=... of a command line, otherwise
#                          runs/<job name>-<job id>, which is the same after a requeue
#   launch COMMAND...      runs a job step to its end, tells its ranks to save when the job is told to stop, and ends the
#                          job with the step's exit code or puts it back into the queue

[ -f launch/train.py ] || { echo "submit this from the project's folder, where launch/ is" >&2; exit 2; }

name_run() {
    RUN="runs/$SLURM_JOB_NAME-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    for argument in "$@"; do
        case $argument in output_dir=*) RUN=${argument#output_dir=} ;; esac
    done
}

launch() {
    rm -f "$RUN/interrupted.json"
    told=no
    # USR1 comes before the time limit (--signal), TERM at it, and instead of it where a site sends nothing else.
    trap 'told=yes; scancel --signal=TERM "$SLURM_JOB_ID" 2>/dev/null' USR1 TERM
    # In the foreground it would keep the shell from its traps; a trap ends `wait` early.
    "$@" &
    while kill -0 $! 2>/dev/null; do wait $!; done
    wait $!
    code=$?

    if [ ! -e "$RUN/interrupted.json" ]; then
        # To start it again would end the same way, and for ever.
        [ $told$code = yes0 ] || [ $told = no ] || echo "told to stop before there was anything to save: allow more --time" >&2
        exit $code
    fi
    # A job that was cancelled is to stay so.
    case $(scontrol show job "$SLURM_JOB_ID") in
        *JobState=RUNNING* | *Reason=TimeLimit*)
            scontrol requeue "$SLURM_JOB_ID" || echo "not requeued: submit it again with output_dir=$RUN to continue" >&2 ;;
    esac
    exit 75
}
