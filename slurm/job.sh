# shellcheck shell=sh
# Functions of the batch scripts, which read this file with `.`:
#
#   name_run ARGUMENT...   sets RUN to the run directory: the last output_dir=... among the arguments, otherwise
#                          runs/<job name>-<job id>, which is the same after a requeue
#   launch COMMAND...      runs a job step. If the job is told to stop, its ranks are told to save. Then requeues the job, or
#                          ends it with the step's exit code
#   work COMMAND...        the same for a command that starts job steps itself and passes the signal on to their ranks

# The job id of an array's task may be that of the whole array, so a task is named with both numbers.
this_job=${SLURM_ARRAY_TASK_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
this_job=${this_job:-$SLURM_JOB_ID}

name_run() {
    RUN="runs/$SLURM_JOB_NAME-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    for argument in "$@"; do
        case $argument in output_dir=*) RUN=${argument#output_dir=} ;; esac
    done
}

launch() {
    before=$(interruption)
    pass_on() { scancel --signal=TERM "$this_job" 2>/dev/null; }
    can_continue() {
        # Refused (2), diverged (3) or displaced (4): an interrupted.json is from another job or an earlier start.
        case $code in 2 | 3 | 4) return 1 ;; esac
        now=$(interruption)
        # A run that has finished has deleted the file of its earlier start.
        [ -n "$now" ] && [ "$now" != "$before" ] || return 1
        writer=$(sed -n 's/.*"slurm_job_id": "\([^"]*\)".*/\1/p' "$RUN/interrupted.json")
        [ "${writer:-$SLURM_JOB_ID}" = "$SLURM_JOB_ID" ]
    }
    run_to_its_end "$@"
}

# The file that a run writes when it was told to stop. It is not deleted here, since it may be another job's.
interruption() {
    [ ! -e "$RUN/interrupted.json" ] || { echo there && cat "$RUN/interrupted.json"; }
}

work() {
    pass_on() { kill -TERM $!; }
    can_continue() { [ $code = 75 ]; }
    run_to_its_end "$@"
}

run_to_its_end() {
    told=no
    # USR1 comes before the time limit (--signal), TERM at the limit. Some sites send only TERM.
    trap 'told=yes; pass_on' USR1 TERM
    # A command in the foreground would delay the traps; they end `wait` early.
    "$@" &
    while kill -0 $! 2>/dev/null; do wait $!; done
    wait $!
    code=$?

    if ! can_continue; then
        # A requeued job would end in the same way again and again.
        [ $told$code = yes0 ] || [ $told = no ] || echo "told to stop before there was anything to save: allow more --time" >&2
        exit $code
    fi
    # A cancelled job is not requeued.
    case $(scontrol show job "$this_job") in
        *JobState=RUNNING* | *Reason=TimeLimit*)
            scontrol requeue "$this_job" || echo "not requeued: submit it again${RUN:+ with output_dir=$RUN} to continue" >&2 ;;
    esac
    exit 75
}
