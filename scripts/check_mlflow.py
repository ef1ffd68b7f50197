#!/usr/bin/env python3
"""Prints all content of an MLflow server as JSON, read with MLflow's own client.

    check_mlflow.py        reads the server at MLFLOW_TRACKING_URI
"""
import hashlib
import json
import logging
import tempfile
from pathlib import Path

import mlflow
from mlflow.entities import ViewType
from mlflow.models import Model

logging.getLogger("mlflow").setLevel(logging.ERROR)
client = mlflow.MlflowClient()


def sums(folder):
    """SHA-256 of every file below `folder`, by relative path."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def artifacts(uri):
    with tempfile.TemporaryDirectory() as folder:
        return sums(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))


def history(run_id, key):
    points = client.get_metric_history(run_id, key)
    return sorted([point.step, str(point.value), point.timestamp] for point in points)


def run_of(run):
    run = client.get_run(run.info.run_id)
    listed = client.list_artifacts(run.info.run_id)
    return {
        "id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "stage": run.info.lifecycle_stage,
        "ended": run.info.end_time,
        "parent": run.data.tags.get("mlflow.parentRunId"),
        "params": run.data.params,
        "tags": run.data.tags,
        "metrics": {key: history(run.info.run_id, key) for key in run.data.metrics},
        "datasets": [
            {"name": i.dataset.name, "digest": i.dataset.digest, "source": i.dataset.source, "tags": {t.key: t.value for t in i.tags}}
            for i in run.inputs.dataset_inputs
        ],
        "models": [output.model_id for output in run.outputs.model_outputs] if run.outputs else [],
        "artifacts": artifacts(run.info.artifact_uri) if listed else {},
    }


def model_of(model):
    described = Model.load(f"models:/{model.model_id}")
    example = described.saved_input_example_info
    return {
        "id": model.model_id,
        "name": model.name,
        "type": model.model_type,
        "status": str(model.status),
        "run": model.source_run_id,
        "params": model.params,
        "tags": model.tags,
        "flavors": described.flavors,
        "inputs": json.loads(described.signature.inputs.to_json()),
        "outputs": json.loads(described.signature.outputs.to_json()),
        "example": example,
        "artifacts": artifacts(f"models:/{model.model_id}"),
    }


experiments = {}
for experiment in client.search_experiments(view_type=ViewType.ALL):
    runs = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL, max_results=1000)
    models = client.search_logged_models([experiment.experiment_id])
    experiments[experiment.name] = {
        "stage": experiment.lifecycle_stage,
        "runs": [run_of(run) for run in runs],
        "models": [model_of(model) for model in models],
    }
registered = {
    model.name: [
        {"version": version.version, "source": version.source, "run": version.run_id, "status": version.status}
        for version in client.search_model_versions(f"name='{model.name}'")
    ]
    for model in client.search_registered_models()
}
print(json.dumps({"experiments": experiments, "registered": registered}))
