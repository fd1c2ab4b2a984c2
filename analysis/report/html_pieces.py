"""Pages by hand, until the page of proxy_transfer is made of page_parts.py: the style, and pieces.

Every value passes through `escape`.
"""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path

from stepladder.analysis.report.jsonable import plain
from stepladder.configs.core.files import write_atomic

_CSS = """
:root{--ink:#1f2933;--muted:#616e7c;--line:#e4e7eb;--soft:#f5f7fa;--target:#c8384f;\
--blue:#0b3c5d;--good:#1b7f5c}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;\
color:var(--ink);background:#fff;margin:0}
main{max-width:980px;margin:0 auto;padding:32px 24px 80px}
h1{font-size:30px;line-height:1.2;margin:0 0 4px}
h2{font-size:21px;margin:48px 0 10px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:16px;margin:24px 0 6px}
p{margin:8px 0;max-width:76ch}
.sub,.note,figcaption{color:var(--muted);font-size:14px}
.hero{background:var(--soft);border-radius:14px;padding:22px 26px;margin:22px 0}
.tiles{display:flex;flex-wrap:wrap;gap:14px 30px;margin-bottom:10px}
.tile b{display:block;font-size:27px;line-height:1.15;font-variant-numeric:tabular-nums}
.tile span{color:var(--muted);font-size:14px}
.red b{color:var(--target)}.good b{color:var(--good)}
table{border-collapse:collapse;width:100%;font-size:14px;\
font-variant-numeric:tabular-nums;margin:10px 0}
th{text-align:left;color:var(--muted);font-weight:600;border-bottom:2px solid var(--line)}
th,td{padding:5px 12px 5px 0;vertical-align:top}
td{border-bottom:1px solid var(--line)}
td.n,th.n{text-align:right}
.scroll{overflow-x:auto}
figure{margin:18px 0}
figure svg{width:100%;height:auto;display:block}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:20px}
@media(max-width:760px){.pair{grid-template-columns:1fr}}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace;\
background:var(--soft);border-radius:6px}
code{padding:1px 5px}pre{padding:12px 16px;overflow-x:auto}
ul{padding-left:20px;margin:8px 0}li{margin:4px 0}
.missing{border-left:4px solid #e0a100;background:#fff8e5;\
padding:10px 16px;border-radius:0 8px 8px 0}
.share{display:flex;height:22px;border-radius:6px;overflow:hidden;margin:10px 0}
details summary{cursor:pointer;color:var(--muted)}
"""


def document(title: str, body: str) -> str:
    """The whole page; `body` is HTML, made of the pieces below."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head><body><main>{body}</main>"
        "</body></html>\n"
    )


def hero(verdict: str, tiles: list[tuple[str, str]] = ()) -> str:
    """The answer in one sentence at the top of a page, under up to five (number, what it is)."""
    shown = "".join(
        f'<div class="tile"><b>{escape(big)}</b><span>{escape(small)}</span></div>'
        for big, small in tiles
    )
    return f'<div class="hero"><div class="tiles">{shown}</div><p>{escape(verdict)}</p></div>'


def missing(what: list[str]) -> str:
    """What cannot be said yet, a reason a line; '' when nothing is missing."""
    if not what:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in what)
    return f'<div class="missing"><b>Not here yet</b><ul>{items}</ul></div>'


def left_out(rows: list[dict]) -> str:
    """Everything that was excluded (run_id, step, domain, reason): the reasons with their counts,
    and all of it folded below.
    """
    if not rows:
        return "<p>Nothing was left out.</p>"
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["reason"]] = counts.get(row["reason"], 0) + 1
    short = table(
        ["reason", "count#"],
        [[k, str(v)] for k, v in sorted(counts.items(), key=lambda kv: -kv[1])],
    )

    def step(v):
        return "" if v is None else f"{v:.0f}"

    full = table(
        ["run", "step#", "domain", "reason"],
        [[r["run_id"], step(r["step"]), r["domain"] or "", r["reason"]] for r in rows],
    )
    return f"{short}<details><summary>all {len(rows)}</summary>{full}</details>"


def figure(drawn: dict[str, str], name: str) -> str:
    """The figure of that name (drawn: name -> inline SVG), or nothing when it was not drawn."""
    return f"<figure>{drawn[name]}</figure>" if name in drawn else ""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A heading that ends in # is a column of numbers."""
    css = [' class="n"' if h.endswith("#") else "" for h in head]
    top = "".join(f"<th{c}>{escape(h.removesuffix('#'))}</th>" for h, c in zip(head, css))
    body = "".join(
        "<tr>" + "".join(f"<td{c}>{escape(str(v))}</td>" for v, c in zip(row, css)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def number(value: float | None) -> str:
    """Four decimals; nothing for None."""
    return "" if value is None else f"{value:.4f}"


def percent(value: float | None, sign: bool = True) -> str:
    """A fraction as per cent with two decimals; nothing for None."""
    return "" if value is None else f"{value:+.2%}" if sign else f"{value:.2%}"


def write_study(
    out: Path, title: str, body: str, results: Mapping, drawn: Mapping[str, str], verdict: list[str]
) -> Path:
    """Write <out>/index.html, results.json with `verdict` first, and figures/NAME.svg of
    `drawn`.
    """
    for name, svg in drawn.items():
        write_atomic(out / "figures" / f"{name}.svg", svg, sync=False, field="out")
    text = json.dumps(plain({"verdict": verdict, **results}), indent=1, allow_nan=False)
    write_atomic(out / "results.json", text + "\n", field="out")
    write_atomic(out / "index.html", document(title, body), field="out")
    return out / "index.html"
