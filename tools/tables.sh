#!/bin/sh
# The tables of research/results anew from the predictions there: sh tools/tables.sh PYTHON
# Report pages of the same predictions, in build/results:         sh tools/tables.sh PYTHON pages
set -eu
for protocol in research/results/*/protocol.json; do
    folder=$(dirname -- "$protocol")
    if [ "${2:-tables}" = pages ]; then
        out=build/results/$(basename -- "$folder")
        rm -rf "$out"
        "$1" -m research tables "$folder" --results "$out" > /dev/null
        "$1" -m bench report "$out"/*.json -o "$out/page"
        echo "$out/page/index.html"
    else
        "$1" -m research tables "$folder" -o "$folder/tables.md" --force
        echo "$folder/tables.md"
    fi
done
