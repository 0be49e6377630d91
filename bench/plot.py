"""A dot plot as SVG: a row a workload, a dot an engine, on a logarithmic axis with 1 marked; whiskers show intervals."""
from html import escape
from math import log10

WIDTH, LEFT, RIGHT, TOP, ROW = 860, 190, 24, 64, 34
COLOURS = ("#0b62a4", "#4fa3d9", "#b3541e", "#e2a76f")
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)


def draw(rows, labels, title):
    """rows: (name, {label: (value, (low, high) or None)}); the SVG document."""
    values = [x for _, points in rows for value, found in points.values() for x in (value, *(found or ())) if x > 0] or [1]
    low, high = min([t for t in TICKS if t <= min(values)][-1:] or [min(values)]), max([t for t in TICKS if t >= max(values)][:1] or [max(values)])
    low, high = min(low, 0.5), max(high, 2)
    height = TOP + ROW * len(rows) + 40

    def x(value):
        return LEFT + (WIDTH - LEFT - RIGHT) * (log10(max(value, low)) - log10(low)) / (log10(high) - log10(low))

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>', f'<text x="12" y="22" font-size="15">{escape(title)}</text>']
    for i, label in enumerate(labels):
        out.append(f'<circle cx="{LEFT + 150 * i}" cy="42" r="5" fill="{COLOURS[i]}"/><text x="{LEFT + 10 + 150 * i}" y="46">{escape(label)}</text>')
    bottom = TOP + ROW * len(rows)
    for tick in TICKS:
        if low <= tick <= high:
            colour, width = ("#444", 1.5) if tick == 1 else ("#ddd", 1)
            out.append(f'<line x1="{x(tick):.1f}" y1="{TOP - 6}" x2="{x(tick):.1f}" y2="{bottom}" stroke="{colour}" stroke-width="{width}"/>'
                       f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    for i, (name, points) in enumerate(rows):
        middle = TOP + ROW * i + ROW / 2
        out.append(f'<text x="{LEFT - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for k, label in enumerate(labels):
            if label not in points:
                continue
            value, found = points[label]
            y = middle + (k - (len(labels) - 1) / 2) * 6
            if found:
                out.append(f'<line x1="{x(found[0]):.1f}" y1="{y:.1f}" x2="{x(found[1]):.1f}" y2="{y:.1f}" stroke="{COLOURS[k]}" stroke-width="2"/>')
            out.append(f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[k]}"><title>{escape(name)}, {escape(label)}: {value:.2f}</title></circle>')
    return "\n".join([*out, "</svg>", ""])
