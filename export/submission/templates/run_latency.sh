#!/bin/sh
# Latency, on the Raspberry Pi: the state of the device, seconds per 100 images from file path to label, and the score.
#
#   sh run_latency.sh IMAGE_DIR [OUTPUT_DIR]
#
# IMAGE_DIR   images at any depth; @images@ are drawn, timed @runs@ times after a warm-up
# OUTPUT_DIR  for device.txt and latency.json (output beside this file; a new temporary folder where it is read-only)
set -eu
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: sh run_latency.sh IMAGE_DIR [OUTPUT_DIR]" >&2
    exit 2
fi
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/code/environment.sh"
output=$(output_folder "${2:-}")
echo "Writing to $output" >&2
"$python" -I -m edge --check -m "$here/model/model.onnx" > "$output/device.txt"
cat -- "$output/device.txt"
exec "$python" -I -m bench latency -r -m "$here/model/model.onnx" --count @images@ --runs @runs@ --no-cold-start \
    -o "$output/latency.json" --force -- "$1"
