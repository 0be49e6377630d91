"""The tables and the plot of a results file. Tables are Markdown, which is legible as it is."""
from goals import GOALS, IN_PROCESS, QEMU_NBD, best_of
from interval import coverage, interval, median, rank
from plot import draw


def number(x):
    """Three significant digits, or whole from 100 on."""
    if x >= 100:
        return f"{x:,.0f}"
    return f"{x:.3g}"


def with_interval(values):
    """"1.52 [1.43, 1.60]", or the median alone if there are too few values."""
    found = interval(values)
    return number(median(values)) + (f" [{number(found[0])}, {number(found[1])}]" if found else "")


def table(headings, rows):
    rows = [[str(c) for c in row] for row in rows]
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |" for row in [headings, *rows]]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def rates(results):
    """Workloads whose engines are compared with the raw device, with the engines of each column."""
    for name, w in results["workloads"].items():
        e = w["engines"]
        if "ring" in e and "rate" in e["ring"]:
            yield name, e, {"raw": best_of(e, ("raw",)), "ring": "ring", "nbd": best_of(e, ("nbd",)), "qcow2": best_of(e, IN_PROCESS),
                            "qemu-nbd": best_of(e, QEMU_NBD)}


def ratios(engines, a, b):
    return [x / y for x, y in zip(engines[a]["rate"], engines[b]["rate"])] if a and b else []


def rate_table(results):
    rows = []
    for name, e, of in rates(results):
        rows.append([name, number(median(e["raw"]["rate"])) if of["raw"] else "", number(median(e["ring"]["rate"]))] +
                    [with_interval(r) if (r := ratios(e, of[key], of["raw"])) else "" for key in ("ring", "nbd", "qcow2", "qemu-nbd")] +
                    [with_interval(r) if (r := ratios(e, "ring", of["qcow2"])) else ""] + [with_interval(r) if (r := ratios(e, of["nbd"], of["qemu-nbd"])) else ""])
    return table(["a second", "raw", "ring", "ring ÷ raw", "NBD ÷ raw", "qcow2 in process ÷ raw", "qemu-nbd ÷ raw", "ring ÷ qcow2", "NBD ÷ qemu-nbd"], rows) if rows else ""


def figure(engine, key, scale=1.0):
    return number(median(engine[key]) * scale) if engine.get(key) else ""


def cost_table(results):
    rows = []
    for name, e, _ in rates(results):
        for server in ("ring", "nbd", "qemu-nbd"):
            if server in e and "cpu-us" in e[server]:
                rows.append([name, server] + [figure(e[server], key) for key in ("cpu-user-us", "cpu-kernel-us", "cpu-us")] +
                            [figure(e[server], "rss-anon-bytes", 2**-20), figure(e[server], "device-bytes-per-byte"),
                             min(e[server]["checkpoints"]) if "checkpoints" in e[server] else ""])
    return table(["", "served by", "user µs", "kernel µs", "both", "memory MiB", "device bytes per byte", "checkpoints, least"], rows) if rows else ""


def latency_table(results):
    names = ("raw", "ring", "nbd", "qemu-nbd")
    rows = [[name] + [f"{figure(e[n], 'p50-us')} / {figure(e[n], 'p99-us')}" if n in e and "p50-us" in e[n] else "" for n in names] for name, e, _ in rates(results)]
    return table(["median / 99th percentile, µs", *names], rows) if rows else ""


SHOWN = ("rate", "p99-us", "ms", "seconds", "recovered-records", "percent", "bytes", "take-ms", "delete-ms", "snapshots-per-s", "checkpoints")


def other_table(results):
    """The figures of the workloads that are no comparison of engines."""
    compared = {name for name, _, _ in rates(results)}
    rows = [[name, engine, key, with_interval(values)] for name, w in results["workloads"].items() if name not in compared
            for engine, measures in w["engines"].items() if engine != "deepest" for key, values in measures.items() if key in SHOWN]
    return table(["workload", "", "figure", "median"], rows) if rows else ""


def judged(results):
    for goal in GOALS:
        w = results["workloads"].get(goal.workload)
        values = goal.values(w) if w else []
        if values:
            yield goal, values, goal.verdict(values)


def missed(results):
    return [goal for goal, _, verdict in judged(results) if verdict == "missed" and not goal.aim]


def goal_table(results):
    rows = [[goal.workload, goal.text, ("at least " if goal.at_least is not None else "at most ") + f"{goal.bound:g}" + (" (aim)" if goal.aim else ""),
             with_interval(values), verdict] for goal, values, verdict in judged(results)]
    return table(["workload", "goal", "bound", "measured", ""], rows) if rows else ""


def setting_table(results):
    rows = [[name, w["text"], w["settings"]["form"], w["settings"]["pairs"], w["settings"]["image-mib"], w["when"], w["commit"]]
            for name, w in results["workloads"].items()]
    return table(["workload", "what it is", "form", "rounds", "image MiB", "measured (UTC)", "commit"], rows)


def commands(results):
    return "\n".join(f"{name}, {engine}:\n    {measures['command']}" for name, w in results["workloads"].items() for engine, measures in w["engines"].items())


def interval_note(results):
    counts = sorted({w["settings"]["pairs"] for w in results["workloads"].values()})
    notes = [f"of {n} rounds: from number {rank(n)} from below to number {rank(n)} from above, {100 * coverage(n, rank(n)):.1f} %" if rank(n) else f"of {n} rounds: none" for n in counts]
    return "Medians, and in brackets their interval (" + "; ".join(notes) + ")."


def tables(results):
    parts = [("Goals", goal_table), ("Rates", rate_table), ("Processor time a request, memory, device bytes", cost_table), ("Latencies", latency_table),
             ("Other figures", other_table), ("Settings", setting_table)]
    machine = "; ".join(f"{key} {value}" for key, value in results.get("machine", {}).items())
    return "\n\n".join([interval_note(results), *(f"### {title}\n{text}" for title, make in parts if (text := make(results))),
                        f"### Machine\n{machine}", f"### Commands\n```\n{commands(results)}\n```"])


def write_plot(results, path):
    series = [("ring", "ring"), ("nbd", "NBD door"), ("qcow2", "qcow2 in process"), ("qemu-nbd", "qcow2 by qemu-nbd")]
    rows = []
    for name, e, of in rates(results):
        points = {label: (median(r), interval(r)) for key, label in series if (r := ratios(e, of[key], of["raw"]))}
        if points:
            rows.append((name, points))
    with open(path, "w") as f:
        f.write(draw(rows, [label for _, label in series], "Requests a second, as a multiple of the raw device's"))
