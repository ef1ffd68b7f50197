#!/usr/bin/env bash
# Tests the job scripts on a temporary Slurm cluster (testbed.sh): interrupted, killed, preempted and cancelled.
#
#   test.sh [TEST…]      all tests, or those named: array claims submit cancel fit time node folds chain, and together, which
#                        needs a ctseg built with MPI
#
#   CTSEG                the binary [ctseg in PATH]
#   CTSEG_TEST_PYTHON    a Python with numpy and nibabel, for volumes [python3]
#   CTSEG_TEST_KEEP      folder for data, logs and results, which is kept [a temporary one]
set -Eeuo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
python="${CTSEG_TEST_PYTHON:-python3}"
if ! command -v "${CTSEG:-ctseg}" >/dev/null; then
    echo "test.sh: no ${CTSEG:-ctseg}; set CTSEG to the binary" >&2
    exit 1
fi
ctseg="$(realpath "$(command -v "${CTSEG:-ctseg}")")"
work="$(realpath -m "${CTSEG_TEST_KEEP:-$(mktemp -d)}")"
cluster="$work/cluster"
# Jobs inherit the environment; the user's settings must not affect the tests.
while read -r name; do unset "$name"; done < <(compgen -e | grep -E '^(CTSEG|MLFLOW|SLURM|SBATCH)_' || true)
export SLURM_CONF="$cluster/slurm.conf"
options=(--cpus-per-task=1 --mem=1G --time=10)

fail() {
    trap - ERR
    echo "FAILED: $*" >&2
    squeue -h 2>/dev/null | sed 's/^/    /' >&2
    tail -n 15 "$work"/*.log 2>/dev/null | sed 's/^/    /' >&2
    exit 1
}

end() {
    [ ! -e "$SLURM_CONF" ] || "$here/testbed.sh" down "$cluster" --keep-log
    [ -n "${CTSEG_TEST_KEEP:-}" ] || rm -rf "$work"
}

# until_true SECONDS WHAT COMMAND…
until_true() {
    local what="$2" end=$((SECONDS + $1))
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "timeout: waited until $what"
        sleep 0.1
    done
}

# One attribute of a job, or of a task named 12_3, such as JobState.
of_job() {
    scontrol show job -o "$1" | tr ' ' '\n' | sed -n "s/^$2=//p"
}

is() {
    [ "$(of_job "$1" JobState | sort -u)" = "$2" ]
}

expect() {
    local found end=$((SECONDS + ${3:-180}))
    while :; do
        found="$(of_job "$1" JobState | sort -u | paste -sd' ')"
        case "$found" in
        "$2") return ;;
        COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL | OUT_OF_MEMORY) fail "job $1 is $found, expected $2" ;;
        esac
        [ "$SECONDS" -lt "$end" ] || fail "job $1 is still $found, expected $2"
        sleep 0.2
    done
}

# Processes of ctseg in the job with this ID.
pids_in() {
    local folder
    for folder in /proc/[0-9]*; do
        if [ "$(cat "$folder/comm" 2>/dev/null)" = ctseg ] &&
            tr '\0' '\n' <"$folder/environ" 2>/dev/null | grep -qx "SLURM_JOB_ID=$1"; then
            basename "$folder"
        fi
    done
}

submit() {
    sbatch --parsable "${options[@]}" "$@"
}

checksums() {
    (cd "$1" && sha256sum -- *.nii.gz)
}

# Checks that all 40 label maps equal those of a single process.
whole() {
    checksums "$1" >"$work/found.txt"
    cmp -s "$work/found.txt" "$work/expected.txt" || fail "$1: label maps differ from those of a single process"
}

# Inode and modification time of the label maps.
stamps() {
    (cd "$1" && find . -name '*.nii.gz' ! -name '.*' -printf '%f %i %T@\n' | sort)
}

data() {
    "$python" "$here/volumes.py" "$work/data" 6 40
    mkdir "$work/images"
    for case in {006..045}; do ln -s "$work/data/images/case_$case.nii.gz" "$work/images/"; done
    sed 's/^epochs = .*/epochs = 6/' "$here/../../stages/demo-coarse.toml" >"$work/stage1.toml"
    sed 's/^epochs = .*/epochs = 4/; s/^spacing_mm = .*/spacing_mm = [8.0, 8.0, 10.0]/; s/^patch_size = .*/patch_size = [40, 40]/' \
        "$here/../../stages/demo-refine.toml" >"$work/stage2.toml"
    local fit=(fit --data "$work/data/dataset.toml" --model "$work/model" --runs "$work/alone" --threads 1)
    "$ctseg" "${fit[@]}" --stage "$work/stage1.toml" &>"$work/alone.txt"
    "$ctseg" "${fit[@]}" --stage "$work/stage2.toml" &>>"$work/alone.txt"
    "$ctseg" predict "$work/images" -o "$work/one" --model "$work/model" --threads 1 &>>"$work/alone.txt"
    checksums "$work/one" >"$work/expected.txt"
    [ "$(wc -l <"$work/expected.txt")" = 40 ] || fail "a single process wrote $(wc -l <"$work/expected.txt") label maps of 40"
}

# The cases in the predictions-*.json of an array, one per line with its state.
cases_in() {
    "$python" - "$@" <<'END'
import json, sys
for name in sys.argv[1:]:
    for case in json.load(open(name))["cases"]:
        print(case["input"].rsplit("/", 1)[-1], case["state"])
END
}

some_of_shard() {
    local case
    for case in $("$python" -c '
import hashlib, sys
for n in range(6, 46):
    name = f"case_{n:03}.nii.gz"
    if int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 4 + 1 == int(sys.argv[1]): print(name)' "$1"); do
        [ -e "$2/$case" ] && return
    done
    return 1
}

test_array() {
    local id task pid
    id="$(submit --array=1-4 "$here/predict.sbatch" "$work/images" -o "$work/array" --model "$work/model")"
    until_true 60 "task 2 has written a label map" some_of_shard 2 "$work/array"
    task="$(of_job "${id}_2" JobId)"
    pid="$(pids_in "$task")"
    kill -KILL "$pid" || fail "task 2 was over before it could be killed"
    stamps "$work/array" >"$work/before.txt"
    expect "${id}_2" FAILED
    [ "$(of_job "${id}_2" ExitCode)" = 137:0 ] || fail "the killed task ended with $(of_job "${id}_2" ExitCode)"
    [ ! -e "$work/array/predictions-2-of-4.json" ] ||
        ! grep -q '"ended": true' "$work/array/predictions-2-of-4.json" || fail "task 2 had ended when it was killed"
    scontrol requeue "${id}_2"
    expect "$id" COMPLETED
    whole "$work/array"
    cases_in "$work/array"/predictions-*-of-4.json >"$work/cases.txt"
    [ "$(cut -d' ' -f1 "$work/cases.txt" | sort | uniq -d | wc -l)" = 0 ] || fail "volumes in several shards"
    [ "$(grep -cE ' (done|kept)$' "$work/cases.txt")" = 40 ] || fail "not all 40 volumes done: $(cat "$work/cases.txt")"
    stamps "$work/array" >"$work/after.txt"
    [ -z "$(comm -23 "$work/before.txt" "$work/after.txt")" ] || fail "label maps were written twice"
    local kept
    kept="$(grep -c ' kept$' "$work/cases.txt")" || fail "the requeued task kept none of its earlier label maps"
    [ -z "$(find "$work/array" -name '.ctseg-*')" ] || fail "the killed task's temporary files are still there"
    echo "ok   array: task 2 of 4 killed and requeued; 40 volumes once each, $kept of them written before the kill"
}

test_claims() {
    local id pid
    id="$(CTSEG_CLAIM="$work/claims" submit --array=1-4 "$here/predict.sbatch" "$work/images" -o "$work/claimed" \
        --model "$work/model")"
    until_true 60 "five label maps are written" five "$work/claimed"
    pid="$(pids_in "$(of_job "${id}_3" JobId)")"
    kill -KILL "$pid" || fail "task 3 was over before it could be killed"
    stamps "$work/claimed" >"$work/before.txt"
    expect "${id}_3" FAILED
    scontrol requeue "${id}_3"
    expect "$id" COMPLETED
    whole "$work/claimed"
    stamps "$work/claimed" >"$work/after.txt"
    [ -z "$(comm -23 "$work/before.txt" "$work/after.txt")" ] || fail "label maps were written twice"
    local made
    made="$(sed -nE 's/^([0-9]+) of 40 volumes segmented.*/\1/p' "$work"/ctseg-predict-"${id}"_*.log | paste -sd+)"
    # The label maps of the killed process are in no summary.
    [ $((made)) -le 40 ] || fail "$made volumes written, more than 40"
    echo "ok   claims: one of 4 killed and requeued; 40 volumes once each, split into $made by the surviving processes"
}

five() {
    [ "$(stamps "$1" 2>/dev/null | wc -l)" -ge 5 ]
}

# Submitted by ctseg itself; one task receives the signal that precedes its time limit.
test_submit() {
    local id job=(submit slurm predict "$work/images" -o "$work/submitted" --model "$work/model" --tasks 4 --time 10m
        --mem 1G --cpus 1)
    "$ctseg" "${job[@]}" --partition nowhere &>"$work/refused.txt" && fail "an unknown partition was accepted"
    grep -q "expected one of work, urgent, secret" "$work/refused.txt" || fail "the partitions are not listed: $(cat "$work/refused.txt")"
    "$ctseg" "${job[@]}" --gpus 1 &>"$work/refused.txt" && fail "a job for GPUs that no node has was accepted"
    grep -q "no node of partition 'work'" "$work/refused.txt" || fail "the nodes' resources are not listed: $(cat "$work/refused.txt")"
    # Hidden partitions can be used by those who know their names.
    "$ctseg" "${job[@]}" --partition secret --gpus 1 &>"$work/refused.txt" && fail "a job larger than a hidden partition was accepted"
    grep -q "no node of partition 'secret'" "$work/refused.txt" || fail "nodes of a hidden partition: $(cat "$work/refused.txt")"
    grep -q "2 problems" "$work/refused.txt" || fail "the time limit is not reported: $(cat "$work/refused.txt")"
    "$ctseg" "${job[@]}" --json >"$work/submitted.json" 2>"$work/submitted.txt" || fail "$(cat "$work/submitted.txt")"
    id="$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["jobs"][0]["id"])' "$work/submitted.json")"
    until_true 60 "task 2 has written a label map" some_of_shard 2 "$work/submitted"
    scancel --batch --signal=USR1 "${id}_2"
    expect "$id" COMPLETED
    [ "$(of_job "${id}_2" Restarts)" = 1 ] || fail "task 2 was restarted $(of_job "${id}_2" Restarts) times, expected 1"
    whole "$work/submitted"
    echo "ok   submit: an array of 4 by 'ctseg submit', one task requeued itself; 40 volumes as without ctseg submit"
}

readonly long_fit=(--stage 1 --set 'network.widths=[4, 8]' --set 'spacing_mm=[14.0, 14.0, 14.0]' --set folds=2 --set
    training.batch_size=4 --set training.augmentation.enabled=false --set training.early_stopping.patience=1000 --set training.plateau.patience=1000 --set training.keep=last)

epochs() {
    cat "$1"/*/metrics.jsonl 2>/dev/null | wc -l
}

further() {
    [ "$(epochs "$1")" -gt "$2" ]
}

# Submits a training of $2 epochs of the model $1; further arguments are options of sbatch.
submit_fit() {
    local model="$1" epochs="$2"
    shift 2
    submit "$@" "$here/fit.sbatch" "${long_fit[@]}" --epochs "$epochs" --data "$work/data/dataset.toml" --model "$work/$model"
}

# Checks that the weights of model $1 equal those of an uninterrupted training of $2 epochs.
as_uninterrupted() {
    "$ctseg" fit "${long_fit[@]}" --epochs "$2" --threads 1 --data "$work/data/dataset.toml" --model "$work/$1-alone" \
        --runs "$work/alone" &>"$work/alone.txt"
    cmp "$work/$1/stage1.safetensors" "$work/$1-alone/stage1.safetensors" ||
        fail "$1: weights differ from those of an uninterrupted training"
    echo "weights $(sha256sum <"$work/$1/stage1.safetensors" | cut -c1-16), as uninterrupted"
}

test_cancel() {
    local id
    id="$(submit_fit cancelled 150)"
    until_true 60 "a training is running" further "$work/runs/slurm-$id" 2
    scancel "$id"
    expect "$id" CANCELLED
    # Longer than the delay of a requeued job.
    sleep 10
    expect "$id" CANCELLED
    [ ! -e "$work/cancelled/model.toml" ] || fail "the training ended before it was cancelled"
    grep -q "resume with" "$work/ctseg-fit-$id.log" || fail "the cancelled training printed no command to resume it"
    echo "ok   cancel: a cancelled training stays cancelled and prints the command to resume it"
}

# Interrupted in three ways, each time after some progress.
test_fit() {
    local id runs blocker
    id="$(submit_fit interrupted 150)"
    runs="$work/runs/slurm-$id"
    until_true 60 "the training is running" further "$runs" 3
    # As before the time limit: to the script only, which requeues its job.
    scancel --batch --signal=USR1 "$id"
    again "$id" 1 "$runs"
    grep -q "job $id: interrupted; requeueing" "$work/ctseg-fit-$id.log" || fail "the job did not requeue itself"
    scontrol requeue "$id"
    again "$id" 2 "$runs"
    blocker="$(sbatch --parsable --partition=urgent --nodes=4 --exclusive --output=/dev/null --wrap="sleep 2")"
    again "$id" 3 "$runs"
    expect "$blocker" COMPLETED
    expect "$id" COMPLETED
    [ "$(of_job "$id" Restarts)" = 3 ] || fail "restarted $(of_job "$id" Restarts) times, expected 3"
    [ "$(find "$runs" -mindepth 1 -maxdepth 1 | wc -l)" = 1 ] || fail "expected one run: $(ls "$runs")"
    echo "ok   fit: requeued itself, by scontrol and by preemption; $(as_uninterrupted interrupted 150)"
}

# A training that exceeds the time limit of its job: Slurm sends the signal.
test_time() {
    local id restarts
    id="$(submit_fit timed 200 --time=1 --signal=B:USR1@30)"
    expect "$id" COMPLETED 400
    restarts="$(of_job "$id" Restarts)"
    [ "$restarts" -ge 1 ] || fail "the training took less than a minute; nothing was tested"
    echo "ok   time: a training in $((restarts + 1)) periods of one minute; $(as_uninterrupted timed 200)"
}

# A node fails with everything that runs on it, and is marked down.
test_node() {
    local id runs node batch parent
    id="$(submit_fit moved 100)"
    runs="$work/runs/slurm-$id"
    until_true 60 "the training is running" further "$runs" 3
    node="$(of_job "$id" BatchHost)"
    batch="$(pids_in "$id" | head -n 1)"
    parent="$(parent_of "$batch")"
    kill -KILL "$(cat "$cluster/$node.pid")" "$(parent_of "$parent")" "$parent" "$batch"
    scontrol update "nodename=$node" state=down reason=test
    again "$id" 1 "$runs"
    [ "$(of_job "$id" BatchHost)" != "$node" ] || fail "the job is on the node that is down"
    expect "$id" COMPLETED
    slurmd -f "$SLURM_CONF" -N "$node"
    # Refused if the node has returned by itself in the meantime.
    scontrol update "nodename=$node" state=resume || true
    until_true 60 "node $node is back" idle "$node"
    echo "ok   node: a training continued on another node; $(as_uninterrupted moved 100)"
}

parent_of() {
    sed -n 's/^PPid:\t//p' "/proc/$1/status"
}

idle() {
    [ "$(sinfo -h -N -p work -n "$1" -o %t)" = idle ]
}

# Waits until job $1 has been restarted $2 times and its training has progressed.
again() {
    local before
    before="$(epochs "$3")"
    until_true 60 "job $1 is restarted" restarted "$1" "$2"
    until_true 120 "job $1 continues" further "$3" "$before"
    is "$1" RUNNING || fail "job $1 is $(of_job "$1" JobState), expected RUNNING"
}

restarted() {
    [ "$(of_job "$1" Restarts)" = "$2" ] && is "$1" RUNNING
}

test_folds() {
    local id arguments=(--data "$work/data/dataset.toml" --set training.early_stopping.patience=1000 --epochs 40)
    cp -r "$work/model" "$work/folded"
    id="$(CTSEG_STAGE="$work/stage2.toml" submit --array=0-1 "$here/fit-folds.sbatch" "$work/folded" "${arguments[@]}")"
    # The last task of an array has the ID of the array.
    until_true 60 "fold 1 is running" further "$work/runs/slurm-${id}_1" 2
    [ "$(of_job "${id}_1" JobId)" = "$id" ] || fail "task 1 is job $(of_job "${id}_1" JobId), expected the array's $id"
    scancel --batch --signal=USR1 "${id}_1"
    expect "$id" COMPLETED
    [ "$(of_job "${id}_1" Restarts)" = 1 ] || fail "fold 1 was restarted $(of_job "${id}_1" Restarts) times, expected 1"
    [ "$(of_job "${id}_0" Restarts)" = 0 ] || fail "fold 0 was requeued with fold 1"
    cmp -s "$work/folded-fold0/stage2.safetensors" "$work/folded-fold1/stage2.safetensors" && fail "both folds have the same weights"
    "$ctseg" predict "$work/images/case_006.nii.gz" -o "$work/mean" --model "$work/folded-fold0" --model \
        "$work/folded-fold1" &>"$work/mean.txt" || fail "the folds do not predict together: $(cat "$work/mean.txt")"
    echo "ok   folds: two folds as an array, one requeued alone; both predict together"
}

test_chain() {
    local stage1 stage2 predict evaluate
    eval "$(CTSEG_SBATCH="${options[*]}" CTSEG_ARRAY=1-4 CTSEG_STAGE1="$work/stage1.toml" \
        CTSEG_STAGE2="$work/stage2.toml" "$here/chain.sh" "$work/data/dataset.toml" "$work/chained" "$work/images" \
        "$work/labels")"
    until_true 60 "stage 1 is running" further "$work/runs/slurm-$stage1" 1
    scancel --batch --signal=USR1 "$stage1"
    until_true 60 "stage 1 is restarted" restarted "$stage1" 1
    is "$stage2" PENDING || fail "stage 2 did not wait for the interrupted stage 1"
    for id in "$stage1" "$stage2" "$predict" "$evaluate"; do
        expect "$id" COMPLETED
    done
    for stage in 1 2; do
        cmp "$work/chained/stage$stage.safetensors" "$work/model/stage$stage.safetensors" ||
            fail "weights differ from those of a single process"
    done
    whole "$work/labels"
    grep -q "40 cases compared, 0 failed" "$work/ctseg-evaluate-$evaluate.log" || fail "evaluation: not 40 cases compared"
    echo "ok   chain: stage 1 (requeued once), stage 2, prediction, evaluation; weights and label maps as without a cluster"
}

# Two tasks of a step, each with half of every batch, connected by MPI; if one is killed, both end. They run on one node,
# because the PMIx servers of several nodes on one machine would conflict.
test_together() {
    local pid job arguments=(fit --stage "$work/stage1.toml" --data "$work/data/dataset.toml" --threads 1 --fold 0
        --no-out-of-fold --set network.norm=instance --set network.activation=leaky_relu --set network.downsampling=stride)
    local step=(srun --mpi=pmix --partition=work --nodes=1 --ntasks=2 --overcommit --mem=2G --time=5 --kill-on-bad-exit=1
        "$ctseg")
    "$ctseg" "${arguments[@]}" --model "$work/by-one" --runs "$work/runs/by-one" &>"$work/by-one.log"
    "${step[@]}" "${arguments[@]}" --model "$work/by-two" --runs "$work/runs/by-two" &>"$work/by-two.log" ||
        fail "distributed training of two tasks failed"
    "$python" - "$work"/runs/by-{one,two}/*/metrics.jsonl <<'END' || fail "the losses of two tasks differ from those of a single process"
import json, sys
one, two = ([json.loads(line)["loss"] for line in open(path)] for path in sys.argv[1:])
sys.exit(len(one) != len(two) or one == two or any(abs(a - b) > 1e-4 * a for a, b in zip(one, two)))
END
    "${step[@]}" "${arguments[@]}" --epochs 3000 --set training.early_stopping.patience=3000 --model "$work/killed" \
        --runs "$work/runs/killed" &>"$work/killed.log" &
    job="$!"
    until_true 60 "two tasks are training" further "$work/runs/killed" 3
    pid="$(pgrep -f "^$ctseg fit .*$work/killed" | tail -n 1)"
    kill -KILL "$pid"
    SECONDS=0
    ! wait "$job" || fail "a task was killed, but the step succeeded"
    [ "$SECONDS" -lt 30 ] || fail "the other task continued for $SECONDS s"
    [ -n "$(find "$work/runs/killed" -name last.safetensors -size +0)" ] || fail "no checkpoint is left"
    echo "ok   together: two tasks trained like a single process; one killed, both ended after $SECONDS s"
}

# The part that all job scripts share; users copy each script by itself.
common_part() {
    sed -n '/^# ---- shared part.*begin/,/^# ---- shared part: end/p' "$here/$1"
}

main() {
    local tests=("$@") name
    for name in predict.sbatch fit-folds.sbatch; do
        [ "$(common_part "$name")" = "$(common_part fit.sbatch)" ] || fail "the shared part of $name differs from that of fit.sbatch"
    done
    if [ $# = 0 ]; then
        tests=(array claims submit cancel fit time node folds chain)
        # Only binaries linked with MPI support it.
        if ldd "$ctseg" | grep -q libmpi; then tests+=(together); fi
    fi
    for name in "${tests[@]}"; do
        declare -F "test_$name" >/dev/null || fail "no test '$name'; expected array, claims, submit, cancel, fit, time, node, folds, chain or together"
    done
    mkdir -p "$work"
    trap end EXIT
    # munge's socket must be reachable for all users.
    chmod 755 "$work"
    trap 'fail "line $LINENO"' ERR
    mkdir "$work/bin"
    ln -s "$ctseg" "$work/bin/ctseg"
    export PATH="$work/bin:$PATH"
    cd "$work"
    data
    "$here/testbed.sh" up "$cluster" 4
    for name in "${tests[@]}"; do
        "test_$name"
    done
    echo "${#tests[@]} tests on Slurm passed"
}

# On one line, so that the file may change while it runs.
{ main "$@"; exit; }
