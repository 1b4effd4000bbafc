#!/usr/bin/env bash
# ---
# name: Install hello-web
# description: Installs the page server, a small Python program, and its systemd unit.
# inputs:
#   PORT: {type: int, default: 8080, description: TCP port the page is served on.}
# packages: []
# timeout: 300
# retry_safe: true
# ...
#
# Why not nginx: the page shows facts about its own server, so something has to compute it, and
# python3 is already on every cloud image (cloud-init is written in it). One program then serves
# the same page on Debian, Ubuntu, Amazon Linux, Rocky and a stand-in machine, with no package to
# download: the template works on a server without a route to any mirror.
set -euo pipefail
umask 022

root="${SLIPWAY_ROOT:-}"
prog=/usr/local/lib/hello-web/hello_web.py
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
  echo "hello-web needs python3 and '$python' is not there: install the package python3" >&2
  exit 1
fi
case "${PORT:-8080}" in
  *[!0-9]* | '') echo "PORT must be a number from 1 to 65535, not '${PORT:-}'" >&2; exit 2 ;;
esac

put_file "$prog" 0755 <<'PYTHON'
#!/usr/bin/env python3
"""Serves one page that shows which server this is and which inputs it was launched with.

hello_web.py configure   write the page's data from the environment (inputs arrive there)
hello_web.py serve       serve in the foreground: what systemd runs
hello_web.py start       serve in the background, for a machine without a service manager
hello_web.py stop        end what `start` began: no new requests, those in hand are finished
hello_web.py status      say whether it runs, and where

Needs Python 3.9 and nothing else. Every path begins with $SLIPWAY_ROOT, empty on a real server.
"""

import argparse
import errno
import fcntl
import hashlib
import hmac
import html
import http.server
import json
import os
import re
import signal
import socketserver
import sys
import threading
import time
import urllib.request

ROOT = os.environ.get("SLIPWAY_ROOT", "")
PAGE = ROOT + "/etc/hello-web/page.json"
#: SHA-256 of API_TOKEN in hex; the token itself is never written down.
TOKEN = ROOT + "/etc/hello-web/api-token.sha256"
PID = ROOT + "/run/hello-web/pid"
LISTEN = ROOT + "/run/hello-web/listen"
LOG = ROOT + "/var/log/hello-web.log"

ACCENTS = {
    "indigo": "#4f46e5",
    "teal": "#0f766e",
    "amber": "#b45309",
    "rose": "#be123c",
    "slate": "#475569",
}
STARTED = time.time()


# -- the page's data ------------------------------------------------------------------------


def read_page():
    try:
        with open(PAGE, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        sys.exit(f"{PAGE} is missing: run configure first")


def write_if_changed(path, text, mode):
    """Replace the file, whole or not at all; print whether it changed."""
    shown = path[len(ROOT) :]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            same = file.read() == text
        if same:
            os.chmod(path, mode)
            print(f"unchanged: {shown}")
            return
    new = f"{path}.{os.getpid()}"
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(new, mode)
    os.replace(new, path)
    print(f"wrote: {shown}")


def upstream_url(value):
    """`10.0.0.4`, `10.0.0.4:8080` and `http://10.0.0.4:8080/x` all name a page."""
    if "://" in value:
        return value
    host, _, rest = value.partition("/")
    if ":" not in host:
        host += ":8080"
    return f"http://{host}/{rest}"


def probe(url, tries, pause_s):
    """Fetch the upstream's page from here; the last failure is raised."""
    # No proxy: an upstream is a neighbour, and a stand-in machine's address is on loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    left = tries
    while True:
        left -= 1
        try:
            with opener.open(url, timeout=5) as answer:
                body = answer.read(65536).decode("utf-8", "replace")
                title = re.search(r"<title>(.*?)</title>", body, re.S)
                return {
                    "url": url,
                    "status": answer.status,
                    "server": answer.headers.get("X-Slipway-Server", ""),
                    "title": html.unescape(title.group(1)).strip() if title else "",
                }
        except OSError as error:  # URLError is one
            if left <= 0:
                raise
            print(f"waiting for {url}: {error}", flush=True)
            time.sleep(pause_s)


def configure(args):
    env = os.environ
    if args.only_greeting:
        page = read_page()
        page["greeting"] = env["GREETING"]
        for row in page["inputs"]:
            if row["name"] == "GREETING":
                row["value"] = env["GREETING"]
        write_if_changed(PAGE, json.dumps(page, indent=2) + "\n", 0o644)
        return
    color = env.get("COLOR") or "indigo"
    if color not in ACCENTS:
        sys.exit(f"COLOR must be one of {', '.join(ACCENTS)}, not {color!r}")
    inputs = [
        {"name": "GREETING", "type": "text", "value": env.get("GREETING", "")},
        {"name": "COLOR", "type": "choice", "value": color},
        {"name": "PORT", "type": "int", "value": env.get("PORT", "8080")},
        {"name": "UPSTREAM", "type": "text", "value": env.get("UPSTREAM", "")},
        {"name": "UPSTREAM_HOST", "type": "env", "value": env.get("UPSTREAM_HOST", "")},
        # Whether it is set, and nothing else: the value stops here.
        {"name": "API_TOKEN", "type": "secret", "set": bool(env.get("API_TOKEN"))},
    ]
    wanted = env.get("UPSTREAM_HOST") or env.get("UPSTREAM") or ""
    upstream = None
    if wanted:
        url = upstream_url(wanted)
        try:
            upstream = probe(url, args.tries, args.pause_s)
        except OSError as error:
            sys.exit(f"the upstream {url} was not reached from here: {error}")
        print(f"reached: {url} (HTTP {upstream['status']} {upstream['title']})")
    page = {
        "server": env.get("SLIPWAY_SERVER_NAME", "") or os.uname().nodename,
        "template": env.get("SLIPWAY_TEMPLATE", ""),
        "launch": env.get("SLIPWAY_LAUNCH_ID", ""),
        "greeting": env.get("GREETING", ""),
        "color": color,
        "port": int(env.get("PORT") or 8080),
        "inputs": inputs,
        "upstream": upstream,
    }
    write_if_changed(PAGE, json.dumps(page, indent=2) + "\n", 0o644)
    token = env.get("API_TOKEN", "")
    digest = hashlib.sha256(token.encode()).hexdigest() + "\n" if token else ""
    write_if_changed(TOKEN, digest, 0o600)


# -- the page -------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --bg: #f8fafc; --fg: #0f172a; --dim: #64748b; --card: #fff;
  --line: #e2e8f0; }
@media (prefers-color-scheme: dark) { :root { --bg: #0b1120; --fg: #e2e8f0; --dim: #94a3b8;
  --card: #111827; --line: #1f2937; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--fg);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
header { background: var(--accent); color: #fff; padding: 3.5rem 1.5rem 5rem; }
header div, main { max-width: 46rem; margin: 0 auto; }
h1 { font-size: clamp(1.8rem, 5vw, 3rem); line-height: 1.15; margin: 0 0 .5rem;
  overflow-wrap: anywhere; }
header p { margin: 0; opacity: .85; }
main { padding: 0 1.5rem 3rem; margin-top: -2.5rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  padding: 1.25rem 1.5rem; margin-bottom: 1.25rem; box-shadow: 0 1px 3px rgb(0 0 0 / .08); }
h2 { font-size: .8rem; letter-spacing: .06em; text-transform: uppercase; color: var(--dim);
  margin: 0 0 .75rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .45rem .75rem .45rem 0;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; }
tr:first-child > * { border-top: 0; }
th { font-weight: 500; color: var(--dim); white-space: nowrap; width: 1%; padding-right: 2rem; }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, monospace; }
i { color: var(--dim); }
a { color: inherit; }
.ok::before { content: "\\25CF  "; color: #16a34a; }
"""


def esc(value):
    return html.escape(str(value))


def input_cell(row):
    if "set" in row:
        return "<i>set, hidden</i>" if row["set"] else "<i>not set</i>"
    return f"<code>{esc(row['value'])}</code>" if row["value"] != "" else "<i>not set</i>"


def table(rows):
    body = "".join(f"<tr><th scope=row>{esc(name)}</th><td>{cell}</td></tr>" for name, cell in rows)
    return f"<table>{body}</table>"


def render(page):
    now = time.time()
    served = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    about = [
        ("Server", esc(page["server"])),
        ("Template", f"<code>{esc(page['template'] or 'unknown')}</code>"),
        ("Launch", f"<code>{esc(page['launch'] or 'unknown')}</code>"),
        ("Served at", f"<time>{served}</time>"),
        ("Running for", f"{int(now - STARTED)} s"),
    ]
    up = page["upstream"]
    upstream = ""
    if up:
        said = f", which says “{esc(up['title'])}”" if up["title"] else ""
        name = f" ({esc(up['server'])})" if up["server"] else ""
        upstream = (
            "<section id=upstream><h2>Upstream</h2><p class=ok style='margin:0'>Reached "
            f"<code>{esc(up['url'])}</code>{name} from this server while it was being configured: "
            f"HTTP {up['status']}{said}</p></section>"
        )
    inputs = table((f"{row['name']}", input_cell(row)) for row in page["inputs"])
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{esc(page['greeting'])} from {esc(page['server'])}</title>"
        f"<style>:root {{ --accent: {ACCENTS[page['color']]}; }}{STYLE}</style></head><body>"
        f"<header><div><h1>{esc(page['greeting'])}</h1>"
        f"<p>from {esc(page['server'])}</p></div></header><main>"
        f"<section><h2>This server</h2>{table(about)}</section>"
        f"<section id=inputs><h2>Inputs</h2>{inputs}</section>{upstream}"
        "</main></body></html>"
    )


def token_digest():
    """From systemd's credential where it runs us: the service's own account cannot read /etc."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    path = os.path.join(directory, "api-token-sha256") if directory else TOKEN
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


class Handler(http.server.BaseHTTPRequestHandler):
    server_version = "hello-web"
    sys_version = ""
    #: Seconds a client may be silent: an idle connection must not hold up a drain for ever.
    timeout = 5

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/":
            self.answer(200, "text/html; charset=utf-8", render(read_page()))
        elif path == "/healthz":
            self.answer(200, "text/plain; charset=utf-8", "ok\n")
        elif path == "/inputs.json":
            self.inputs()
        else:
            self.answer(404, "text/plain; charset=utf-8", "there is / and /inputs.json\n")

    do_HEAD = do_GET

    def inputs(self):
        """The page's data for programs, for whoever holds API_TOKEN."""
        want = token_digest()
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        have = hashlib.sha256(token.strip().encode("utf-8", "replace")).hexdigest()
        if want and scheme.lower() == "bearer" and hmac.compare_digest(want, have):
            self.answer(200, "application/json", json.dumps(read_page(), indent=2) + "\n")
        else:
            self.answer(401, "text/plain; charset=utf-8", "send API_TOKEN as a bearer token\n")

    def answer(self, status, kind, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        )
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        # Header values are latin-1 on the wire; a server's name is plain ASCII.
        self.send_header("X-Slipway-Server", self.server.name.encode("ascii", "replace").decode())
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


def bind(address, port, any_port):
    """Listen; with any_port a taken port is replaced by a free one."""
    try:
        server = Server((address, port), Handler)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            sys.exit(f"cannot listen on {address}:{port}: {error.strerror}")
        if not any_port:
            sys.exit(
                f"cannot listen on {address}:{port}: {error.strerror}; set PORT to another number"
            )
        server = Server((address, 0), Handler)
        print(f"port {port} is taken on {address}: using {server.server_port}")
    server.name = read_page()["server"]
    return server


def run(server):
    def stop(*_):
        # From a thread: shutdown() waits for serve_forever(), which this handler interrupted.
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    print("stopped: requests in hand were finished", flush=True)


def serve(args):
    server = bind(args.address, read_page()["port"], any_port=False)
    print(f"serving http://{args.address}:{server.server_port}/", flush=True)
    run(server)


# -- without a service manager ----------------------------------------------------------------


def lock_pid_file():
    """The open pid file, locked, or None when the process that serves holds it.

    The lock is the truth and ends with the process; a number in a file may be anybody's later.
    """
    os.makedirs(os.path.dirname(PID), exist_ok=True)
    handle = os.open(PID, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def listening():
    with open(LISTEN, encoding="utf-8") as file:
        return file.read().strip()


def start(args):
    lock = lock_pid_file()
    if lock is None:
        print(f"unchanged: serves http://{listening()}/")
        return
    server = bind(args.address, read_page()["port"], any_port=True)
    where = f"{args.address}:{server.server_port}"
    os.ftruncate(lock, 0)  # the number of an earlier process must not be signalled
    write_if_changed(LISTEN, where + "\n", 0o644)
    os.makedirs(os.path.dirname(LOG), exist_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.pwrite(lock, f"{child}\n".encode(), 0)
        print(f"started: serves http://{where}/ as process {child}")
        sys.stdout.flush()
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


def stop(args):
    deadline = time.monotonic() + args.wait_s
    sent = None
    while True:
        lock = lock_pid_file()
        if lock is not None:
            os.close(lock)
            print("stopped: no longer serves" if sent else "unchanged: does not run")
            return
        number = signal.SIGKILL if time.monotonic() > deadline else signal.SIGTERM
        if sent != number:
            with open(PID, encoding="utf-8") as file:
                pid = file.read().strip()
            if pid:
                os.kill(int(pid), number)
                sent = number
                if number == signal.SIGKILL:
                    print(f"killed: process {pid} did not end in {args.wait_s:g} s")
        time.sleep(0.05)


def status(_args):
    lock = lock_pid_file()
    if lock is None:
        print(f"serves http://{listening()}/")
        return
    sys.exit("does not run")


def main():
    parser = argparse.ArgumentParser(description="Serves one page about this server.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("configure")
    command.add_argument("--only-greeting", action="store_true")
    command.add_argument("--tries", type=int, default=int(os.environ.get("HELLO_WEB_TRIES", "15")))
    command.add_argument("--pause-s", type=float, default=2.0)
    command.set_defaults(call=configure)
    for name, call in (("serve", serve), ("start", start)):
        command = commands.add_parser(name)
        command.add_argument("--address", default="0.0.0.0")
        command.set_defaults(call=call)
    command = commands.add_parser("stop")
    command.add_argument("--wait-s", type=float, default=10.0)
    command.set_defaults(call=stop)
    command = commands.add_parser("status")
    command.set_defaults(call=status)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
PYTHON
program="$wrote"

if [ -n "$root" ]; then
  if [ "$program" = yes ]; then
    # A server of the version before is ended here; start.sh starts this one.
    "$python" "$root$prog" stop
  fi
  echo "left out: the systemd unit, because a stand-in machine has no service manager;" \
    "the page server is started by hand and does not come back after a reboot"
  exit 0
fi

put_file /etc/systemd/system/hello-web.service 0644 <<UNIT
[Unit]
Description=hello-web: a page about this server
After=network-online.target
Wants=network-online.target

[Service]
ExecStart=$(command -v "$python") $prog serve
LoadCredential=api-token-sha256:/etc/hello-web/api-token.sha256
DynamicUser=yes
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
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
if [ "$program$wrote" != nono ] && systemctl --quiet is-active hello-web; then
  systemctl restart hello-web
  echo "restarted: hello-web, which ran the version before"
fi

# Rocky can come with firewalld; the clouds' own firewalls are the template user's affair.
if command -v firewall-cmd >/dev/null 2>&1 && firewall-cmd --quiet --state 2>/dev/null; then
  if firewall-cmd --quiet --permanent --query-port="${PORT:-8080}/tcp"; then
    echo "unchanged: firewalld lets ${PORT:-8080}/tcp in"
  else
    firewall-cmd --quiet --permanent --add-port="${PORT:-8080}/tcp"
    firewall-cmd --quiet --add-port="${PORT:-8080}/tcp"
    echo "opened: ${PORT:-8080}/tcp in firewalld"
  fi
fi
