#!/usr/bin/env bash
# ---
# name: Install the application
# description: Installs the example application and its systemd unit.
# inputs: {}
# packages: []
# timeout: 300
# retry_safe: true
# ...
#
# The application is as small as one can be that depends on a database: /healthz says whether
# PostgreSQL answers now. Put your own in its place; the shape of the scripts stays.
set -euo pipefail
umask 022

root="${SLIPWAY_ROOT:-}"
prog=/usr/local/lib/app-server/app_server.py
python="${SLIPWAY_PYTHON:-python3}"

# put_file PATH MODE: standard input becomes $root/PATH, whole or not at all; `wrote` says whether
# anything changed.
put_file() {
  local dest="$root$1" new
  mkdir -p "$(dirname "$dest")"
  new="$(mktemp "$dest.XXXXXX")"
  cat >"$new"
  chmod "$2" "$new"
  wrote=no
  if [ -f "$dest" ] && cmp -s "$new" "$dest"; then
    rm -f "$new"
    chmod "$2" "$dest"
    echo "unchanged: $1"
  else
    mv -f "$new" "$dest"
    wrote=yes
    echo "wrote: $1"
  fi
}

if ! command -v "$python" >/dev/null 2>&1; then
  echo "the application needs python3 and '$python' is not there: install the package python3" >&2
  exit 1
fi

put_file "$prog" 0755 <<'PYTHON'
#!/usr/bin/env python3
"""An application that needs PostgreSQL: /healthz is 200 while the database answers, else 503.

app_server.py serve    serve in the foreground: what systemd runs
app_server.py start    serve in the background, for a machine without a service manager
app_server.py stop     end what `start` began
app_server.py check    ask the database once; the exit code says whether it answers

Needs Python 3.9 and nothing else. Settings are read from $SLIPWAY_ROOT/etc/app-server/config.json.
"""

import argparse
import fcntl
import http.server
import json
import os
import signal
import socket
import socketserver
import struct
import sys
import threading
import time

ROOT = os.environ.get("SLIPWAY_ROOT", "")
CONFIG = ROOT + "/etc/app-server/config.json"
PID = ROOT + "/run/app-server/pid"
LOG = ROOT + "/var/log/app-server.log"

#: https://www.postgresql.org/docs/current/protocol-message-formats.html, SSLRequest: its length
#: and a number no protocol version has. The server answers with one byte, S or N.
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def read_config():
    try:
        with open(CONFIG, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        sys.exit(f"{CONFIG} is missing: run configure first")


def ask_postgres(host, port, timeout_s=3.0):
    """(answers, a sentence): whether something that speaks PostgreSQL's protocol is there.

    More than an open port and less than a login: no password is needed, and a proxy or another
    program on that port is told from PostgreSQL.
    """
    began = time.monotonic()
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(SSL_REQUEST)
            answer = connection.recv(1)
    except OSError as error:
        return False, f"{host}:{port} does not answer: {error}"
    if answer not in (b"S", b"N"):
        return False, f"{host}:{port} answers {answer!r}, which is not PostgreSQL"
    tls = "offers TLS" if answer == b"S" else "without TLS"
    return True, f"PostgreSQL at {host}:{port} answers ({tls}, {time.monotonic() - began:.3f} s)"


class Handler(http.server.BaseHTTPRequestHandler):
    server_version = "app-server"
    sys_version = ""
    timeout = 5

    def do_GET(self):
        config = self.server.config
        if self.path == "/healthz":
            answers, said = ask_postgres(config["db_host"], config["db_port"])
            self.answer(200 if answers else 503, {"database": said, "healthy": answers})
        elif self.path == "/":
            self.answer(200, {"server": config["server"], "role": config["role"]})
        else:
            self.answer(404, {"error": "there is / and /healthz"})

    do_HEAD = do_GET

    def answer(self, status, value):
        body = (json.dumps(value) + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    # Not daemon threads: closing waits for the requests in hand.
    daemon_threads = False
    request_queue_size = 128

    def server_bind(self):
        # Without HTTPServer's look-up of the address in DNS, which can hang for seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]


def bind():
    config = read_config()
    try:
        server = Server((config["address"], config["port"]), Handler)
    except OSError as error:
        sys.exit(f"cannot listen on {config['address']}:{config['port']}: {error.strerror}")
    server.config = config
    return server


def run(server):
    def stop(*_):
        # From a thread: shutdown() waits for serve_forever(), which this handler interrupted.
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server.serve_forever(poll_interval=0.1)
    server.server_close()


def lock_pid_file():
    """The open pid file, locked, or None when the process that serves holds it."""
    os.makedirs(os.path.dirname(PID), exist_ok=True)
    handle = os.open(PID, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def start():
    lock = lock_pid_file()
    if lock is None:
        print("unchanged: the application runs")
        return
    server = bind()
    os.ftruncate(lock, 0)  # the number of an earlier process must not be signalled
    os.makedirs(os.path.dirname(LOG), exist_ok=True)
    child = os.fork()
    if child:
        os.pwrite(lock, f"{child}\n".encode(), 0)
        print(f"started: the application, as process {child}", flush=True)
        os._exit(0)  # no clean-up here: the socket and the lock are the child's now
    os.setsid()
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # Whatever else came from the caller is closed: a session waits for every holder of its pipes.
    for handle in range(3, 256):
        if handle not in (lock, server.fileno()):
            try:
                os.close(handle)
            except OSError:
                continue  # was not open
    os.chdir(ROOT or "/")
    run(server)


def stop():
    deadline = time.monotonic() + 10
    sent = None
    while True:
        lock = lock_pid_file()
        if lock is not None:
            os.close(lock)
            print("stopped: the application" if sent else "unchanged: the application does not run")
            return
        number = signal.SIGKILL if time.monotonic() > deadline else signal.SIGTERM
        if sent != number:
            with open(PID, encoding="utf-8") as file:
                pid = file.read().strip()
            if pid:
                os.kill(int(pid), number)
                sent = number
        time.sleep(0.05)


def check():
    config = read_config()
    answers, said = ask_postgres(config["db_host"], config["db_port"])
    print(said)
    sys.exit(0 if answers else 1)


def main():
    commands = {"serve": lambda: run(bind()), "start": start, "stop": stop, "check": check}
    parser = argparse.ArgumentParser(description="An application that needs PostgreSQL.")
    parser.add_argument("command", choices=sorted(commands))
    commands[parser.parse_args().command]()


if __name__ == "__main__":
    main()
PYTHON
program="$wrote"

if [ -n "$root" ]; then
  if [ "$program" = yes ]; then
    # The version before is ended here; configure.sh starts this one.
    "$python" "$root$prog" stop
  fi
  echo "left out: the systemd unit, because a stand-in machine has no service manager;" \
    "the application does not come back after a reboot"
  exit 0
fi

put_file /etc/systemd/system/app-server.service 0644 <<UNIT
[Unit]
Description=app-server: an application that needs PostgreSQL
After=network-online.target
Wants=network-online.target

[Service]
ExecStart=$(command -v "$python") $prog serve
DynamicUser=yes
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
Restart=on-failure
RestartSec=1
TimeoutStopSec=15

[Install]
WantedBy=multi-user.target
UNIT
if [ "$wrote" = yes ]; then
  systemctl daemon-reload
  echo "reloaded: systemd's units"
fi
if [ "$program$wrote" != nono ] && systemctl --quiet is-active app-server; then
  systemctl restart app-server
  echo "restarted: app-server, which ran the version before"
fi
# Rocky can come with firewalld; the clouds' own firewalls are the template user's affair.
if command -v firewall-cmd >/dev/null 2>&1 && firewall-cmd --quiet --state 2>/dev/null; then
  if firewall-cmd --quiet --permanent --query-port=8000/tcp; then
    echo "unchanged: firewalld lets 8000/tcp in"
  else
    firewall-cmd --quiet --permanent --add-port=8000/tcp
    firewall-cmd --quiet --add-port=8000/tcp
    echo "opened: 8000/tcp in firewalld"
  fi
fi
