"""Processes: running them, waiting for what they say, and what the kernel counts of them."""
import json
import os
import signal
import subprocess
import time

TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
RUN_LIMIT_S = 1800


class Failed(Exception):
    """A measurement that cannot go on, in one line."""


def run(*command, **options):
    """Runs a command to its end; what it printed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=RUN_LIMIT_S, **options)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Failed(f"{' '.join(command)}: status {done.returncode}: {lines[-1] if lines else 'it said nothing'}")
    return done.stdout


class Process:
    """A process in the background whose output goes to files in `directory`."""

    def __init__(self, directory, name, *command):
        self.name, self.out_path, self.err_path = name, os.path.join(directory, name + ".out"), os.path.join(directory, name + ".err")
        with open(self.out_path, "w") as out, open(self.err_path, "w") as err:
            self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        self.pid = self.child.pid

    def output(self):
        with open(self.out_path) as f, open(self.err_path) as g:
            return f.read() + g.read()

    def last_words(self):
        lines = self.output().strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def wait_for(self, condition, what, limit_s=60):
        """Until condition(output) is true; its value."""
        end = time.monotonic() + limit_s
        while not (found := condition(self.output())):
            if self.child.poll() is not None:
                if found := condition(self.output()):  # its last words
                    break
                raise Failed(f"{self.name} ended before {what}: {self.last_words()}")
            if time.monotonic() > end:
                raise Failed(f"{self.name}: no {what} in {limit_s} s: {self.last_words()}")
            time.sleep(0.005)
        return found

    def wait(self):
        """Until it has ended, well."""
        if self.child.wait(RUN_LIMIT_S):
            raise Failed(f"{self.name}: status {self.child.returncode}: {self.last_words()}")
        return self

    def end(self, number=signal.SIGTERM):
        if self.child.poll() is None:
            self.child.send_signal(number)
            try:
                self.child.wait(120)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()

    def documents(self):
        """The lines of its output that are JSON objects."""
        with open(self.out_path) as f:
            return [json.loads(line) for line in f if line.startswith("{")]


class Sample:
    """What the kernel has counted for some processes together: processor time of all their threads, bytes they sent to devices."""

    def __init__(self, pids):
        self.user_us = self.kernel_us = self.written_bytes = self.anonymous_bytes = 0
        for pid in pids:
            with open(f"/proc/{pid}/stat") as f:
                fields = f.read().rsplit(")", 1)[1].split()
            self.user_us += int(fields[11]) * TICK_US
            self.kernel_us += int(fields[12]) * TICK_US
            with open(f"/proc/{pid}/io") as f:
                self.written_bytes += next(int(line.split()[1]) for line in f if line.startswith("write_bytes"))
            with open(f"/proc/{pid}/status") as f:
                self.anonymous_bytes += next(int(line.split()[1]) * 1024 for line in f if line.startswith("RssAnon"))

    def since(self, before, operations, guest_bytes):
        """Figures of what lies between two samples, for that many operations; guest_bytes: written by them."""
        user, kernel = (self.user_us - before.user_us) / operations, (self.kernel_us - before.kernel_us) / operations
        figures = {"cpu-user-us": user, "cpu-kernel-us": kernel, "cpu-us": user + kernel, "rss-anon-bytes": self.anonymous_bytes}
        if guest_bytes:
            figures["device-bytes-per-byte"] = (self.written_bytes - before.written_bytes) / guest_bytes
        return figures
