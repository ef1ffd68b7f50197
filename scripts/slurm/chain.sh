#!/usr/bin/env bash
# Submits a two-stage training, prediction (a job array) and evaluation as dependent jobs. Prints their IDs.
#
#   chain.sh DATASET MODEL VOLUMES LABELS
#
# If a stage fails, all later jobs are cancelled. The evaluation also runs if some volumes failed, and reports them.
#
#   CTSEG_STAGE1, CTSEG_STAGE2   recipes: names or files [1, 2]
#   CTSEG_SBATCH                 more options for sbatch, such as "--account=ct --partition=long"
#   CTSEG_FIT_SBATCH             more options for the trainings only, such as "--gres=gpu:1"
#   CTSEG_ARRAY                  array tasks of the prediction [1-8]
#   CTSEG_MLFLOW_GROUP           name of the runs' parent in MLflow [chain, the model and the time]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
if [ $# != 4 ]; then
    echo "chain.sh: found $# arguments; expected four: DATASET MODEL VOLUMES LABELS" >&2
    exit 2
fi
dataset="$1" model="$2" volumes="$3" labels="$4"
# Groups the runs of all jobs.
export CTSEG_MLFLOW_GROUP="${CTSEG_MLFLOW_GROUP:-chain $(basename "$model") $(date +%Y%m%d-%H%M%S)}"
read -ra all <<<"${CTSEG_SBATCH:-}"
read -ra fit <<<"${CTSEG_FIT_SBATCH:-}"

# Submits a job with dependency $1 (empty: none) and prints its ID.
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
