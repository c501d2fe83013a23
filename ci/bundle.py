#!/usr/bin/env python3
"""Packs what `./hopper4j bundle` built: one folder and its archive, which run where there is only an NVIDIA driver."""

import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "target"
JDK = Path(os.environ["JAVA_HOME"])
# jdk.zipfs: JUnit's console launcher finds no test in a jar without it, and does not say so.
MODULES = "java.base,java.logging,java.management,java.xml,jdk.management,jdk.unsupported,jdk.zipfs"
DRAWING = ("xchart-", "VectorGraphics2D-")
LIMIT_MB = 40


def jlink(into):
    options = ["--strip-debug", "--no-header-files", "--no-man-pages", "--compress", "zip-0"]  # xz packs better than zip
    subprocess.run([JDK / "bin" / "jlink", "--add-modules", MODULES, "--output", into, *options], check=True)
    for library in into.rglob("*.so"):
        subprocess.run(["strip", "--strip-unneeded", library], check=True)


def copy(sources, into):
    into.mkdir(parents=True)
    for source in sources:
        shutil.copy2(source, into)


def commit():
    def git(*arguments):
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()

    dirty = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("-dirty" if dirty else "")


def archive(folder, path):
    def plain(member):
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    # x86: machine code packs better; 64 MB: the library and its tests contain the same kernels.
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 64 << 20}]
    with lzma.open(path, "wb", filters=filters) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(folder, folder.name, filter=plain)


def main():
    version = re.search(r"<version>(.*?)</version>", (ROOT / "pom.xml").read_text()).group(1)
    folder = TARGET / "bundle" / f"hopper4j-{version}-linux-x86_64"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)

    print("bundle: Java runtime", flush=True)
    jlink(folder / "runtime")
    # `report` draws with java.desktop, which the runtime leaves out: it is for development machines.
    libraries = [jar for jar in sorted((TARGET / "benchmarks" / "lib").glob("*.jar")) if not jar.name.startswith(DRAWING)]
    libraries.append(TARGET / "benchmarks" / f"hopper4j-benchmarks-{version}.jar")
    names = {library.name for library in libraries}
    tests = [jar for jar in (TARGET / "benchmarks" / "test-lib").glob("*.jar") if jar.name not in names]
    tests = [jar for jar in tests if not jar.name.startswith(DRAWING)]
    tests += TARGET.glob("*/*-tests.jar")
    copy(libraries, folder / "lib")
    copy(sorted(tests), folder / "tests")
    binaries = ["libhopper4j.so", "libhopper4j_bench.so", "hopper4j_tests"]
    copy([TARGET / "native" / name for name in binaries], folder / "native")
    for binary in (folder / "native").iterdir():
        subprocess.run(["strip", "--strip-unneeded", binary], check=True)
    copy([ROOT / "ci" / "bundle" / name for name in ("hopper4j", "sanitize", "sanitize.txt")], folder / "bin")
    (folder / "COMMIT").write_text(commit() + "\n")
    copy([ROOT / "LICENSE"], folder / "licenses")
    shutil.copy2(ROOT / ".toolchain" / "cutlass" / "LICENSE.txt", folder / "licenses" / "CUTLASS.txt")

    print("bundle: archive", flush=True)
    packed = folder.parent / f"{folder.name}.tar.xz"
    archive(folder, packed)
    megabytes = packed.stat().st_size / 1e6
    print(f"bundle: {packed.relative_to(ROOT)}: {megabytes:.1f} MB", flush=True)
    if megabytes > LIMIT_MB:
        print(f"bundle: too large: {megabytes:.1f} MB, at most {LIMIT_MB} MB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
