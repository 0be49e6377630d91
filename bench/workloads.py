"""The workloads: what each prepares, and which engines take turns in its rounds."""
import functools
import os
import signal
import threading
import time

import engines
from bed import BLOCK, DISK
from engines import Load, Ring, nbd, qemu_nbd, qemu_nbd_raw, qemu_qcow2, qemu_raw, raw, raw_sequential, ring
from processes import run


def rounds(bed, name, table):
    """Each engine once a round, in turn: A B A B … Returns the document of the workload's engines."""
    found, table = {}, bed.settings.chosen(table)
    for number in range(bed.settings.pairs):
        for engine, measure in table.items():
            bed.say(f"{name}: round {number + 1} of {bed.settings.pairs}: {engine}")
            figures, command = measure()
            document = found.setdefault(engine, {"command": command})
            for key, value in figures.items():
                document.setdefault(key, []).append(round(value, 3))
    return found


# ---- Rates ----

def compare(load, long=False, extra=(), prepare=None, skip=()):
    """One load by every engine."""
    def measure(bed, name):
        timed = load.lasting(bed.settings.seconds_long if long else bed.settings.seconds_each)
        for file in (bed.raw, bed.qcow2):
            file()
        bed.serve(bed.store())
        if prepare:
            prepare(bed)
        if load.kind == "randwrite":
            bed.note(scattered=True)
        table = {"raw": raw, "ring": ring, "nbd": nbd, "qemu-nbd": qemu_nbd, "qemu-nbd-raw": qemu_nbd_raw, "qemu-raw": qemu_raw, "qemu-qcow2": qemu_qcow2,
                 "qemu-qcow2-tuned": functools.partial(qemu_qcow2, tuned=True), **dict(extra)}
        return rounds(bed, name, {engine: functools.partial(how, bed, timed) for engine, how in table.items() if engine not in skip})
    return measure


def lay_out(bed):
    """Our image in the order of its addresses, as the raw file is."""
    if bed.state.get("scattered"):
        ring(bed, Load("write", 131072, operations=bed.settings.image_bytes // 131072))
        bed.note(scattered=False)


def scatter(bed):
    """Every block of our image overwritten once, in no order of addresses."""
    ring(bed, Load("randwrite", stride=BLOCK))
    bed.note(scattered=True)


def scattered_read(bed, name):
    load = Load("read", 131072).lasting(bed.settings.seconds_each)
    bed.raw(), bed.serve(bed.store())
    scatter(bed)
    return rounds(bed, name, {"raw": lambda: raw(bed, load), "ring": lambda: ring(bed, load)})


CACHED_BYTES = 64 << 20  # half of the block cache


def cached_read(bed, name):
    """The region is read often enough before that the cache has it; the raw device reads wherever it likes."""
    load = Load("randread").lasting(bed.settings.seconds_each)
    bed.raw(), bed.serve(bed.store())

    def cached():
        region = Load("randread", region=CACHED_BYTES)
        ring(bed, Load("randread", region=CACHED_BYTES, operations=6 * CACHED_BYTES // BLOCK))
        before = bed.status()["counters"]
        figures, command = ring(bed, region.lasting(load.seconds))
        after = bed.status()["counters"]
        hits, misses = (after[key] - before[key] for key in ("cache-hits", "cache-misses"))
        return {**figures, "hit-percent": 100 * hits / max(hits + misses, 1)}, command
    return rounds(bed, name, {"raw": lambda: raw(bed, load), "ring": cached})


def map_out_read(bed, name):
    """A daemon whose memory for the map holds a sixteenth of the image's leaves."""
    load = Load("randread").lasting(bed.settings.seconds_each)
    leaves_bytes = bed.settings.image_bytes // 256
    bed.raw(), bed.serve(bed.store(), "--map-cache", str(max(leaves_bytes // 16, 65536)))

    def out_of_cache():
        before = bed.status()["counters"]
        figures, command = ring(bed, load)
        after = bed.status()["counters"]
        hits, misses = (after[key] - before[key] for key in ("map-hits", "map-misses"))
        return {**figures, "map-miss-percent": 100 * misses / max(hits + misses, 1)}, command
    return rounds(bed, name, {"raw": lambda: raw(bed, load), "ring": out_of_cache})


# ---- Clones ----

def first_writes(bed, name):
    """One 4 KiB write into each 64 KiB (a cluster of qcow2) of a fresh clone, in no order; the overlay stands on the raw file, which
    is the fastest for QEMU."""
    load = Load("randwrite", stride=65536)
    bed.serve(bed.store())

    def on_clone(how):
        def measure():
            bed.parallax("clone", "base", "fresh")
            result = how(bed, load, "fresh")
            for _ in range(100):  # the guest's domain may still be on its way out
                if run_quietly(bed, "rm", "fresh"):
                    break
                time.sleep(0.05)
            bed.settle()
            return result
        return measure

    def on_overlay(how, **options):
        def measure():
            path = bed.path("overlay.qcow2")
            run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", bed.raw(), path)
            result = how(bed, load, path, **options)
            os.unlink(path)
            return result
        return measure
    return rounds(bed, name, {"ring": on_clone(ring), "nbd": on_clone(nbd), "qemu-qcow2": on_overlay(qemu_qcow2),
                              "qemu-qcow2-tuned": on_overlay(qemu_qcow2, tuned=True), "qemu-nbd": on_overlay(qemu_nbd),
                              "qemu-nbd-tuned": on_overlay(qemu_nbd, tuned=True)})


def run_quietly(bed, *arguments):
    try:
        bed.parallax(*arguments, store=bed.daemon_is[0])
        return True
    except engines.Failed:
        return False


def timed(*steps):
    began = time.monotonic()
    for step in steps:
        step()
    return {"ms": (time.monotonic() - began) * 1000}


def clones(bed, name):
    """How long the commands take, each with its own start."""
    bed.drop_store("clones")
    bed.parallax("init", store="clones")
    bed.serve("clones")
    count, serial = bed.settings.clones, iter(range(1_000_000))
    for size in ("100G", "1T"):
        bed.parallax("create", f"t{size}", size, store="clones")
        bed.parallax("template", f"t{size}", store="clones")
    bed.parallax("create", "live", "100G", store="clones")

    def ours(*arguments):
        bed.parallax(*arguments, store="clones")

    def command(*arguments):
        return "parallax " + " ".join(arguments)

    def overlay():
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", bed.raw(), bed.path("overlay.qcow2"))

    def measured(*arguments):
        return lambda: (timed(lambda: ours(*arguments[:-1], f"{arguments[-1]}{next(serial)}-")), command(*arguments))
    bed.raw()
    many = ("clone", "--count", str(count))
    result = rounds(bed, name, {
        "clone": measured("clone", "t100G", "one-"), f"clone-{count}-of-100G": measured(*many, "t100G", "m-"), f"clone-{count}-of-1T": measured(*many, "t1T", "n-"),
        "snapshot": measured("snap", "create", "live@s"), f"ls-{count}": lambda: (timed(lambda: ours("ls", "m-*")), command("ls")),
        "qcow2-overlay": lambda: (timed(overlay), "qemu-img create -f qcow2 -F raw -b raw.img overlay.qcow2")})
    bed.drop_store("clones")
    return result


# ---- Snapshots ----

WORKING_SET = 64 << 20


def under(bed, image, seconds, action, count, period_ms, first=0):
    """Random writes to a working set while snapshots are taken or deleted."""
    r = Ring(bed, Load("randwrite", region=WORKING_SET, seconds=seconds), image)
    r.begin()
    command = [bed.program("tests/programs/snapshot_latency"), action, bed.socket(), image if action == "take" else deepest(bed), str(count), str(period_ms), str(first)]
    side = bed.start("snapshot_latency", *command)
    stop = threading.Timer(max(seconds - 0.1, 0.5), lambda: side.child.send_signal(signal.SIGTERM) if side.child.poll() is None else None)
    stop.start()
    figures, text = r.end()
    side.wait()
    stop.cancel()
    bed.children.remove(side)
    told = side.documents()[0]
    return {**figures, f"{action}-ms": told["p99-us"] / 1000, f"{action}-median-ms": told["p50-us"] / 1000, "snapshots": told["snapshots"],
            "snapshots-per-s": told["snapshots"] / told["seconds"]}, text + "; " + engines.shortened(bed, command)


def snapshots(bed, name):
    """Beside it what as many flushes of another file do to the raw file."""
    seconds = bed.settings.seconds_long
    bed.serve(bed.store())
    bed.note(scattered=True)

    def with_snapshots():
        result = under(bed, DISK, seconds, "take", 100 * seconds, 10)
        bed.parallax("snap", "purge", DISK)
        bed.settle()
        return result

    load = Load("randwrite", region=WORKING_SET, seconds=seconds)

    def beside_flushes():
        command = ["fio", "--name=flushes", "--rw=write", f"--bs={BLOCK}", "--size=64m", f"--runtime={seconds + 1}", "--time_based", "--iodepth=1",
                   "--rate_iops=100", "--fdatasync=1", f"--filename={bed.path('flushed.raw')}"]
        side = bed.start("flushes", *command)
        figures, text = raw(bed, load)
        side.wait()
        bed.children.remove(side)
        return figures, text + "; " + engines.shortened(bed, command)
    return rounds(bed, name, {"without": lambda: ring(bed, load), "with": with_snapshots, "raw": lambda: raw(bed, load), "raw-flushed": beside_flushes})


def depths(bed):
    return [d for d in (1, 10, 100, 1000, 10000, 100000) if d < bed.settings.depth] + [bed.settings.depth]


def deepest(bed):
    return f"d{bed.settings.depth}"


def deep_store(bed):
    """A store of images d1, d10, …: each filled, then so often some random writes and a snapshot."""
    s = bed.settings
    want = [s.depth, s.depth_writes, s.depth_mib]
    if bed.state.get("deep") != want:
        bed.drop_store("deep")
        bed.stop_daemon()
        bed.parallax("init", store="deep")
        for depth in depths(bed):
            bed.say(f"making an image of {s.depth_mib} MiB with {depth} snapshots, {s.depth_writes} random writes before each")
            run(bed.program("tests/programs/snapshot_depth"), bed.path("deep"), str(depth), str(s.depth_writes), str(s.depth_mib), f"d{depth}")
        bed.read_whole(bed.path("deep", "blocks"))
        bed.note(deep=want)
    return "deep"


def depth(bed, name):
    """Engines are depths; the last is also called 'deepest'."""
    bed.serve(deep_store(bed))
    load = Load("randread").lasting(bed.settings.seconds_each)
    found = rounds(bed, name, {str(d): (lambda d=d: ring(bed, load, f"d{d}")) for d in depths(bed)})
    if str(bed.settings.depth) in found:  # ENGINES may leave it out
        found["deepest"] = found[str(bed.settings.depth)]
    return found


def deletions(bed, name):
    """A snapshot of the deepest image is deleted every 100 ms while another image is written."""
    seconds = bed.settings.seconds_each
    bed.serve(deep_store(bed))
    count = min(10 * seconds, max(bed.settings.depth // bed.settings.pairs // 2, 1))
    serial = iter(range(0, 1 << 30, count))

    def with_deletions():
        result = under(bed, "d1", seconds, "delete", count, 100, next(serial))
        bed.settle()
        return result
    found = rounds(bed, name, {"without": lambda: ring(bed, Load("randwrite", region=WORKING_SET, seconds=seconds), "d1"), "with": with_deletions})
    bed.note(deep=None)
    return found


# ---- Import ----

def imports(bed, name):
    """A qcow2 file, of which every other MiB is data, into an image of a new store, and by qemu-img into a new raw file; until durable."""
    source, destination = bed.sparse_qcow2(), bed.path("converted.raw")

    def of_data(seconds):
        return {"rate": bed.settings.import_mib / 2 / seconds, "seconds": seconds}

    def clear():
        """What was removed is not part of it, nor the discards that the file system sends after that."""
        bed.drop_store("imports")
        bed.stop_daemon()
        if os.path.exists(destination):
            os.unlink(destination)
        os.sync()
        time.sleep(2)

    def ours():
        clear()
        bed.parallax("init", store="imports")
        bed.serve("imports")
        os.sync()
        began = time.monotonic()
        bed.parallax("import", source, "new", store="imports")
        return of_data(time.monotonic() - began), "parallax import sparse.qcow2 new"

    def qemu_img():
        clear()
        began = time.monotonic()
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", source, destination)
        fd = os.open(destination, os.O_RDWR)
        os.fsync(fd)
        os.close(fd)
        return of_data(time.monotonic() - began), "qemu-img convert -f qcow2 -O raw sparse.qcow2 converted.raw; fsync"
    found = rounds(bed, name, {"ours": ours, "qemu-img": qemu_img})
    bed.drop_store("imports")
    if os.path.exists(destination):
        os.unlink(destination)
    return found


# ---- Age, restart, metadata ----

def aged(bed, name):
    """85 % full, then the live data overwritten three times at random."""
    load = Load("randwrite").lasting(bed.settings.seconds_long)
    bed.raw()
    bed.drop_store("aged")
    bed.stop_daemon()
    bed.parallax("init", "--size", str(bed.settings.aged_mib << 20), store="aged")
    bed.serve("aged")
    status = bed.status()
    size = int(status["capacity"] * 0.85 - status["used"]) >> 20 << 20
    bed.parallax("create", "old", str(size), store="aged")
    bed.say(f"filling {size >> 20} MiB of {bed.settings.aged_mib} and overwriting them three times")
    ring(bed, Load("write", 131072, operations=size // 131072), "old")
    full = bed.status()
    ring(bed, Load("randwrite", operations=3 * size // BLOCK), "old")
    found = rounds(bed, name, {"raw": lambda: raw(bed, load), "ring": lambda: ring(bed, load, "old")})
    if "ring" in found:
        found["ring"]["used-percent"] = [100 * full["used"] / full["capacity"]]
    bed.drop_store("aged")
    return found


def restart(bed, name):
    """kill -9 after random writes since the last clean stop, all over an image of 1 TiB."""
    bed.drop_store("restart")
    bed.stop_daemon()
    bed.parallax("init", store="restart")
    bed.parallax("create", "wide", "1T", store="restart")

    def once():
        bed.stop_daemon()
        bed.serve("restart")
        _, command = ring(bed, Load("randwrite", operations=bed.settings.restart_mib << 20 >> 12), "wide")
        bed.stop_daemon(signal.SIGKILL)
        began = time.monotonic()
        bed.serve("restart")
        return {"seconds": time.monotonic() - began, "recovered-records": bed.status()["counters"]["recovered-records"]}, command + "; kill -9; parallaxd"
    found = rounds(bed, name, {"ours": once})
    bed.drop_store("restart")
    return found


def metadata(bed, name):
    """What an image takes beyond its data, after a checkpoint: the used bytes of the store beyond those of the empty store."""
    bed.raw()
    bed.drop_store("metadata")
    bed.stop_daemon()
    bed.say(f"{name}: importing {bed.settings.image_mib} MiB")
    bed.parallax("init", store="metadata")
    bed.serve("metadata")
    empty = bed.status()["used"]
    bed.parallax("import", bed.raw(), "whole", store="metadata")
    bed.parallax("check", "--quick", store="metadata")
    used = bed.status()["used"] - empty - bed.settings.image_bytes
    bed.drop_store("metadata")
    return {"ours": {"command": "parallax import raw.img whole; parallax check --quick; parallax status", "bytes": [used],
                     "percent": [round(100 * used / bed.settings.image_bytes, 3)]}}


# name, what it is, how it is measured
WORKLOADS = [
    ("read-128k", "sequential reads of 128 KiB, depth 32, the image written in order", compare(Load("read", 131072), prepare=lay_out)),
    ("randread-4k-qd32", "random reads of 4 KiB, depth 32", compare(Load("randread"))),
    ("randread-4k-qd1", "random reads of 4 KiB, depth 1", compare(Load("randread", depth=1))),
    ("randread-4k-cached", "random reads of 4 KiB from the block cache, depth 32", cached_read),
    ("randread-4k-map-out", "random reads of 4 KiB, the map out of its cache, depth 32", map_out_read),
    ("randwrite-4k-qd32", "random writes of 4 KiB, depth 32", compare(Load("randwrite"), long=True, extra={"raw-sequential": raw_sequential})),
    ("randwrite-4k-qd1", "random writes of 4 KiB, depth 1", compare(Load("randwrite", depth=1))),
    ("randwrite-4k-flush32", "random writes of 4 KiB, depth 32, a flush every 32", compare(Load("randwrite", flush_every=32))),
    ("randwrite-4k-flush1", "random writes of 4 KiB, depth 32, a flush after each", compare(Load("randwrite", flush_every=1))),
    ("randwrite-4k-qd1-flush1", "random writes of 4 KiB, depth 1, a flush after each", compare(Load("randwrite", depth=1, flush_every=1))),
    ("read-128k-scattered", "sequential reads of 128 KiB, depth 32, after random overwrite", scattered_read),
    ("write-128k", "sequential writes of 128 KiB, depth 32", compare(Load("write", 131072))),
    ("clone-first-write", "first writes of 4 KiB into a clone, depth 32", first_writes),
    ("clones", "clones, snapshots and listings: milliseconds a command", clones),
    ("snapshots", "random writes to 64 MiB under 100 snapshots a second, depth 32", snapshots),
    ("depth", "random reads of 4 KiB through that many snapshots, depth 32", depth),
    ("deletions", "random writes to 64 MiB while snapshots of another image are deleted, depth 32", deletions),
    ("randwrite-4k-aged", "random writes of 4 KiB in an aged store, depth 32", aged),
    ("import-qcow2", "import of a qcow2 file half of which is data: MiB of data a second", imports),
    ("restart", "kill -9 and start, seconds", restart),
    ("metadata", "metadata of a written image", metadata),
]
