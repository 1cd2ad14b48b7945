#!/bin/sh
# What the contest asks for, packed and tried; `make submission` sets the variables.
#
# DATA trains first, RUN takes a run that is there, neither takes the bundled model. LICENSE_TEXT: of your weights.
set -eu
bin=.venv/bin
if [ -n "$DATA" ] && [ -n "$RUN" ]; then
    echo "make submission: got DATA and RUN, expected one of them: DATA trains, RUN is trained already" >&2
    exit 2
fi
if [ -n "$DATA$RUN" ] && [ "$LICENSE_TEXT" = unspecified ]; then
    echo 'make submission: got no LICENSE_TEXT, expected the licence of your weights, as LICENSE_TEXT="CC BY-NC 4.0"' >&2
    exit 2
fi
mkdir -p build "$(dirname -- "$SUBMISSION")"
run=${RUN:-build/submission-run}
if [ -n "$DATA" ]; then
    "$bin/edge-train" folds "$DATA" -o build/submission-folds.csv --force
    # Unquoted: several flags in one variable.
    "$bin/edge-train" fit "$DATA" --folds build/submission-folds.csv --hold-out 0 -o "$run" $FIT_ARGS
fi
set --
if [ -n "$DATA$RUN" ]; then
    "$bin/edge-export" onnx "$run" -o build/submission.onnx --license "$LICENSE_TEXT" --force
    set -- -m build/submission.onnx --checkpoint "$run"
fi
if [ -n "$DATA" ]; then
    "$bin/edge-export" verify "$run" build/submission.onnx --data "$DATA" --held-out "$run/heldout.txt"
fi
[ -z "$WHEELS" ] || set -- "$@" --wheels "$WHEELS"
"$bin/edge-submit" pack "$@" --team "$TEAM" -o "$SUBMISSION" --force
"$bin/edge-submit" check "$SUBMISSION" $CHECK_ARGS
