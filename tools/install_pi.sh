#!/bin/sh
# The commands of this checkout in a virtual environment: sh tools/install_pi.sh PYTHON VENV [CONSTRAINTS]
#
# OFFLINE  a folder made by `make wheelhouse`: nothing is fetched
set -eu
python=$1 venv=$2 constraints=${3:-}
if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ]; then
    echo "$venv exists and is no virtual environment: choose another folder with VENV=" >&2
    exit 2
fi
echo "Installing into $venv (about 45 MB of packages)"
"$python" -m venv "$venv"
install() {
    "$venv/bin/python" -m pip install -q ${constraints:+-c "$constraints"} "$@"
}
if [ -z "${OFFLINE:-}" ]; then
    rm -rf build/lib build/bdist.*  # setuptools copies there and never deletes
    install .
else
    install --no-index --find-links "$OFFLINE" fairedge
    install --no-index --find-links "$OFFLINE" --no-deps --force-reinstall fairedge
fi
"$venv/bin/edge-infer" --check
echo "Run:   \"$venv/bin/edge-infer\" YOUR_PHOTOS -o predictions.csv"
echo "Short: . \"$venv/bin/activate\" once in a terminal, then edge-infer and edge-bench"
