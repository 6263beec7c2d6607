# shellcheck shell=sh
# What the batch scripts here have in common. They read it with `.` and call:
#
#   name_run ARGUMENT...   RUN becomes the run directory: the last output_dir=... of a command line, otherwise
#                          runs/<job name>-<job id>, which is the same after a requeue
#   launch COMMAND...      runs a job step to its end, tells its ranks to save when the job is told to stop, and ends the
#                          job with the step's exit code or puts it back into the queue
#   work COMMAND...        the same of a command that starts job steps itself, and tells their ranks what it is told

# One task of an array has the number of the whole array, and to that all of them would listen.
this_job=${SLURM_ARRAY_TASK_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
this_job=${this_job:-$SLURM_JOB_ID}

name_run() {
    RUN="runs/$SLURM_JOB_NAME-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    for argument in "$@"; do
        case $argument in output_dir=*) RUN=${argument#output_dir=} ;; esac
    done
}

launch() {
    before=$(left_word)
    tell() { scancel --signal=TERM "$this_job" 2>/dev/null; }
    can_go_on() {
        # Refused (2), diverged (3), or displaced (4): what lies there is another job's word, or of an earlier life.
        case $code in 2 | 3 | 4) return 1 ;; esac
        left=$(left_word)
        # A run that came to its end has taken the word of its earlier life away.
        [ -n "$left" ] && [ "$left" != "$before" ] || return 1
        writer=$(sed -n 's/.*"slurm_job_id": "\([^"]*\)".*/\1/p' "$RUN/interrupted.json")
        [ "${writer:-$SLURM_JOB_ID}" = "$SLURM_JOB_ID" ]
    }
    see_through "$@"
}

# What a run that was told to stop has left in its directory. It is not deleted here: it may be another job's.
left_word() {
    [ ! -e "$RUN/interrupted.json" ] || { echo there && cat "$RUN/interrupted.json"; }
}

work() {
    tell() { kill -TERM $!; }
    can_go_on() { [ $code = 75 ]; }
    see_through "$@"
}

see_through() {
    told=no
    # USR1 comes before the time limit (--signal), TERM at it, and instead of it where a site sends nothing else.
    trap 'told=yes; tell' USR1 TERM
    # In the foreground it would keep the shell from its traps; a trap ends `wait` early.
    "$@" &
    while kill -0 $! 2>/dev/null; do wait $!; done
    wait $!
    code=$?

    if ! can_go_on; then
        # To start it again would end the same way, and for ever.
        [ $told$code = yes0 ] || [ $told = no ] || echo "told to stop before there was anything to save: allow more --time" >&2
        exit $code
    fi
    # A job that was cancelled is to stay so.
    case $(scontrol show job "$this_job") in
        *JobState=RUNNING* | *Reason=TimeLimit*)
            scontrol requeue "$this_job" || echo "not requeued: submit it again${RUN:+ with output_dir=$RUN} to continue" >&2 ;;
    esac
    exit 75
}
