"""A whole rbee of real processes, under a folder of its own, on ports that are free."""

import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path

import openai

ROOT = Path(__file__).resolve().parents[2]
MODEL = "smollm2-135m"
EMBEDDING_MODEL = "all-minilm-l6-v2"

# One thread a worker: several rbees and their tests share the machine's cores.
CONFIG = """\
[queen]
bind = "127.0.0.1:0"

[hive]
bind = "127.0.0.1:0"
worker_ports = "0"

[worker]
heartbeat_interval_ms = 200
threads = 1
"""


class Rbee:
    """Started by `up`, ended by `down`; in between `keeper` and `client` talk to it."""

    def __init__(self, home: Path, settings: dict[str, str]):
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.toml").write_text(CONFIG)
        foreign = ("RBEE_", "OPENAI_")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        self.environment |= {"RBEE_HOME": str(home), **settings}

    def up(self) -> None:
        self.keeper("up")

    def down(self) -> None:
        self.keeper("down")

    def keeper(self, *arguments: str) -> str:
        """Runs rbee-keeper to its end and gives what it printed."""
        done = subprocess.run(
            [str(bin_folder() / "rbee-keeper"), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        command = " ".join(("rbee-keeper", *arguments[:2]))
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stderr}{self.logs()}"
        return done.stdout

    def load_model(self, slots: int) -> None:
        self._load(MODEL, model_file("fetch-demo-model.sh"), slots)

    def load_embedding_model(self) -> None:
        self._load(EMBEDDING_MODEL, model_file("fetch-embedding-model.sh"), slots=1)

    def _load(self, alias: str, file: Path, slots: int) -> None:
        self.keeper("model", "import", str(file), "--alias", alias)
        self.keeper("worker", "spawn", "--model", alias, "--device", "CPU-0", "--slots", str(slots))
        wait_until("the worker is ready", lambda: "ready" in [w["state"] for w in self.workers()])

    @property
    def address(self) -> str:
        text = (self.home / "run" / "queen-rbee.addr").read_text().strip()
        return text if text.startswith("http") else f"http://{text}"

    def client(self, api_key: str = "unused") -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.address}/v1", api_key=api_key, max_retries=0, timeout=60
        )

    def workers(self) -> list:
        """The workers as the queen knows them."""
        with urllib.request.urlopen(f"{self.address}/v1/status", timeout=10) as answer:
            return json.load(answer)["workers"]

    def run_job(self, operation: dict) -> list:
        """Runs an operation to its end and gives its events."""
        request = urllib.request.Request(
            f"{self.address}/v1/jobs",
            data=json.dumps({"operation": operation}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            job = json.load(answer)["job_id"]
        with urllib.request.urlopen(f"{self.address}/v1/jobs/{job}/stream", timeout=60) as stream:
            lines = (line.decode().strip() for line in stream)
            data = (line.removeprefix("data: ") for line in lines if line.startswith("data: "))
            return [json.loads(event) for event in data if event != "[DONE]"]

    def busy_slots(self) -> int:
        """Slots with a running request, and requests that the queen has sent on."""
        return sum(max(w["slots"]["busy"], w["in_flight"]) for w in self.workers())

    def logs(self) -> str:
        """The last lines of each daemon's log."""
        logs = sorted((self.home / "run" / "logs").glob("**/*.log"))
        tails = ("\n".join(path.read_text(errors="replace").splitlines()[-15:]) for path in logs)
        return "".join(f"\n--- {path.name}\n{tail}\n" for path, tail in zip(logs, tails))


def wait_until(what: str, holds, seconds: float = 20) -> float:
    """Waits for a condition and tells how long it took; at the deadline says what was missing."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


def bin_folder() -> Path:
    return Path(os.environ.get("RBEE_BIN_DIR") or ROOT / "target" / "release")


def model_file(script: str) -> Path:
    """The model's file, fetched if it is not there."""
    done = subprocess.run([str(ROOT / "scripts" / script)], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())
