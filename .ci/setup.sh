#!/usr/bin/env bash
# Makes the environment that `make demo`, `make test` and `make lint` run in.
#
#   setup.sh            make it; returns at once where there is nothing to do
#   setup.sh --prefix   only say where it is
#
# In an activated conda environment that has DIALS it is that environment. Elsewhere it is .venv
# over the DIALS of Debian, which apt installs first where it is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What apt must have installed. g++ and python3-dev are torch.compile's; numpy and its kin come
# with dials and are named because pip must never bring a second copy of them.
DEBIAN_PACKAGES=(dials python3-venv python3-dev g++ ca-certificates
    python3-h5py python3-matplotlib python3-numpy python3-scipy python3-tqdm python3-pkg-resources)
# A second copy of one of these in .venv breaks DIALS (two HDF5 libraries, another ABI).
NEVER_FROM_PIP='h5py|numpy|scipy|matplotlib|tqdm|dxtbx|dials|cctbx|cctbx-base'

has_dials() {
    "$1" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("dials") and u.find_spec("dxtbx")))' \
        2>/dev/null
}

if [[ -n ${CONDA_PREFIX:-} ]] && has_dials "$CONDA_PREFIX/bin/python"; then
    kind=conda prefix=$CONDA_PREFIX
else
    kind=venv prefix=$PWD/.venv
fi
python=$prefix/bin/python
stamp=$prefix/nanobragg-setup.stamp

fail() {
    echo "setup: $*" >&2
    exit 1
}

# Everything the result depends on: when this text is the stamp's, there is nothing to do.
fingerprint() {
    echo "$PWD $TORCH_VERSION"
    cat setup.cfg pyproject.toml Makefile .ci/setup.sh .ci/commands.py | cksum
}

install_debian_packages() {
    local name missing=() as_root=()
    command -v apt-get >/dev/null || fail "this is neither a Debian (no apt-get) nor an activated" \
        "conda environment with DIALS: run 'conda create -n dials -c conda-forge dials'," \
        "activate it, and call make again."
    for name in "${DEBIAN_PACKAGES[@]}"; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null) == installed ]] ||
            missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    if ((EUID)); then
        command -v sudo >/dev/null || fail "these Debian packages are missing: ${missing[*]}." \
            "Install them as root (no sudo here), and call make again."
        as_root=(sudo)
    fi
    echo "setup: apt installs ${missing[*]}"
    "${as_root[@]}" apt-get update
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "${missing[@]}"
}

make_venv() {
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        /usr/bin/python3 -m venv --clear --system-site-packages .venv
    fi
    # cctbx looks for the record of its build in lib/cctbx of sys.prefix, which is .venv, unless
    # LIBTBX_BUILD is set. (Linking lib/python3 as well would let pip see Debian's packages in .venv.)
    ln -sfn /usr/lib/cctbx .venv/lib/cctbx
}

pip() {
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$python" -m pip "$@"
}

install_python_packages() {
    # torch first and by its exact version: the package's range then asks pip for nothing.
    if [[ $kind == venv ]]; then
        pip install "torch==$TORCH_VERSION" 'setuptools>=77'
        pip install --no-build-isolation -e '.[test,lint]'
    else
        "$python" -c 'import torch' 2>/dev/null || pip install "torch==$TORCH_VERSION"
        pip install -e '.[test,lint]'
    fi
}

check() {
    local doubled
    if [[ $kind == venv ]]; then
        doubled=$(pip list --local --format=freeze | grep -iE "^($NEVER_FROM_PIP)==" || true)
        [[ -z $doubled ]] || fail "pip put a second copy over Debian's of:" $doubled \
            "- run 'make clean' and call make again; if it comes back, this is a fault of setup.cfg."
        "$python" .ci/commands.py "$prefix/bin"
    fi
    (cd / && "$python" -c 'import torch, dials, dxtbx, cctbx, nanobragg_plugin') ||
        fail "$python cannot import torch, dials, dxtbx, cctbx and nanobragg_plugin together."
}

if [[ ${1:-} == --prefix ]]; then
    echo "$prefix"
    exit
fi
: "${TORCH_VERSION:?is set in the Makefile: call this script through make}"
[[ -f $stamp && $(<"$stamp") == "$(fingerprint)" ]] && exit
if [[ $kind == venv ]]; then
    install_debian_packages
    make_venv
fi
install_python_packages
check
fingerprint >"$stamp"
echo "setup: done, the environment is $prefix"
