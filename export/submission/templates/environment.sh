# Sourced by the execution files, with `here` the folder of this submission: sets `python` to an environment that holds
# what is packed here, made on the first call. Nothing outside that environment is changed.
#
# FAIREDGE_PYTHON  a Python that has all of it already: no environment is made
# PYTHON           the interpreter to make it with (else the first fitting of python3.11, 3.13, 3.12, python3)
# FAIREDGE_VENV    where it lies (else .venv beside the README, or in the cache of the user where that is read-only)

unset PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV
export PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
machine=$(uname -m)

fail() {
    printf '%s: %s\n' "$(basename -- "$0")" "$1" >&2
    exit 5
}

# The first of the folders named that is there, or can be made, and can be written into.
place() {
    for folder do
        if mkdir -p -- "$folder" 2>/dev/null && [ -w "$folder" ]; then
            printf '%s\n' "$folder"
            return
        fi
    done
    mktemp -d
}

# Where results go: the folder asked for as $1, else one that can be written.
output_folder() {
    if [ -z "$1" ]; then
        place "$here/output"
    elif mkdir -p -- "$1" && [ -w "$1" ]; then
        printf '%s\n' "$1"
    else
        fail "$1: cannot be written"
    fi
}

# Whether the wheels for Python $1 on this machine are packed here.
has_wheels() {
    for wheel in "$here/wheels/numpy-"*-cp"$(printf %s "$1" | tr -d .)"-*_"$machine".whl; do
        [ -f "$wheel" ] && return
    done
    return 1
}

find_python() {
    probe='import sys, ensurepip, venv
version = sys.version_info[:2]
sys.exit(not (3, 11) <= version <= (3, 13) or sys.maxsize <= 2**32 or print("%d.%d" % version))'
    python=
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3.11 python3.13 python3.12 python3
    fi
    for candidate do
        found=$("$candidate" -c "$probe" 2>/dev/null) || continue
        if [ -z "$python" ] || has_wheels "$found"; then
            python=$candidate
            version=$found
        fi
        if has_wheels "$found"; then
            break
        fi
    done
    [ -n "$python" ] || fail "no 64-bit Python 3.11 to 3.13 with venv: sudo apt install python3-venv, or PYTHON=FILE"
}

install() {
    requirements=$here/requirements-$machine.txt
    [ -f "$requirements" ] || fail "nothing is packed for a $machine processor, expected x86_64 or aarch64"
    if has_wheels "$version"; then
        set -- --no-index --find-links "$here/wheels"
    else
        set --
    fi
    "$venv/bin/python" -m pip install -q "$@" -r "$requirements" "$here/code/fairedge-"*.whl >&2 && return
    if [ $# -gt 0 ]; then
        fail "the packed wheels do not install: pip says why above"
    fi
    fail "no packed wheels for Python $version on $machine, and no package index. On such a machine with a network, in \
this folder: python$version -m pip download --only-binary=:all: -r requirements-$machine.txt -d wheels"
}

make_environment() {
    find_python
    key=$(cat "$here/code/fairedge-"*.whl "$here/requirements-"*.txt | cksum | tr ' ' -)-py$version-$machine
    venv=${FAIREDGE_VENV:-$(place "$here/.venv" "${HOME:-$here}/.cache/fairedge-submission/$key")}
    if [ "$(cat "$venv/complete" 2>/dev/null)" != "$key" ]; then
        # Two first calls at once: the second waits, and finds what the first has made.
        if mkdir -p -- "$venv" 2>/dev/null && command -v flock >/dev/null; then
            exec 9<"$venv"
            flock 9
        fi
    fi
    if [ "$(cat "$venv/complete" 2>/dev/null)" != "$key" ]; then
        if [ -d "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
            fail "$venv: holds other things, expected an empty folder, or none, for the environment"
        fi
        echo "Making an environment with Python $version in $venv (once)" >&2
        "$python" -m venv --clear "$venv" || fail "$venv: no environment can be made there"
        install
        printf '%s\n' "$key" > "$venv/complete"
    fi
    exec 9<&-
    python=$venv/bin/python
}

if [ -n "${FAIREDGE_PYTHON:-}" ]; then
    python=$FAIREDGE_PYTHON
else
    make_environment
fi
