#!/bin/sh
# Accuracy, on a server: predictions, accuracy of each group, SPD, fairness.
#
#   sh run_accuracy.sh DATA_DIR [OUTPUT_DIR]
#
# DATA_DIR    DATA_DIR/<group>/<class>/*.jpg; without labels DATA_DIR/<group>/*.jpg or DATA_DIR/*.jpg (predictions alone)
# OUTPUT_DIR  for predictions.csv and results.json (output beside this file; a new temporary folder where it is read-only)
set -eu
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: sh run_accuracy.sh DATA_DIR [OUTPUT_DIR]" >&2
    exit 2
fi
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/code/environment.sh"
output=$(output_folder "${2:-}")
echo "Writing to $output" >&2
exec "$python" -I -m export.submission accuracy -m "$here/model/model.onnx" -o "$output" \
    --profile @profile@ --reference @reference@ -- "$1"
