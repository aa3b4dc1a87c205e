"""What the figures were measured on."""

import os
import platform
import re
import time


def cpu_model():
    with open("/proc/cpuinfo") as file:
        found = re.search(r"^model name\s*: (.*)$", file.read(), re.M)
    return found.group(1).strip() if found else platform.machine()


def memory_gib():
    with open("/proc/meminfo") as file:
        return int(re.search(r"MemTotal:\s+(\d+)", file.read()).group(1)) / (1 << 20)


def file_system(path):
    """Type of the file system that holds `path`: of the longest mount point that is its beginning."""
    path, best = os.path.realpath(path), ("", "unknown")
    with open("/proc/mounts") as file:
        for line in file:
            _, mount, kind = line.split()[:3]
            if (path + "/").startswith(mount.rstrip("/") + "/") and len(mount) >= len(best[0]):
                best = (mount, kind)
    return best[1]


def seconds_a_file(scratch, n_files=4000):
    """What making a small file costs here, of CPU time: the part of a restore that is the same for every tool."""
    directory = f"{scratch}/files"
    os.makedirs(directory)
    started = time.process_time()
    for n in range(n_files):
        with open(f"{directory}/{n}", "wb") as file:
            file.write(b"x" * 3000)
    return (time.process_time() - started) / n_files


def describe(work):
    """The machine in words, for the report."""
    cores = len(os.sched_getaffinity(0))
    return (f"{cpu_model()}, {cores} cores, {memory_gib():.0f} GiB; Linux {platform.release()}; {file_system(work)}; "
            f"load before the run {os.getloadavg()[0]:.2f}; inputs in the page cache as far as they fit")


def slug():
    """Names a kind of machine, not one machine: for the names of the files."""
    words = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)|@.*|processor|cpu", "", cpu_model().lower())).strip("-")
    return f"{words}-{len(os.sched_getaffinity(0))}-cores"
