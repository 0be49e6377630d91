"""The working directory of a run: the files and stores that are measured, made when first needed and kept between runs if the
directory is the caller's (BENCH_DIR). Content is distinct and not zero. One daemon runs at a time."""
import json
import os
import shutil
import signal
import tempfile
import time

from processes import Failed, Process, run

DISK = "bench"  # the image of the main store
BLOCK = 4096


class Bed:
    def __init__(self, build, settings, say):
        self.build, self.settings, self.say = build, settings, say
        kept = os.environ.get("BENCH_DIR")
        if kept:
            os.makedirs(kept, exist_ok=True)
            self.dir, self.keep = os.path.realpath(kept), True
        else:
            self.dir, self.keep = tempfile.mkdtemp(prefix="parallax-bench.", dir=os.environ.get("TMPDIR", "/var/tmp")), False
        self.state_path = self.path("state.json")
        self.state = {"image-bytes": settings.image_bytes}
        if os.path.exists(self.state_path):
            with open(self.state_path) as f:
                self.state = json.load(f)
            if self.state["image-bytes"] != settings.image_bytes:
                raise Failed(f"{self.dir} holds files of another size: use another BENCH_DIR, remove it, or set IMAGE_MIB={self.state['image-bytes'] >> 20}")
        self.daemon, self.daemon_is, self.children = None, None, []
        os.environ["PARALLAX_CONFIG"] = os.devnull
        os.environ["PARALLAX_HYPERVISOR_DIR"] = self.path("hv")
        os.makedirs(self.path("hv"), exist_ok=True)

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def program(self, name):
        return os.path.join(self.build, name)

    def parallax(self, *arguments, store="store"):
        return run(self.program("parallax"), "--store", self.path(store), "-q", *arguments)

    def note(self, **changes):
        """Remembers what the kept files are."""
        self.state.update(changes)
        with open(self.state_path + ".new", "w") as f:
            json.dump(self.state, f)
        os.replace(self.state_path + ".new", self.state_path)

    def start(self, name, *command):
        p = Process(self.dir, name, *command)
        self.children.append(p)
        return p

    def end(self, process):
        process.end()
        self.children.remove(process)

    # ---- Content ----

    def raw(self):
        """A raw file, fully written."""
        path = self.path("raw.img")
        if not self.state.get("raw"):
            self.say(f"writing {self.settings.image_mib} MiB of distinct content")
            run("fio", "--name=fill", "--rw=write", "--bs=1m", f"--size={self.settings.image_bytes}", "--ioengine=libaio", "--direct=1",
                "--iodepth=8", "--refill_buffers", "--end_fsync=1", f"--filename={path}")
            self.read_whole(path)
            self.note(raw=True)
        return path

    def read_whole(self, path):
        """What the host below may keep of a file, it is to keep of all."""
        run("dd", f"if={path}", "of=/dev/null", "bs=1M", "iflag=direct", "status=none")

    def qcow2(self):
        """The same content as a qcow2 file."""
        path = self.path("image.qcow2")
        if not self.state.get("qcow2"):
            run("qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", "-t", "none", "-T", "none", self.raw(), path)
            self.read_whole(path)
            self.note(qcow2=True)
        return path

    def sparse_qcow2(self):
        """A qcow2 file of which every other MiB is data."""
        path, raw, mib = self.path("sparse.qcow2"), self.path("sparse.raw"), self.settings.import_mib
        if self.state.get("sparse") != mib:
            self.say(f"making a qcow2 file of {mib} MiB with {mib // 2} MiB of data")
            with open(raw, "wb") as f:
                for at in range(0, mib - 1, 2):
                    f.seek(at << 20)
                    f.write(os.urandom(1 << 20))
                f.truncate(mib << 20)
            run("qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, path)
            os.unlink(raw)
            self.read_whole(path)
            self.note(sparse=mib)
        return path

    def store(self):
        """The main store: the image DISK, and the template 'base' that clones are made of."""
        if not self.state.get("store"):
            self.drop_store("store")
            self.parallax("init")
            self.parallax("import", self.raw(), DISK)
            self.parallax("import", self.raw(), "base", "--template")
            self.read_whole(self.path("store", "blocks"))
            self.note(store=True, scattered=False)
        return "store"

    def drop_store(self, name):
        if self.daemon_is and self.daemon_is[0] == name:
            self.stop_daemon()
        shutil.rmtree(self.path(name), ignore_errors=True)

    # ---- The daemon ----

    def serve(self, store, *options):
        """A daemon on that store with these options; its process."""
        if self.daemon and self.daemon_is == (store, options):
            return self.daemon
        self.stop_daemon()
        self.daemon = self.start("parallaxd", self.program("parallaxd"), "--store", self.path(store), "--hypervisor", "local", "--socket", self.socket(), *options)
        self.daemon_is = (store, options)
        self.daemon.wait_for(lambda text: "ready " in text, "'ready'", 300)
        return self.daemon

    def socket(self):
        return self.path("parallaxd.sock")

    def stop_daemon(self, number=signal.SIGTERM):
        if self.daemon:
            self.daemon.end(number)
            self.children.remove(self.daemon)
        self.daemon = self.daemon_is = None

    def status(self):
        return json.loads(self.parallax("status", "--json", store=self.daemon_is[0]))

    def settle(self):
        """Until the daemon has no deletion under way."""
        for _ in range(6000):
            if self.status()["counters"]["deletions-pending"] == 0:
                return
            time.sleep(0.05)
        raise Failed("deletions do not end")

    def close(self):
        for p in reversed(self.children):
            p.end()
        hypervisor = self.path("hv", "hypervisor.pid")
        if os.path.exists(hypervisor) and (pid := open(hypervisor).read().strip()):
            try:
                os.kill(int(pid), signal.SIGTERM)
            except ProcessLookupError:
                pass
        if not self.keep:
            shutil.rmtree(self.dir, ignore_errors=True)
