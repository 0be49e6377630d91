"""What the figures were measured on."""
import os
import platform
import subprocess


def first_line(*command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def processor():
    with open("/proc/cpuinfo") as f:
        lines = f.read().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    virtual = any(line.startswith("flags") and " hypervisor" in line for line in lines)
    return f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} processors, {names[0] if names else platform.machine()}{', virtual' if virtual else ''}"


def describe(directory):
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) >> 10
    return {"processor": processor(), "memory-mib": memory, "kernel": platform.release(),
            "file-system": first_line("findmnt", "-no", "FSTYPE,SOURCE,OPTIONS", "--target", directory),
            "fio": first_line("fio", "--version"), "qemu": first_line("qemu-img", "--version")}


def commit(directory):
    return first_line("git", "-C", directory, "describe", "--always", "--dirty")
