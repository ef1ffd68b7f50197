#!/usr/bin/env bash
# Makes libtorch available to `cargo build --features libtorch` and writes its path to .cargo/config.toml.
#
#   scripts/setup-libtorch.sh [--print] [CACHE]
#
# Sources, in this order: LIBTORCH; the active Python environment (VIRTUAL_ENV, CONDA_PREFIX) if it has
# PyTorch; CACHE/libtorch-<version>, where PyTorch is installed on the first run (about 5 GB with the CUDA libraries).
#
#   --print      prints libtorch's folder and nothing else on stdout; does not change .cargo/config.toml
#   CACHE        folder to install PyTorch in   [CTSEG_CACHE, or ~/.cache/ctseg]
set -euo pipefail

readonly wanted=2.11.0
readonly signature="# Written by scripts/setup-libtorch.sh; delete it to forget that libtorch."
# Downloaded wheels and their unpacked contents exist at the same time.
readonly install_gb=8

fail() {
    echo "setup-libtorch: $*" >&2
    exit 1
}

# The version in the headers of the libtorch in $1; empty if there is none.
version_of() {
    local header
    for header in torch/headeronly/version.h torch/csrc/api/include/torch/version.h torch/version.h; do
        [ -f "$1/include/$header" ] || continue
        # A header that only includes another one has no numbers.
        awk '$1 == "#define" && $2 ~ /^TORCH_VERSION_(MAJOR|MINOR|PATCH)$/ { part[$2] = $3 }
            END {
                major = part["TORCH_VERSION_MAJOR"]
                if (major == "") exit 1
                printf "%s.%s.%s", major, part["TORCH_VERSION_MINOR"], part["TORCH_VERSION_PATCH"]
            }' "$1/include/$header" && return
    done
    return 0
}

# Ends the script unless the folder $1 is a libtorch of the wanted version; $2 is the source of the path, $3 the advice.
check() {
    local found
    [ -f "$1/lib/libtorch.so" ] ||
        fail "$2: no libtorch in '$1': lib/libtorch.so is missing, expected the folder torch of PyTorch $wanted; $3"
    found="$(version_of "$1")"
    [ -n "$found" ] ||
        fail "$2: libtorch in '$1' has no version in include/torch/headeronly/version.h, expected $wanted; $3"
    [ "$found" = "$wanted" ] ||
        fail "$2: found libtorch $found in '$1', ctseg is built for $wanted; $3"
}

# The PyTorch inside the Python environment $1; empty if there is none.
torch_in() {
    local folder
    for folder in "$1"/lib/python3*/site-packages/torch; do
        if [ -f "$folder/lib/libtorch.so" ]; then
            echo "$folder"
            return
        fi
    done
}

# Installs PyTorch into the virtual environment $1. The file installed.txt is written last: an environment
# without it is incomplete and is recreated.
install_into() {
    local free_kb python
    free_kb="$(df -Pk "$(dirname "$1")" | awk 'NR == 2 { print $4 }')"
    if [ "$free_kb" -lt $((install_gb * 1024 * 1024)) ]; then
        fail "$(dirname "$1"): $((free_kb / 1024 / 1024)) GB free, PyTorch needs $install_gb GB to install (5 GB" \
            "afterwards); free some space, set CTSEG_CACHE to another folder, or set LIBTORCH"
    fi
    command -v python3 >/dev/null ||
        fail "python3, which is needed to install PyTorch $wanted, was not found; install Python 3.10 or later, or set LIBTORCH"
    echo "installing PyTorch $wanted into $1 (about 5 GB, takes minutes)" >&2
    rm -rf "$1"
    python3 -m venv "$1" >&2 ||
        fail "$1: python3 -m venv failed; install Python's venv module, or set LIBTORCH"
    python="$1/bin/python"
    # pip unpacks inside the environment: /tmp may be a small memory disk.
    mkdir "$1/tmp"
    TMPDIR="$1/tmp" "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        "torch==$wanted" setuptools >&2 ||
        fail "$1: pip could not install torch==$wanted with $(python3 --version 2>&1) (it needs 3.10 or later and" \
            "network access); retry, or set LIBTORCH"
    rm -rf "$1/tmp"
    [ -n "$(torch_in "$1")" ] || fail "$1: pip installed no libtorch.so; set LIBTORCH to a libtorch $wanted"
    echo "$wanted" >"$1/installed.txt"
}

# Sets `libtorch` to the PyTorch in the cache folder $1, installed there if missing.
from_cache() {
    local cache venv
    mkdir -p "$1" || fail "$1: cannot create the folder; set CTSEG_CACHE to another one, or set LIBTORCH"
    cache="$(cd "$1" && pwd)"
    venv="$cache/libtorch-$wanted"
    if [ "$(cat "$venv/installed.txt" 2>/dev/null)" != "$wanted" ]; then
        # A second process waits and uses the installation of the first one.
        if command -v flock >/dev/null; then
            exec 9>"$cache/libtorch-$wanted.lock"
            flock 9
        fi
        if [ "$(cat "$venv/installed.txt" 2>/dev/null)" != "$wanted" ]; then
            install_into "$venv"
        fi
        exec 9>&-
    fi
    libtorch="$(torch_in "$venv")"
    check "${libtorch:-$venv}" "$venv" "delete that folder and run this again"
}

# Sets `libtorch`; $1 is the cache folder.
find_libtorch() {
    local environment
    if [ -n "${LIBTORCH:-}" ]; then
        check "$LIBTORCH" LIBTORCH "set it to a libtorch $wanted, or unset it to install PyTorch $wanted"
        libtorch="$(cd "$LIBTORCH" && pwd)"
        return
    fi
    for environment in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
        [ -n "$environment" ] || continue
        libtorch="$(torch_in "$environment")"
        if [ -n "$libtorch" ]; then
            check "$libtorch" "active Python environment" \
                "pip install torch==$wanted there, deactivate it, or set LIBTORCH"
            return
        fi
    done
    from_cache "$1"
}

# Writes .cargo/config.toml of this checkout, unless it has one by another author.
write_config() {
    local config=.cargo/config.toml settings old
    case "$libtorch" in
    *"'"* | *$'\n'*) fail "$libtorch: the path contains a quote or a line break; move libtorch to another folder" ;;
    esac
    settings="LIBTORCH = '$libtorch'"$'\n''LIBTORCH_BYPASS_VERSION_CHECK = "1"'
    for old in .cargo/config "$config"; do
        if [ ! -e "$old" ] || [ "$(head -n 1 "$old")" = "$signature" ]; then
            continue
        fi
        # Settings added by hand, as advised below, are accepted.
        if grep -qxF "LIBTORCH = '$libtorch'" "$old"; then
            return
        fi
        printf '%s\n' "setup-libtorch: $old was not written by this script and is not changed; add to it:" "" \
            "[env]" "$settings" >&2
        exit 1
    done
    mkdir -p .cargo
    printf '%s\n' "$signature" "[env]" "$settings" >"$config.tmp$$"
    mv "$config.tmp$$" "$config"
}

main() {
    local print=false cache="${CTSEG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ctseg}"
    if [ "${1:-}" = --print ]; then
        print=true
        shift
    fi
    case "${1:-}" in
    -*) fail "unknown option $1; usage: scripts/setup-libtorch.sh [--print] [CACHE]" ;;
    esac
    [ $# -le 1 ] || fail "one CACHE folder expected, found $#; usage: scripts/setup-libtorch.sh [--print] [CACHE]"
    libtorch=
    find_libtorch "${1:-$cache}"
    if $print; then
        echo "$libtorch"
        return
    fi
    cd "$(dirname "$0")/.."
    write_config
    echo "libtorch $wanted is in $libtorch, written to .cargo/config.toml; next:"
    echo "    cargo build --release --features libtorch"
    echo "    target/release/ctseg predict volume.nii.gz --device libtorch"
}

# On one line, so that the file may change while pip runs.
main "$@" && exit
