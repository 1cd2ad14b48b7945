#!/bin/sh
# Completes constraints/py<version>-<machine>.txt: sh tools/lock.sh TORCH_VERSION [FLAGS OF uv pip compile]
#
# Needs uv: pip install uv. Versions that are there stay where they fit; --upgrade takes newer ones. One file for each
# Python and machine, because no single set of versions has wheels for all of them.
set -eu
torch=$1
shift
for file in constraints/py*-*.txt; do
    target=$(basename "$file" .txt)
    machine=${target#*-} python=${target%-*}
    python=3.${python#py3}
    echo "torch==$torch" | uv --config-file constraints/uv.toml pip compile -q --no-header --no-annotate \
        --python-version "$python" --python-platform "$machine-manylinux_2_28" \
        --extra export --extra report --extra baseline --extra dev "$@" -o "$file" setup.cfg - > /dev/null
    sed -i "1i # Python $python, Linux $machine. Written by \`make lock\`." "$file"
    echo "$file"
done
