#!/bin/sh
# From pictures to predictions in a few minutes, in build/route: sh tools/route.sh DATA [FLAGS OF edge-train fit]
set -eu
data=$1 bin=$PWD/.venv/bin out=$PWD/build/route
shift
set -x
rm -rf "$out"
mkdir -p "$out"
"$bin/edge-train" folds "$data" -o "$out/folds.csv"
"$bin/edge-train" fit "$data" --folds "$out/folds.csv" --hold-out 0 -o "$out/run" "$@"
held_out=$out/run/heldout.txt
"$bin/edge-export" onnx "$out/run" -o "$out/model.onnx"
"$bin/edge-export" int8 "$out/model.onnx" --calibrate "$data" --held-out "$held_out" -o "$out/model.int8.onnx"
"$bin/edge-export" verify "$out/run" "$out/model.onnx" --data "$data" --held-out "$held_out"
"$bin/edge-export" verify "$out/model.onnx" "$out/model.int8.onnx" --data "$data" --held-out "$held_out"
"$bin/edge-infer" --root "$data" "@$held_out" -m "$out/model.int8.onnx" -o "$out/predictions.csv"
"$bin/edge-bench" score "$out/predictions.csv" --data "$data" --subset
