"""What the benchmark scripts share: building and running the server, reading its costs, printing tables."""

import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


def build():
    """Builds the server and the measuring programs; returns the folder they are in."""
    command = ["cargo", "build", "--release", "--bins", "--examples", "--message-format=json-render-diagnostics"]
    output = subprocess.run(command, cwd=TOP, stdout=subprocess.PIPE, check=True).stdout.decode()
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "stillcast":
            return pathlib.Path(message["executable"]).parent
    sys.exit("the server was not built")


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def status(pid, name):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise KeyError(name)


class Server:
    """The server on free ports in a folder of its own."""

    def __init__(self, folder, *settings):
        ports = [f"{name}.port=0" for name in ("ws", "wss", "http", "https", "legacy_https", "rtmp", "rtsp")]
        ports += ["media_port_from=0", "media_port_to=0", "ip=127.0.0.1", "ip_local=127.0.0.1", "log_level=error"]
        self.data = tempfile.TemporaryDirectory()
        arguments = [f"--set={setting}" for setting in [*ports, f"data_dir={self.data.name}", *settings]]
        config = TOP / "conf/flashphoner.properties"
        began = time.monotonic()
        self.process = subprocess.Popen(
            [folder / "stillcast", f"--config={config}", *arguments], stdout=subprocess.PIPE, text=True
        )
        self.banner = {}
        for line in self.process.stdout:
            if line.strip() == "ready":
                break
            name, _, value = line.partition(": ")
            self.banner[name] = value.split("  (")[0].strip()
        else:
            sys.exit("the server did not start")
        self.ready_seconds = time.monotonic() - began
        self.pid = self.process.pid

    def connection(self):
        return http.client.HTTPConnection(self.banner["http"].split("//")[1], timeout=30)

    def counter(self, name):
        connection = self.connection()
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
        self.data.cleanup()


class Load:
    """The load driver, publishing until it is left."""

    def __init__(self, folder, server, media, streams, seconds=600, more=()):
        command = [
            folder / "examples/load-driver", "--server", server.banner["ws"].split("//")[1], "--file", media,
            "--streams", str(streams), "--seconds", str(seconds), *more,
        ]
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.server, self.streams = server, streams

    def __enter__(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            connection = self.server.connection()
            connection.request("POST", "/rest-api/stream/find", '{"status":"PUBLISHING"}')
            response = connection.getresponse()
            found = json.loads(response.read())
            ready = [s for s in found if s["status"] == "PUBLISHING" and s["width"] > 0] if response.status == 200 else []
            if len(ready) >= self.streams:
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.log.seek(0)
        sys.exit(f"the load driver did not publish: {self.log.read()}")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def table(title, rows):
    print(f"\n### {title}\n")
    head = list(rows[0])
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(row[name]) for name in head) + " |", flush=True)
