"""Measures the overhead of tracking during training: slices per second without tracking, and with an MLflow server that is
up, down, or takes five seconds for every response.

Each round trains the same small stage once per state of the server and compares within the round. The speed covers the
training loop from the end of the first to the end of the last epoch: steps, validation, checkpoints, tracking. Server and
training share the machine; the server runs at the lowest priority, and the CPU time of ctseg's process, which does not
depend on the server's load, is listed too. Waiting for the server at the end does not count towards the speed but is
included in the seconds of the command.

Needs Python 3.11 or later, and a Python with MLflow for the servers.

Run: cargo build --release && python scripts/bench_tracking.py [--rounds 5] [--epochs 12] [--device flex]
     [--binary target/release/ctseg] [--mlflow-python ~/.cache/ctseg/venv-mlflow/bin/python] [--states off down] [--json]
"""

import argparse
import http.client
import http.server
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STATES = ["off", "up", "down", "slow"]
TITLES = {"off": "no tracking", "up": "server up", "down": "server down", "slow": "server answers after {delay:g} s"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def mlflow_server(python, folder):
    """Starts a server with a database and an artifact proxy; returns its process and port once it answers."""
    port = free_port()
    command = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"]
    log = open(folder / "server.log", "w")
    server = subprocess.Popen(["nice", "-n", "19", *command], stdout=log, stderr=log, start_new_session=True)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
            return server, port
        except OSError:
            if server.poll() is not None:
                sys.exit(f"the MLflow server exited during start; see {log.name}")
            time.sleep(0.2)
    sys.exit(f"the MLflow server does not respond; see {log.name}")


def slow_server(behind, delay):
    """Starts a proxy that forwards every request to the port `behind` after `delay` seconds; returns its port."""

    class Slow(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            time.sleep(delay)
            there = http.client.HTTPConnection("127.0.0.1", behind, timeout=120)
            headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
            there.request(self.command, self.path, body, headers)
            answer = there.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.getheader("Content-Type") or "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            there.close()

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass  # ctseg may exit without waiting for responses

    server = Server(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def environment(uri):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CTSEG_", "MLFLOW_"))}
    return kept | ({"MLFLOW_TRACKING_URI": uri} if uri else {})


def fitted(args, data, folder, state, uri):
    """Trains in `folder`; returns slices per second, CPU seconds of ctseg, seconds of the command, number of events."""
    command = [str(args.binary), "--device", args.device, "fit", "--stage", "demo-coarse", "--fold", "0"]
    command += ["--no-out-of-fold", "--epochs", str(args.epochs), "--data", str(data)] if data else ["--epochs", "1"]
    for value in (
        f"training.patches_per_epoch={args.patches}",
        "training.early_stopping.patience=100000",
        "training.watched_cases=0",
    ):
        command += ["--set", value]
    if state == "off":
        command.append("--no-mlflow")
    folder.mkdir(parents=True)
    log = open(folder / "fit.log", "w")
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment(uri), stdout=log, stderr=log)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status != 0:
        sys.exit(f"ctseg fit failed; see {log.name}")
    (run,) = (folder / "runs").iterdir()
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    spool = run / "tracking" / "events.jsonl"
    events = sum(1 for _ in open(spool)) if spool.exists() else 0
    if len(epochs) < 2:
        return None
    loop = epochs[-1]["seconds"] - epochs[0]["seconds"]
    return {
        "slices_per_second": args.patches * (len(epochs) - 1) / loop,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "seconds": seconds,
        "events": events,
    }


def measured(args, folder):
    print("making phantoms", file=sys.stderr)
    fitted(args, None, folder / "data", "off", None)
    (data,) = (folder / "data").glob("*/dataset.toml")
    server, port = mlflow_server(os.path.expanduser(args.mlflow_python), folder)
    try:
        uris = {
            "off": None,
            "up": f"http://127.0.0.1:{port}",
            "down": f"http://127.0.0.1:{free_port()}",
            "slow": f"http://127.0.0.1:{slow_server(port, args.delay)}",
        }
        rounds = []
        for number in range(args.rounds):
            # Rotates the order, so that each state takes each position equally often.
            order = args.states[number % len(args.states) :] + args.states[: number % len(args.states)]
            found = {state: fitted(args, data, folder / f"{number}-{state}", state, uris[state]) for state in order}
            rounds.append(found)
            speeds = ", ".join(f"{state} {found[state]['slices_per_second']:.1f}" for state in args.states)
            print(f"round {number + 1}: {speeds} slices/s", file=sys.stderr)
        return rounds
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def table(rounds, delay):
    lines = [
        "| | slices/s | relative to no tracking | CPU s | relative to no tracking | command s | events |",
        "|---|---|---|---|---|---|---|",
    ]
    for state in rounds[0]:
        of = lambda key: [found[state][key] for found in rounds]
        share = lambda key: [found[state][key] / found["off"][key] for found in rounds]
        middle = statistics.median
        spread = lambda values: f"{middle(values):.4f} ({min(values):.3f}–{max(values):.3f})"
        lines.append(
            f"| {TITLES[state].format(delay=delay)} | {middle(of('slices_per_second')):.1f} "
            f"| {spread(share('slices_per_second'))} | {middle(of('cpu_seconds')):.1f} "
            f"| {spread(share('cpu_seconds'))} | {middle(of('seconds')):.1f} | {middle(of('events')):.0f} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/ctseg")
    parser.add_argument("--mlflow-python", default="~/.cache/ctseg/venv-mlflow/bin/python")
    parser.add_argument("--device", default="flex")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--patches", type=int, default=400, help="slices per epoch; 16 per step")
    parser.add_argument("--delay", type=float, default=5.0, help="response time of the slow server in seconds")
    parser.add_argument("--states", nargs="+", choices=STATES, default=STATES, help="must include off")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if "off" not in args.states:
        parser.error("--states must include 'off', the baseline")
    args.binary = args.binary.resolve()
    if not args.binary.exists():
        parser.error(f"{args.binary} does not exist; build it with 'cargo build --release', or choose another with --binary")
    with tempfile.TemporaryDirectory() as folder:
        rounds = measured(args, Path(folder))
    print(json.dumps(rounds, indent=2) if args.json else table(rounds, args.delay))


if __name__ == "__main__":
    main()
