#!/usr/bin/env python3
"""Runs an MLflow server on loopback for tests. It stops at the end of this program's standard input, so also when the
parent process is killed.

    mlflow_server.py FOLDER PORT [APP]

FOLDER gets the database and the artifacts, and a file `ready` once the server answers. APP is an `--app-name` such as
basic-auth, with the administrator admin and the password in the environment variable ADMIN_PASSWORD; such a server uses
TLS with the certificate authority FOLDER/ca.pem."""
import datetime
import ipaddress
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path


def write_certificates(folder):
    """Writes a certificate authority, ca.pem, and a certificate signed by it for 127.0.0.1, cert.pem with key.pem."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def signed(name, key, issuer, issuer_key, extension):
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).add_extension(extension, critical=False)
        builder = builder.add_extension(
            x509.BasicConstraints(ca=name == issuer, path_length=None), critical=True
        ).not_valid_before(now - datetime.timedelta(days=1))
        return builder.not_valid_after(now + datetime.timedelta(days=2)).sign(issuer_key, hashes.SHA256())

    def named(name):
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])

    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    pem = serialization.Encoding.PEM
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = signed(named("tests"), ca_key, named("tests"), ca_key, usage)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    own = signed(named("127.0.0.1"), key, named("tests"), ca_key, address)
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    (folder / "cert.pem").write_bytes(own.public_bytes(pem))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, *private))


def wait_until_ready(address, folder, tls):
    context = ssl.create_default_context(cafile=folder / "ca.pem") if tls else None
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), *([urllib.request.HTTPSHandler(context=context)] if tls else [])
    )
    while True:
        try:
            opener.open(f"{address}/health", timeout=5).close()
            break
        except OSError:
            time.sleep(0.1)
    (folder / "ready").touch()


folder, port = Path(sys.argv[1]).absolute(), sys.argv[2]
app = sys.argv[3:]
(folder / "ready").unlink(missing_ok=True)
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
    if not (folder / "ca.pem").exists():
        write_certificates(folder)
    command += ["--app-name", app[0]]
    command += ["--uvicorn-opts", f"--ssl-keyfile {folder}/key.pem --ssl-certfile {folder}/cert.pem"]
with open(folder / "server.log", "ab") as log:
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=folder
    )
address = f"{'https' if app else 'http'}://127.0.0.1:{port}"
threading.Thread(target=wait_until_ready, args=(address, folder, bool(app)), daemon=True).start()
sys.stdin.read()
os.killpg(server.pid, signal.SIGKILL)
server.wait()
