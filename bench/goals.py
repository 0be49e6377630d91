"""What is asked of Parallax, as a table: each goal bounds one figure of one workload.

A goal compares one engine's measure with another's of the same round, pair by pair. It is missed only if the interval of the
median lies wholly on the wrong side of the bound, met if it lies wholly on the right side, and open otherwise."""
from interval import interval, median


def ratio(a, b):
    return a / b


def difference_us(a, b):
    """Of rates at depth 1: how much longer a request takes."""
    return 1e6 / a - 1e6 / b


class Goal:
    """The figure `of` engine a (and b, if there is one) in `workload` is at least or at most `bound`. aim: it is wished for, and missing
    it is no failure. exact: it does not vary, and is measured once."""

    def __init__(self, workload, text, a, b=None, at_least=None, at_most=None, measure="rate", of=None, aim=False, exact=False):
        self.workload, self.text, self.a, self.b, self.measure, self.aim = workload, text, a, b, measure, aim
        self.at_least, self.at_most, self.exact = at_least, at_most, exact
        self.of = of or (ratio if b else lambda x, _: x)

    @property
    def bound(self):
        return self.at_least if self.at_least is not None else self.at_most

    def values(self, workload):
        """One figure a round; none if one of the engines was not measured."""
        engines = workload["engines"]
        b = best_of(engines, self.b) if isinstance(self.b, tuple) else self.b
        if self.a not in engines or (b and b not in engines) or (self.b and not b):
            return []
        mine = engines[self.a].get(self.measure, [])
        other = engines[b].get(self.measure, []) if b else mine
        return [self.of(x, y) for x, y in zip(mine, other)]

    def verdict(self, values):
        found = (median(values), median(values)) if self.exact else interval(values)
        if not found:
            return "too few rounds"
        low, high = found
        if self.at_least is not None:
            return "missed" if high < self.at_least else "met" if low >= self.at_least else "open"
        return "missed" if low > self.at_most else "met" if high <= self.at_most else "open"


def best_of(engines, names):
    """Of these engines, as far as they were measured, the one with the greatest median rate; None if none was."""
    present = [n for n in names if engines.get(n, {}).get("rate")]
    return max(present, key=lambda n: median(engines[n]["rate"])) if present else None


IN_PROCESS = ("qemu-qcow2", "qemu-qcow2-tuned")
QEMU_NBD = ("qemu-nbd", "qemu-nbd-tuned")

GOALS = [
    Goal("randwrite-4k-qd32", "random write, fresh store, to the raw device", "ring", "raw", at_least=1.5),
    Goal("randwrite-4k-qd32", "… to the raw device's sequential 64 KiB writes, in blocks", "ring", "raw-sequential", at_least=0.8, aim=True),
    Goal("randwrite-4k-qd32", "device bytes per guest byte", "ring", at_least=1.0, measure="device-bytes-per-byte"),
    Goal("randwrite-4k-qd32", "processor time in the daemon per write, µs", "ring", at_most=8, measure="cpu-us"),
    Goal("randwrite-4k-aged", "random write, aged store, to the raw device", "ring", "raw", at_least=0.8),
    Goal("randwrite-4k-flush32", "random write, a flush every 32", "ring", "raw", at_least=1.2),
    Goal("randwrite-4k-flush1", "random write, a flush each", "ring", "raw", at_least=0.9),
    Goal("clone-first-write", "first writes into a clone, to qcow2's overlay in process", "ring", IN_PROCESS, at_least=5),
    Goal("clone-first-write", "… NBD to NBD", "nbd", QEMU_NBD, at_least=5),
    Goal("randread-4k-qd32", "random read, to the raw device", "ring", "raw", at_least=0.95),
    Goal("randread-4k-qd32", "random read by NBD, to qemu-nbd's on the raw file", "nbd", "qemu-nbd-raw", at_least=1.2),
    Goal("randread-4k-qd32", "processor time in the daemon per read, µs", "ring", at_most=8, measure="cpu-us"),
    Goal("randread-4k-cached", "random read from the block cache, to the raw device", "ring", "raw", at_least=2.5),
    Goal("randread-4k-map-out", "random read, map out of its cache, to the raw device", "ring", "raw", at_least=0.5),
    Goal("randread-4k-qd1", "a read at depth 1 takes longer than raw by, µs", "ring", "raw", at_most=15, of=difference_us),
    Goal("read-128k", "sequential read, to the raw device", "ring", "raw", at_least=0.95),
    Goal("write-128k", "sequential write, to the raw device", "ring", "raw", at_least=0.95),
    Goal("read-128k-scattered", "sequential read after random overwrite, to the raw device", "ring", "raw", at_least=0.3),
    Goal("snapshots", "writes under 100 snapshots a second, to without", "with", "without", at_least=0.95),
    Goal("snapshots", "… their 99th percentile", "with", "without", at_most=1.1, measure="p99-us"),
    Goal("snapshots", "… for comparison, the raw file's writes beside 100 flushes a second of another, to without", "raw-flushed", "raw", at_least=0.95, aim=True),
    Goal("snapshots", "… and their 99th percentile", "raw-flushed", "raw", at_most=1.1, measure="p99-us", aim=True),
    Goal("deletions", "writes' 99th percentile under deletions, to without", "with", "without", at_most=1.25, measure="p99-us"),
    Goal("deletions", "deleting a snapshot returns in, ms", "with", at_most=10, measure="delete-ms"),
    Goal("depth", "reads through the most snapshots, to through one", "deepest", "1", at_least=0.95),
    Goal("import-qcow2", "import of qcow2, to qemu-img convert to raw, both until durable", "ours", "qemu-img", at_least=0.8),
    Goal("restart", "from the start of the daemon after kill -9 to serving, s", "ours", at_most=2, measure="seconds"),
    Goal("metadata", "metadata of a fully written image, %", "ours", at_most=0.6, measure="percent", exact=True),
]
