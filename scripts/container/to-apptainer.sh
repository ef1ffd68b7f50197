#!/usr/bin/env bash
# Converts an image in buildah's storage to a file for Apptainer (Singularity), for clusters without Docker.
#
#   to-apptainer.sh [IMAGE] [FILE]     [localhost/ctseg:cpu] [ctseg.sif]
#
#   apptainer run --bind /data ctseg.sif predict /data/volumes -o /data/labels --model /data/model
#   apptainer run --nv …               with GPUs, for the target cuda
#
# Without apptainer, an OCI archive is written beside FILE instead, for `apptainer build FILE oci-archive:…`
# on another machine. CTSEG_IMAGES as for build.sh.
set -euo pipefail
image="${1:-localhost/ctseg:cpu}"
file="${2:-ctseg.sif}"
archive="${file%.sif}.oci.tar"
storage=(--storage-driver=vfs)
[ -z "${CTSEG_IMAGES:-}" ] || storage+=(--root="$CTSEG_IMAGES/root" --runroot="$CTSEG_IMAGES/run")
build="$(command -v apptainer || command -v singularity || true)"

rm -f "$archive.part"
trap 'rm -f "$archive.part"' EXIT
buildah "${storage[@]}" push --quiet "$image" "oci-archive:$archive.part:ctseg"
mv "$archive.part" "$archive"
if [ -n "$build" ]; then
    "$build" build "$file" "oci-archive:$archive"
    rm "$archive"
    echo "$file"
else
    echo "apptainer not found: wrote $archive; convert it on another machine with 'apptainer build $file oci-archive:$archive'"
fi
