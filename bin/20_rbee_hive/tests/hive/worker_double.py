"""Stands in for llm-worker-rbee where a test needs a worker that misbehaves.

usage: worker_double.py BEHAVIOUR HOME [the worker's own arguments]
"""

import http.server
import json
import os
import re
import signal
import sys
import threading
import time

behaviour, home, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]


def flag(name):
    return arguments[arguments.index(name) + 1]


def fail(message):
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(1)


def once(name):
    """Whether this is the first call of this double in this home."""
    try:
        os.close(os.open(os.path.join(home, name), os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False


def answer_question():
    if arguments[0] == "devices":
        if behaviour == "no-devices":
            fail("no backend can be loaded")
        device = {"backend": "double", "memory_total_bytes": 1, "memory_free_bytes": 1}
        try:
            with open(os.path.join(home, "devices")) as told:
                print(told.read())
        except FileNotFoundError:
            print(json.dumps([{"id": "CPU-0", "name": "a double", **device}]))
    elif arguments[0] == "fit":
        nothing = {"mapped_bytes": 0, "context_bytes": 0, "compute_bytes": 0}
        # Two of these are more than the 64 MiB that a hive of these tests may give.
        large = 36 << 20
        needs = {"weights_bytes": large if behaviour.startswith("needs-much") else 1, **nothing}
        if behaviour == "maps-much":
            needs["mapped_bytes"] = large
        print(json.dumps([{"device": "CPU-0", **needs}]))
    else:
        if behaviour == "inspect-crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        if behaviour == "inspect-hangs" and once("inspecting"):
            threading.Event().wait()
        size = os.path.getsize(arguments[1])
        with open(arguments[1], "rb") as file:
            head = file.read(64)
        kind = "clip" if b"mmproj" in head[:16] else "double"
        width = re.search(rb"width=(\d+)", head)
        purpose = re.search(rb"kind=(\w+)", head)
        told = {"kind": purpose[1].decode()} if purpose and behaviour != "tells-no-kind" else {}
        if behaviour == "knows-better":
            told = {"kind": "generative"}
        print(json.dumps({
            **told,
            "embedding_length": int(width[1]) if width else None,
            "architecture": kind, "quantization": "F32", "parameters": 1,
            "context_length": 8, "has_chat_template": False, "size_bytes": size,
        }))


def end_when_told():
    """Ends with the exit status in the file `end`, in each of its lives, as long as that is there."""
    while True:
        time.sleep(0.02)
        try:
            with open(os.path.join(home, "end")) as file:
                status = int(file.read())
        except (FileNotFoundError, ValueError):
            continue
        # Not before the hive has seen it ready.
        time.sleep(0.3)
        print(f"error: told to end with {status}", file=sys.stderr, flush=True)
        os._exit(status)


state = {"state": "loading", "progress": 0.25}


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        slots = {"total": 1, "busy": 0}
        report = {"worker_id": flag("--worker-id"), "model": flag("--alias"), **state,
                  "slots": slots, "queued": 0, "context_length": 8}
        body = json.dumps(report).encode()
        self.send_response(200 if state["state"] == "ready" else 503)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve():
    if "--nope" in arguments:
        print("error: unexpected argument '--nope' found", file=sys.stderr, flush=True)
        sys.exit(2)
    if behaviour in ("dies-at-start", "needs-much-and-dies"):
        print("reading tensors", file=sys.stderr)
        fail("tensor 'output.weight' is missing")
    if behaviour == "exits-0":
        sys.exit(0)
    if behaviour == "port-snatched" and once("snatched"):
        fail("cannot listen on 127.0.0.1: Address already in use (os error 98)")
    if behaviour == "port-always-snatched":
        fail("cannot listen on 127.0.0.1: Address already in use (os error 98)")
    if behaviour in ("ignores-sigterm", "loads-and-ignores-sigterm"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if behaviour == "is-silent":
        threading.Event().wait()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(flag("--port"))), Health)
    if behaviour == "says-failed":
        state.clear()
        state.update(state="failed", reason="the file is truncated")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        time.sleep(1)
        fail("the file is truncated")
    if behaviour == "ends-when-told":
        threading.Thread(target=end_when_told, daemon=True).start()
    loads_on = ("loads-for-ever", "loads-and-ignores-sigterm", "needs-much")
    is_next = behaviour == "needs-much-twice" and not once("loaded")
    if behaviour not in loads_on and not is_next:
        state.clear()
        state.update(state="ready")
    server.serve_forever()


if arguments[0] in ("devices", "inspect", "fit"):
    answer_question()
else:
    serve()
