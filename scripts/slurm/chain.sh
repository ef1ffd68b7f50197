#!/usr/bin/env bash
# Submits the whole way of a two-stage model as jobs that wait for each other: stage 1, stage 2, prediction by an array,
# evaluation. Prints their numbers.
#
#   chain.sh DATASET MODEL VOLUMES LABELS
#
# Where a stage fails, all that follows is cancelled. Evaluation also runs where some volumes failed, and says so.
#
#   CTSEG_STAGE1, CTSEG_STAGE2   recipes: names or files [1, 2]
#   CTSEG_SBATCH                 more options for sbatch, such as "--account=ct --partition=long"
#   CTSEG_FIT_SBATCH             more for the trainings alone, such as "--gres=gpu:1"
#   CTSEG_ARRAY                  tasks that predict [1-8]
#   CTSEG_MLFLOW_GROUP           what the runs are shown below in MLflow [chain, the model and the time]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
if [ $# != 4 ]; then
    echo "chain.sh: $# arguments, expected four: DATASET MODEL VOLUMES LABELS" >&2
    exit 2
fi
dataset="$1" model="$2" volumes="$3" labels="$4"
# Runs of all these jobs are shown together.
export CTSEG_MLFLOW_GROUP="${CTSEG_MLFLOW_GROUP:-chain $(basename "$model") $(date +%Y%m%d-%H%M%S)}"
read -ra all <<<"${CTSEG_SBATCH:-}"
read -ra fit <<<"${CTSEG_FIT_SBATCH:-}"

# Submits a job that waits for $1 (nothing: for none); its number.
submit() {
    local after=()
    [ -z "$1" ] || after=(--dependency="$1" --kill-on-invalid-dep=yes)
    shift
    sbatch --parsable "${after[@]}" "${all[@]}" "$@" | cut -d';' -f1
}

stage1="$(submit '' "${fit[@]}" --job-name=ctseg-stage1 "$here/fit.sbatch" \
    --stage "${CTSEG_STAGE1:-1}" --data "$dataset" --model "$model")"
stage2="$(submit "afterok:$stage1" "${fit[@]}" --job-name=ctseg-stage2 "$here/fit.sbatch" \
    --stage "${CTSEG_STAGE2:-2}" --data "$dataset" --model "$model")"
predict="$(submit "afterok:$stage2" --array="${CTSEG_ARRAY:-1-8}" "$here/predict.sbatch" \
    "$volumes" -o "$labels" --model "$model")"
evaluate="$(submit "afterok:$stage2,afterany:$predict" "$here/evaluate.sbatch" "$labels" "$dataset")"
echo "stage1=$stage1 stage2=$stage2 predict=$predict evaluate=$evaluate"
