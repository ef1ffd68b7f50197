#!/usr/bin/env bash
# Tests an image built by build.sh end to end: as its own user, with read-only data and model folders.
#
#   test.sh [IMAGE]     [localhost/ctseg:cpu]; CTSEG_IMAGES as for build.sh
set -euo pipefail
image="${1:-localhost/ctseg:cpu}"
storage=(--storage-driver=vfs)
[ -z "${CTSEG_IMAGES:-}" ] || storage+=(--root="$CTSEG_IMAGES/root" --runroot="$CTSEG_IMAGES/run")
work="$(mktemp -d)"
container="$(buildah "${storage[@]}" from "$image")"
trap 'buildah "${storage[@]}" rm "$container" >/dev/null; rm -rf "$work"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

inside() {
    buildah "${storage[@]}" run --isolation=chroot --volume="$work/runs:/runs" --volume="$work/data:/data:ro" \
        --volume="$work/models:/models:ro" "$container" -- "$@"
}

configured() {
    buildah "${storage[@]}" inspect --type image --format "{{.Docker.Config.$1}}" "$image"
}

# buildah would mount the image's own volumes over these.
buildah "${storage[@]}" config --volume /data- --volume /models- --volume /runs- "$container"
mkdir "$work"/{runs,data,models}
chmod 755 "$work"
chown 10001:10001 "$work/runs"
[ "$(configured User)" = 10001:10001 ] || fail "the image's user is '$(configured User)', expected 10001:10001"
[ "$(configured Entrypoint)" = "[ctseg]" ] || fail "the entry point is $(configured Entrypoint), expected ctseg"
configured Healthcheck | grep -q 'ctseg doctor --quick' || fail "no health check"
! configured Env | grep -iqE 'token|password|secret' || fail "secrets in the environment: $(configured Env)"
inside ctseg --version || fail "ctseg does not start"
inside ctseg doctor --quick >"$work/doctor.txt" || fail "not healthy: $(cat "$work/doctor.txt")"
# Read-only mounts.
if inside ctseg doctor --quick --runs /data >"$work/doctor.txt"; then fail "a read-only folder for runs counts as healthy"; fi
grep -q 'fault .*disk, runs .*/data' "$work/doctor.txt" || fail "the fault of /data is not reported: $(cat "$work/doctor.txt")"
# shellcheck disable=SC2016 # the sum is for the shell inside
# As the pods of scripts/k8s count their shards.
[ "$(inside sh -c 'JOB_COMPLETION_INDEX=3; echo $((JOB_COMPLETION_INDEX + 1))')" = 4 ] || fail "the image has no shell with arithmetic"
if inside sh -c 'echo >/usr/local/bin/new' 2>/dev/null; then fail "the program's folder is writable"; fi
inside ctseg demo -o /runs/demo --train 6 --test 2 --set training.epochs=1 --set 'network.widths=[4, 8]' --set folds=2 \
    --set training.augmentation.enabled=false &>"$work/demo.txt" || fail "ctseg demo: $(tail -n 5 "$work/demo.txt")"
[ "$(stat -c %u "$work/runs/demo/report.html")" = 10001 ] || fail "its files do not belong to its user"
if inside sh -c 'echo >/data/new' 2>/dev/null; then fail "the data is writable"; fi
cp -r "$work/runs/demo/data/images/." "$work/data/"
cp -r "$work/runs/demo/model" "$work/models/model"
inside ctseg predict /data -o /runs/labels --shard 1/1 &>"$work/predict.txt" ||
    fail "ctseg predict: $(tail -n 5 "$work/predict.txt")"
[ "$(find "$work/runs/labels" -name '*.nii.gz' | wc -l)" = 8 ] || fail "expected 8 label maps"
for case in phantom_006 phantom_007; do
    cmp "$work/runs/labels/$case.nii.gz" "$work/runs/demo/predictions/$case.nii.gz" || fail "$case: label map differs from the demo's"
done
echo "$image: starts, trains and predicts as user 10001, with data and model read-only"
