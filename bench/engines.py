"""What is measured against what: each engine does a load and returns its figures and the command that did it.

A load is what a guest does: kind (read, write, randread, randwrite), bytes, depth, seconds, and for some how many operations a
flush comes after, or where: every position at multiples of a stride once.
Figures: rate (operations a second; of writes to the raw device and through a ring with the closing flush in the time), p50-us
and p99-us, and what the kernel counts of the serving processes (processes.Sample)."""
import json
import math
import os
import re
import shlex
import time
from dataclasses import dataclass, replace

from bed import BLOCK, DISK
from processes import Failed, Sample, run


@dataclass(frozen=True)
class Load:
    kind: str
    bytes: int = BLOCK
    depth: int = 32
    seconds: int = 0
    flush_every: int = 0
    stride: int = 0       # each position once, until all are done
    region: int = 0       # from the start; 0: all
    operations: int = 0   # instead of seconds

    @property
    def writes(self):
        return self.kind.endswith("write")

    def lasting(self, seconds):
        return replace(self, seconds=seconds)


def text(command):
    return shlex.join(str(part) for part in command)


def shortened(bed, command):
    """The command as a person would type it in the working directory."""
    return text(command).replace(bed.build + "/tests/programs/", "").replace(bed.build + "/", "").replace(bed.dir + "/", "")


def scattering_step(positions):
    """As ring_client's: with no common factor with the number of positions, near its golden section."""
    step = positions * 618 // 1000 + 1
    while math.gcd(step, positions) != 1:
        step += 1
    return step


# ---- fio ----

def fio(bed, load, *engine):
    command = ["fio", "--name=bench", f"--rw={load.kind}", f"--bs={load.bytes}", f"--iodepth={load.depth}", f"--size={load.region or bed.settings.image_bytes}",
               f"--runtime={load.seconds}", "--time_based", "--randrepeat=0", "--norandommap", "--refill_buffers", *engine]
    if load.flush_every:  # NBD has one kind of flush, which fio's engine knows by the other name
        command.append(f"--{'fsync' if '--ioengine=nbd' in engine else 'fdatasync'}={load.flush_every}")
    run(*command, "--output-format=json", f"--output={bed.path('fio.json')}", cwd=bed.dir)
    with open(bed.path("fio.json")) as f:
        said = f.read()
    job = json.loads(said[said.index("{"):])["jobs"][0]  # an engine may have written a line first
    side = job["write" if load.writes else "read"]
    if job["error"] or not side["total_ios"]:
        raise Failed(f"{text(command)}: fio's error {job['error']}")
    return side, shortened(bed, command)


def fio_figures(side, flush_s):
    percentile = side["clat_ns"]["percentile"]
    return {"rate": side["total_ios"] / (side["runtime"] / 1000 + flush_s), "p50-us": percentile["50.000000"] / 1000, "p99-us": percentile["99.000000"] / 1000}


def raw(bed, load):
    side, command = fio(bed, load, "--ioengine=libaio", "--direct=1", f"--filename={bed.raw()}")
    flush_s = 0.0
    if load.writes:
        fd, began = os.open(bed.raw(), os.O_RDWR), time.monotonic()
        os.fdatasync(fd)
        flush_s = time.monotonic() - began
        os.close(fd)
    return fio_figures(side, flush_s), command


def raw_sequential(bed, load):
    """What the device takes of sequential 64 KiB writes at depth 2, in blocks a second: the ceiling of a store that writes a log."""
    figures, command = raw(bed, Load("write", 65536, 2, load.seconds))
    return {**figures, "rate": figures["rate"] * 65536 / BLOCK}, command


# ---- Ours ----

class Ring:
    """A guest process with a disk of a ring; use as a context between whose begin and end the load runs."""

    def __init__(self, bed, load, image):
        self.bed, self.load, self.image = bed, load, image
        command = [bed.program("tests/programs/ring_client"), "--rw", load.kind, "--bs", load.bytes, "--depth", load.depth]
        for option, value in (("--seconds", load.seconds), ("--flush-every", load.flush_every), ("--stride", load.stride), ("--region", load.region),
                              ("--operations", load.operations)):
            command += [option, value] if value else []
        command += ["--once"] if load.stride else []
        self.command = [str(part) for part in command + ["bench"]]

    def begin(self):
        """Returns when the load has begun."""
        bed = self.bed
        self.guest = bed.start("ring_client", *self.command)
        found = self.guest.wait_for(lambda out: re.search(r"^guest .*domid=(\d+)", out, re.M), "its domain")
        self.checkpoints = bed.status()["counters"]["checkpoints"]
        self.before = Sample([bed.daemon.pid])
        for attempt in range(100):
            try:
                bed.parallax("attach", self.image, found.group(1), "--vdev", "xvda", store=bed.daemon_is[0])
                break
            except Failed:  # the domain that had it before may still be on its way out; or a short load has ended by now
                if self.guest.child.poll() is not None:
                    break
                if attempt == 99:
                    raise
                time.sleep(0.1)
        self.guest.wait_for(lambda out: re.search(r"^disk ", out, re.M), "its disk")
        if self.load.seconds:  # a load of so many operations may have done some of them already
            self.before = Sample([bed.daemon.pid])

    def end(self):
        """Waits for the end of the load; its figures."""
        self.guest.wait()
        after = Sample([self.bed.daemon.pid])
        job = self.guest.documents()[0]
        self.bed.children.remove(self.guest)
        operations = job["operations"]
        figures = {"rate": job["iops-with-flush"] if self.load.writes else job["iops"], "p50-us": job["p50-us"], "p99-us": job["p99-us"]}
        figures.update(after.since(self.before, operations, operations * self.load.bytes if self.load.writes else 0))
        figures["checkpoints"] = self.bed.status()["counters"]["checkpoints"] - self.checkpoints
        return figures, shortened(self.bed, self.command)


def ring(bed, load, image=DISK):
    r = Ring(bed, load, image)
    r.begin()
    return r.end()


class NbdServer:
    """A server on bed's socket, ours or QEMU's, while the context lasts."""

    def __init__(self, bed, command, pids):
        self.bed, self.command, self.also = bed, command, pids
        self.socket = bed.path("nbd.sock")

    def __enter__(self):
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.process = self.bed.start("nbd-server", *self.command)
        self.process.wait_for(lambda _: os.path.exists(self.socket), "its socket")
        self.pids = [self.process.pid, *self.also]
        return self

    def __exit__(self, *_):
        self.bed.end(self.process)

    def measure(self, load):
        uri = f"nbd+unix:///?socket={self.socket}"
        before = Sample(self.pids)
        if load.stride:
            figures, client = qemu_bench(self.bed, load, ["-f", "raw"], uri)
            operations = (load.region or self.bed.settings.image_bytes) // load.stride
        else:
            side, client = fio(self.bed, load, "--ioengine=nbd", f"--uri={uri}")
            figures, operations = fio_figures(side, 0), side["total_ios"]
        figures.update(Sample(self.pids).since(before, operations, operations * load.bytes if load.writes else 0))
        return figures, shortened(self.bed, self.command) + "; " + client


def nbd(bed, load, image=DISK):
    daemon = bed.serve(bed.store())
    with NbdServer(bed, [bed.program("parallax"), "--store", bed.path("store"), "nbd", image, "--socket", bed.path("nbd.sock")], [daemon.pid]) as server:
        return server.measure(load)


# ---- QEMU ----

TUNED = "l2-cache-size=64M,l2-cache-entry-size=4096,cache-clean-interval=0"


def image_options(path, tuned):
    return f"driver=qcow2,file.driver=file,file.filename={path}" + (f",{TUNED}" if tuned else "")


def qemu_nbd_on(bed, load, *what):
    with NbdServer(bed, ["qemu-nbd", "--cache=none", "--aio=native", "--persistent", "--shared=4", f"--socket={bed.path('nbd.sock')}", *what], []) as server:
        return server.measure(load)


def qemu_nbd(bed, load, path=None, tuned=False):
    path = path or bed.qcow2()
    return qemu_nbd_on(bed, load, *(["--image-opts", image_options(path, tuned)] if tuned else ["--format=qcow2", path]))


def qemu_nbd_raw(bed, load):
    return qemu_nbd_on(bed, load, "--format=raw", bed.raw())


bench_rates = {}  # what was found before of a load, to know how many operations fill the time


def qemu_bench(bed, load, form, path):
    """qemu-img bench: a given number of operations a fixed step apart, which for random loads is the scattering one."""
    size, unit = load.region or bed.settings.image_bytes, load.stride or load.bytes
    positions = size // unit
    step = scattering_step(positions) * unit if load.kind.startswith("rand") else unit
    command = ["qemu-img", "bench", "-t", "none", "-n", *form, "-d", load.depth, "-s", load.bytes, "-S", step]
    if load.writes:
        command += ["-w", "--pattern=165"]
    if load.flush_every:
        command.append(f"--flush-interval={load.flush_every}")

    def count(operations):
        out = run(*(str(part) for part in [*command, "-c", operations, path]), cwd=bed.dir)
        return operations / max(float(re.search(r"completed in ([0-9.]+) seconds", out).group(1)), 0.001)

    if load.stride:
        operations = positions
    else:
        key = (text(command), path)
        rate = bench_rates.get(key) or count(load.depth * 100)
        operations = max(int(rate * load.seconds), load.depth)
    rate = count(operations)
    if not load.stride:
        bench_rates[key] = rate
    return {"rate": rate}, shortened(bed, [*command, "-c", operations, path])


def qemu_raw(bed, load):
    return qemu_bench(bed, load, ["-f", "raw"], bed.raw())


def qemu_qcow2(bed, load, path=None, tuned=False):
    path = path or bed.qcow2()
    if tuned:
        return qemu_bench(bed, load, ["--image-opts"], image_options(path, True))
    return qemu_bench(bed, load, ["-f", "qcow2"], path)
