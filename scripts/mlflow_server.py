#!/usr/bin/env python3
"""An MLflow server on loopback for tests, which ends when this program's standard input does: also when whoever
started it was killed.

    mlflow_server.py FOLDER PORT [APP]

FOLDER keeps its database and its artifacts. APP is an `--app-name`, such as basic-auth, whose administrator is then
admin with the password of the environment variable ADMIN_PASSWORD."""
import os
import signal
import subprocess
import sys
from pathlib import Path

folder, port = Path(sys.argv[1]).absolute(), sys.argv[2]
app = sys.argv[3:]
environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
environment |= {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests",
}
if app:
    settings = folder / "auth.ini"
    settings.write_text(
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = sqlite:///{folder}/auth.db\n"
        "admin_username = admin\n"
        f"admin_password = {os.environ['ADMIN_PASSWORD']}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment["MLFLOW_AUTH_CONFIG_PATH"] = str(settings)
command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
command += ["--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")]
if app:
    command += ["--app-name", app[0]]
with open(folder / "server.log", "ab") as log:
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=folder
    )
sys.stdin.read()
os.killpg(server.pid, signal.SIGKILL)
server.wait()
