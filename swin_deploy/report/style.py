"""The style sheet of the HTML report: light and dark, phone and print."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #1b1f24; --quiet: #59636e; --line: #d8dee4; --panel: #f6f8fa;
  --good: #1a7f37; --bad: #c62828; --warn: #8a5a00; --slow: #9aa4ae; --track: #e6eaee;
  --noise: #cfd6dd;
  --good-panel: #e9f7ed; --bad-panel: #fdecec; --warn-panel: #fff6e0;
  --attention: #7a4fc9; --gemm: #2f6fb7; --norm: #c28a00; --copy: #c2453c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161b; --ink: #e6e9ed; --quiet: #9aa5b1; --line: #303842; --panel: #1a2027;
    --good: #4cc26a; --bad: #ff7b72; --warn: #e3b341; --slow: #6b7682; --track: #262d35;
    --noise: #3a444f;
    --good-panel: #13281a; --bad-panel: #331819; --warn-panel: #2e2510;
    --attention: #a98be6; --gemm: #62a0e4; --norm: #dcb04a; --copy: #ee857b;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1.25rem 3rem; max-width: 76rem; background: var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif;
  overflow-wrap: anywhere;
}
h1 { font-size: 1.1rem; margin: 0 0 1rem; font-weight: 600; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 0.5rem; }
p { margin: 0.5rem 0; max-width: 48rem; }
.quiet, figcaption { color: var(--quiet); font-weight: 400; }
.verdict { border-left: 0.5rem solid; border-radius: 0.4rem; padding: 1rem 1.25rem; }
.verdict strong { display: block; font-size: 2rem; line-height: 1.2; }
.verdict p { color: var(--ink); max-width: none; }
.verdict ul { margin: 0.5rem 0 0; padding-left: 1.2rem; color: var(--ink); }
.verdict.good { background: var(--good-panel); color: var(--good); }
.verdict.bad { background: var(--bad-panel); color: var(--bad); }
.verdict.warn { background: var(--warn-panel); color: var(--warn); }
.figures { display: grid; gap: 0.75rem; margin: 1rem 0; padding: 0;
  grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }
.figures div { background: var(--panel); border-radius: 0.4rem; padding: 0.6rem 0.9rem;
  display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.figures dt { color: var(--quiet); font-size: 0.85rem; }
.figures dd { margin: 0; font-size: 1.35rem; font-weight: 600; }
.scroll { overflow-x: auto; margin: 0.75rem 0; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; overflow-wrap: normal; }
th, td { padding: 0.4rem 0.45rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 600; vertical-align: bottom; }
td.text { min-width: 6.5rem; overflow-wrap: anywhere; }
td.reason { min-width: 10rem; }
td:first-child, th:first-child { position: sticky; left: 0; padding-left: 0;
  background: var(--page); }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th.number { white-space: normal; }
.verdict-cell { white-space: nowrap; font-weight: 700; }
.pass { color: var(--good); } .fail { color: var(--bad); } .not-run { color: var(--warn); }
code { font: 0.85em/1.4 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
td.code { min-width: 12rem; }
dl.facts { display: grid; grid-template-columns: minmax(8rem, 17rem) 1fr; gap: 0.25rem 1rem;
  margin: 0.75rem 0; font-size: 0.9rem; }
dl.facts dt { color: var(--quiet); }
dl.facts dd { margin: 0; }
details { margin: 0.75rem 0; }
summary { cursor: pointer; font-weight: 600; padding: 0.25rem 0; }
figure { margin: 1rem 0; }
figcaption { font-size: 0.9rem; margin-bottom: 0.4rem; }
.bar { display: grid; grid-template-columns: 15rem 1fr 12rem; gap: 0.75rem; align-items: center;
  font-size: 0.9rem; padding: 0.15rem 0; }
.bar svg { width: 100%; height: 0.9rem; display: block; border-radius: 0.2rem; }
.bar .value { font-variant-numeric: tabular-nums; }
rect.track { fill: var(--track); } rect.good { fill: var(--good); }
rect.bad { fill: var(--bad); } rect.slow { fill: var(--slow); }
rect.attention { fill: var(--attention); } rect.gemm { fill: var(--gemm); }
rect.norm { fill: var(--norm); } rect.copy { fill: var(--copy); }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; font-size: 0.85rem; }
.legend i { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.4em; }
.legend .attention { background: var(--attention); } .legend .gemm { background: var(--gemm); }
.legend .norm { background: var(--norm); } .legend .copy { background: var(--copy); }
line.mark { stroke: var(--ink); stroke-width: 2; vector-effect: non-scaling-stroke; }
line.whisker { stroke: var(--ink); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
ul.assumed { list-style: none; margin: 0.75rem 0 0; padding: 0; }
.assumed li { border-left: 4px solid var(--warn); padding: 0.2rem 0.75rem; margin: 0.3rem 0; }
.assumed li::before { content: "Assumed: "; font-weight: 600; }
dl.conditions { display: flex; flex-wrap: wrap; gap: 0.1rem 1.25rem; margin: 0.75rem 0 0;
  font-size: 0.85rem; color: var(--quiet); }
.conditions div { display: flex; gap: 0.4rem; } .conditions dd { margin: 0; color: var(--ink); }
.conditions dt { flex: none; max-width: 12rem; }
.drifts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr));
  gap: 0.5rem 1.5rem; }
.drift { margin: 0.5rem 0; } .drift svg { display: block; width: 100%; height: auto; }
.drift figcaption b { color: var(--ink); }
.drift text { fill: var(--quiet); font-size: 11px; font-variant-numeric: tabular-nums; }
.drift line.grid { stroke: var(--line); } .drift line.axis { stroke: var(--quiet); }
.drift polyline { fill: none; stroke-linejoin: round; }
.drift .noise { fill: var(--noise); opacity: 0.55; }
.drift .floor { stroke: var(--quiet); stroke-width: 1; }
.drift .limit { stroke: var(--bad); stroke-width: 1.2; stroke-dasharray: 5 4; }
.drift .hop { stroke: var(--gemm); stroke-width: 1.8; }
.drift .within { fill: var(--gemm); } .drift .beyond { fill: var(--bad); }
.legend .hop { background: var(--gemm); height: 0.2em; vertical-align: middle; }
.legend .noise { background: var(--noise); }
.legend .limit { border-top: 2px dashed var(--bad); height: 0; vertical-align: middle; }
.legend .beyond { background: var(--bad); border-radius: 50%; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr));
  gap: 0.75rem 1.5rem; }
.sample { margin: 0.5rem 0; min-width: 0; }
.sample figcaption { display: flex; gap: 0.75rem; align-items: center; color: var(--ink); }
.sample img { border-radius: 0.3rem; display: block; }
.sample .scroll { margin: 0.25rem 0; }
.sample table { font-size: 0.85rem; } .sample th, .sample td { padding: 0.2rem 0.35rem; }
.sample td + td { white-space: nowrap; }
.sample td + td .quiet { font-size: 0.85em; font-variant-numeric: tabular-nums; }
mark { background: var(--bad-panel); color: var(--bad); font-weight: 700;
  text-decoration: underline; }
@media (max-width: 40rem) {
  body { padding: 1rem 0.9rem 2rem; }
  .verdict strong { font-size: 1.6rem; }
  .bar { grid-template-columns: 1fr auto; gap: 0 0.75rem; padding: 0.3rem 0; }
  .bar svg { grid-row: 2; grid-column: 1 / -1; }
  dl.facts { grid-template-columns: 1fr; gap: 0; }
  dl.facts dd { margin-bottom: 0.5rem; }
  .stacked thead { display: none; }
  .stacked tr { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem; padding: 0.5rem 0;
    border-bottom: 1px solid var(--line); }
  .stacked td { display: flex; justify-content: space-between; gap: 0.75rem; border: 0;
    padding: 0.1rem 0; text-align: right; white-space: normal; min-width: 0; }
  .stacked td::before { content: attr(data-name); color: var(--quiet); font-weight: 400;
    text-align: left; }
  .stacked td.text { grid-column: 1 / -1; }
  .stacked td:first-child { font-weight: 600; position: static; text-align: left; }
  .stacked td:first-child::before, .stacked .verdict-cell::before { content: none; }
  .stacked td:first-child:has(+ .verdict-cell) { grid-column: 1; }
  .stacked .verdict-cell { justify-content: flex-end; }
  .stacked .nothing { display: none; }
}
@media print {
  :root {
    --page: #ffffff; --ink: #000000; --quiet: #444444; --line: #bbbbbb; --panel: #f2f2f2;
    --good: #14632b; --bad: #b01c1c; --warn: #6b4600; --slow: #8a8a8a; --track: #e4e4e4;
    --noise: #d0d0d0;
    --good-panel: #ffffff; --bad-panel: #ffffff; --warn-panel: #ffffff;
  }
  html { font-size: 9pt; }
  body { max-width: none; padding: 0; }
  .scroll { overflow: visible; }
  table { font-size: 6.5pt; overflow-wrap: break-word; }
  th, td { padding: 0.2rem; }
  td.text, td.reason, td.code { min-width: 0; overflow-wrap: break-word; }
  td:first-child, th:first-child { position: static; }
  details::details-content { content-visibility: visible; height: auto; }
  tr, .bar, figure, .verdict, .figures, .sample { break-inside: avoid; }
  h2, h3, summary { break-after: avoid; }
  .drifts, .samples { grid-template-columns: repeat(2, 1fr); }
  .sample td + td { white-space: normal; }
}
"""
