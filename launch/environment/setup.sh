#!/usr/bin/env bash
# Makes .venv with the locked packages and ppr_dist itself (editable). Says so and stops at once when it is current.
# A .venv that is out of date, or whose making was interrupted, is made again from nothing.
#
# Needs Python 3.11 or 3.12 on Linux; no compiler. Packages come from where pip is configured to look, except
# PyTorch's CPU build, for which PyTorch's own index is asked first (most others serve the CUDA build on Linux).
#
#   PYTHON=python3.12         the interpreter to use        (default: python3, else python3.12, else python3.11)
#   PPR_DIST_DEVICE=cpu|cuda  which lock to install         (default: cuda where nvidia-smi finds a GPU, else cpu)
#   PPR_DIST_TORCH_INDEX=URL  where to get the CPU PyTorch  (default: PyTorch's CPU index, then pip's own
#                             configuration; "pip": pip's configuration only)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=$root/.venv
log=$venv/setup.log

say() { echo "setup: $*"; }
die() { echo "setup: error: $*" >&2; exit 1; }
# Runs quietly; what was said goes to the log, and its end to the screen on failure.
quietly() { "$@" >>"$log" 2>&1 </dev/null || { grep -v '^WARNING' "$log" | tail -n 15 >&2; die "failed (all of it in $log): $*"; }; }
pip() { quietly "$venv/bin/python" -m pip --disable-pip-version-check --no-input install -q --no-compile "$@"; }
minor() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null; }
# The lock, this script, and the place: a .venv copied elsewhere still points to where it was made.
stamp() { echo "$venv/.stamp-$1-$( { cat "$here/common.txt" "$here/$1.txt" "$here/setup.sh"; echo "$root"; } | cksum | cut -d' ' -f1)"; }
current() {
    [ -e "$(stamp "$1")" ] && version=$(minor "$venv/bin/python") &&
        { [ -z "${PYTHON:-}" ] || [ "$(minor "$PYTHON")" = "$version" ]; }
}
ready() { say "ready: $1 environment in .venv, Python $version"; exit 0; }

# Two set-ups at once (make -j, several jobs on a shared disk) take turns.
if command -v flock >/dev/null; then exec 9<"$here/setup.sh"; flock 9; fi

device=${PPR_DIST_DEVICE:-}
case $device in
    cpu | cuda) reason="PPR_DIST_DEVICE" ;;
    "")
        # On a cluster the log-in node may share .venv with the GPU nodes: it must not replace theirs unasked.
        if current cuda; then
            command -v nvidia-smi >/dev/null || die ".venv is for CUDA and cannot run here, without NVIDIA's driver;" \
                "PPR_DIST_DEVICE=cpu would replace it"
            ready cuda
        fi
        if nvidia-smi -L >/dev/null 2>&1; then device=cuda reason="NVIDIA GPU found"
        else device=cpu reason="no NVIDIA GPU found"; fi ;;
    *) die "PPR_DIST_DEVICE is '$device'; it must be cpu or cuda" ;;
esac
if current "$device"; then ready "$device"; fi

[ "$(uname -s)" = Linux ] || die "needs Linux: FBGEMM, which holds the embedding tables, has no build for $(uname -s)"
if [ "$device" = cuda ] && [ "$(uname -m)" != x86_64 ]; then
    die "FBGEMM has a CUDA build for x86_64 only, and this is $(uname -m); PPR_DIST_DEVICE=cpu would work"
fi

python=
for candidate in ${PYTHON:-python3 python3.12 python3.11}; do
    case $(minor "$candidate") in 3.11 | 3.12) python=$candidate; break ;; esac
done
[ -n "$python" ] || die "needs Python 3.11 or 3.12; ${PYTHON:-python3} is $(minor "${PYTHON:-python3}" ||
    echo "not there"). Set PYTHON=/path/to/python3.12"
version=$(minor "$python")

say "making .venv: Python $version, $device ($reason); the first time takes some minutes"
if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ]; then die "$venv is there and is no virtual environment"; fi
rm -rf "$venv"
"$python" -m venv "$venv" </dev/null || die "'$python -m venv' failed (on Debian and Ubuntu: apt install python$version-venv)"
: >"$log"

# deepspeed is a source distribution. Built before PyTorch is there it compiles nothing and looks for no CUDA.
pip --no-deps "$(grep '^setuptools==' "$here/common.txt")" "$(grep '^wheel==' "$here/common.txt")"
pip --no-deps --no-build-isolation -r "$here/common.txt"

if [ "$device" = cpu ]; then
    torch=$(grep '^torch==' "$here/cpu.txt")
    index=${PPR_DIST_TORCH_INDEX:-}
    # uv knows PyTorch's CPU index. Only a dead network is waited for: 10 s to connect, 30 s without a byte.
    from_pytorch() {
        "$venv/bin/python" -m pip --disable-pip-version-check --no-input install -q --no-deps uv==0.13.8 &&
            UV_HTTP_CONNECT_TIMEOUT=10 UV_HTTP_TIMEOUT=30 UV_HTTP_RETRIES=1 "$venv/bin/uv" pip install \
                --no-progress --python "$venv/bin/python" --torch-backend cpu --no-deps "$torch"
    }
    if [ -n "$index" ] && [ "$index" != pip ]; then
        say "installing $torch from $index"
        pip --no-deps --index-url "$index" "$torch"
    elif [ "$index" != pip ] && from_pytorch >>"$log" 2>&1 </dev/null; then
        say "installed $torch from PyTorch's CPU index"
    else
        [ "$index" = pip ] || say "PyTorch's CPU index did not answer; installing $torch from where pip looks"
        # With dependencies, at the locked versions: what comes may be the CUDA build, and that needs its libraries.
        cat "$here/common.txt" "$here/cuda.txt" | grep '^[a-z].*==' >"$venv/constraints.txt"
        pip -c "$venv/constraints.txt" "$torch"
    fi
fi
pip --no-deps --no-build-isolation -r "$here/$device.txt"
pip --no-deps --no-build-isolation -e "$root"

if [ "$device" = cuda ] && ! nvidia-smi -L >/dev/null 2>&1; then
    say "note: no GPU here, so the environment is made but not tried: CUDA FBGEMM loads NVIDIA's driver"
else
    quietly "$venv/bin/python" -W ignore -c 'import fbgemm_gpu, torchrec, deepspeed, webdataset, duckdb, ppr_dist'
    [ "$device" = cpu ] || "$venv/bin/python" -W ignore -c 'import torch; torch.zeros(1).cuda()' >>"$log" 2>&1 ||
        say "note: PyTorch cannot use the GPU; its CUDA 13 needs a driver of the 580 series or newer"
fi
touch "$(stamp "$device")"
ready "$device"
