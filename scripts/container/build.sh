#!/usr/bin/env bash
# Builds the image of the Dockerfile with buildah: without a daemon, also inside a container and without access to an
# image registry.
#
#   build.sh [--target cpu|cuda] [--local-base] [--prebuilt BINARY] [--tag NAME]
#
#   --target            [cpu]
#   --local-base        builds the Debian base image with debootstrap, from Debian's packages
#   --prebuilt BINARY   uses this binary instead of compiling; without it, --local-base compiles with this machine's
#                       Rust toolchain. Only for the target cpu
#   --tag               [localhost/ctseg:<target>]
#
# The image is stored in buildah's storage: `buildah push NAME docker-archive:ctseg.tar` for docker load, to-apptainer.sh
# for Apptainer. Needs buildah, as root; --local-base also needs debootstrap (apt-get install buildah debootstrap).
#
#   CTSEG_IMAGES        folder for images [buildah's own storage]
#   DEBIAN_MIRROR       mirror for --local-base [the first one of this machine's apt, otherwise deb.debian.org]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../.." && pwd)"
readonly suite=bookworm certificates=/etc/ssl/certs/ca-certificates.crt
target=cpu local_base='' prebuilt='' tag=''

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

arguments() {
    while [ $# -gt 0 ]; do
        case "$1" in
        --local-base) local_base=1 ;;
        --target | --prebuilt | --tag)
            [ $# -ge 2 ] || fail "$1 needs a value"
            case "$1" in
            --target) target="$2" ;;
            --prebuilt) prebuilt="$2" ;;
            --tag) tag="$2" ;;
            esac
            shift
            ;;
        *) fail "unknown option $1; see the head of $0" ;;
        esac
        shift
    done
    case "$target" in
    cpu) ;;
    cuda) [ -z "$prebuilt" ] || fail "--prebuilt is for the target cpu: cuda needs the libtorch that the binary was built with" ;;
    *) fail "--target $target: expected cpu or cuda" ;;
    esac
    [ -z "$prebuilt" ] || [ -x "$prebuilt" ] || fail "--prebuilt $prebuilt: no such program"
    tag="${tag:-localhost/ctseg:$target}"
}

# Without overlay mounts and namespaces, which may be forbidden.
images() {
    local storage=(--storage-driver=vfs)
    [ -z "${CTSEG_IMAGES:-}" ] || storage+=(--root="$CTSEG_IMAGES/root" --runroot="$CTSEG_IMAGES/run")
    buildah "${storage[@]}" "$@"
}

mirror() {
    local known
    known="$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
        sed -nE 's/^(deb( \[[^]]*\])?|URIs:) +(https?:[^ ]+).*/\3/p' | grep -v security | head -n 1)"
    echo "${DEBIAN_MIRROR:-${known:-http://deb.debian.org/debian}}"
}

# Creates the image $1 from the root file system in folder $2.
image_of() {
    local container
    container="$(images from scratch)"
    images add --quiet "$container" "$2" / >/dev/null
    images commit --quiet "$container" "$1" >/dev/null
    images rm "$container" >/dev/null
}

# The replacement for debian:bookworm-slim.
local_debian() {
    command -v debootstrap >/dev/null || fail "debootstrap not found; install it (apt-get install debootstrap), or omit --local-base"
    images inspect --type image localhost/ctseg-debian >/dev/null 2>&1 && return
    debootstrap --variant=minbase "$suite" "$work/debian" "$(mirror)" >"$work/debootstrap.log" 2>&1 ||
        fail "debootstrap failed: $(tail -n 1 "$work/debootstrap.log")"
    # The settings of this machine's apt, such as a proxy.
    cp -r /etc/apt/apt.conf.d/. "$work/debian/etc/apt/apt.conf.d/"
    rm -rf "$work"/debian/var/cache/apt/archives/*.deb
    image_of localhost/ctseg-debian "$work/debian"
    rm -rf "$work/debian"
}

# The same with a C compiler and this machine's Rust, as a replacement for rust:slim-bookworm.
local_rust() {
    local container sysroot
    sysroot="$(rustc --print sysroot)" || fail "no Rust toolchain on this machine; pass a binary with --prebuilt"
    images inspect --type image localhost/ctseg-rust >/dev/null 2>&1 && return
    container="$(images from localhost/ctseg-debian)"
    images run --isolation=chroot "$container" -- sh -c \
        'apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev ca-certificates >/dev/null'
    # The build trusts this machine's certificates, such as a proxy's; the final image does not.
    if [ -e "$certificates" ]; then
        images add --quiet "$container" "$certificates" "$certificates" >/dev/null
    fi
    # Without the documentation, which is larger than the rest.
    images add --quiet "$container" "$sysroot/bin" /usr/local/bin >/dev/null
    images add --quiet "$container" "$sysroot/lib" /usr/local/lib >/dev/null
    images commit --quiet "$container" localhost/ctseg-rust >/dev/null
    images rm "$container" >/dev/null
}

main() {
    arguments "$@"
    command -v buildah >/dev/null || fail "buildah not found; install it (apt-get install buildah)"
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
    # Only Docker's image format supports health checks.
    local options=(--isolation=chroot --format=docker --layers=false --target="$target" --tag="$tag")
    if [ -n "$local_base" ]; then
        local_debian
        options+=(--build-arg=DEBIAN=localhost/ctseg-debian)
    fi
    if [ -n "$prebuilt" ]; then
        # In place of the stage `build`.
        install -D -m 755 "$prebuilt" "$work/prebuilt/out/ctseg"
        options+=(--build-context=build="$work/prebuilt")
    elif [ -n "$local_base" ]; then
        local_rust
        options+=(--build-arg=RUST=localhost/ctseg-rust)
    fi
    images build "${options[@]}" --ignorefile="$root/.dockerignore" -f "$root/Dockerfile" "$root"
    echo "$tag"
}

# On one line, so that the file may change while it runs.
{ main "$@"; exit; }
