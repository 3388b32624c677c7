"""The style sheet of reports: light and dark by the reader's preference, one column on a phone, paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --surface: #ffffff; --ink: #1b1f24; --muted: #5c6670; --grid: #c9ced6; --line: #dfe3e8; --link: #0b5cad;
  --blue: #0072b2; --orange: #d55e00; --green: #00875f; --red: #b3261e; --purple: #8e4585; --warn: #fff4d6; --good: #0a7a50;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --surface: #1d2126; --ink: #e6e9ed; --muted: #a3adb8; --grid: #4a525c; --line: #333a42; --link: #7cb8f5;
    --blue: #56b4e9; --orange: #f5924a; --green: #35c89a; --red: #ff8a80; --purple: #d79bd0; --warn: #3a3220; --good: #5fd3a4;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", "DejaVu Sans", sans-serif; }
header, main, nav, footer { max-width: 1240px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 28px; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 8px; }
h3 { font-size: 1.05rem; margin: 24px 0 8px; }
p { margin: 8px 0; max-width: 78ch; overflow-wrap: anywhere; }
a { color: var(--link); }
code { font: 0.92em ui-monospace, "SFMono-Regular", Menlo, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.lead, .caption, footer, .note { color: var(--muted); }
.caption, .note { font-size: 0.9rem; }
.warning { background: var(--warn); border-left: 4px solid var(--orange); padding: 8px 12px; border-radius: 4px; }
.verdict { font-size: 1.2rem; font-weight: 600; max-width: none; }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 16px; list-style: none; margin: 16px 0; padding: 0; font-size: 0.95rem; }
section { margin: 0 0 20px; padding: 20px 24px 24px; background: var(--surface); border: 1px solid var(--line);
  border-radius: 10px; scroll-margin-top: 8px; }
footer { padding-bottom: 32px; font-size: 0.85rem; }
dl.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px; margin: 20px 0 4px; }
dl.cards div { background: var(--surface); border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px; }
dl.cards dt { color: var(--muted); font-size: 0.85rem; }
dl.cards dd { margin: 0; font-size: 1.35rem; font-weight: 600; line-height: 1.25; overflow-wrap: anywhere; }
dl.cards dd.detail { font-size: 0.85rem; font-weight: 400; color: var(--muted); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 20px 24px;
  align-items: start; margin-top: 12px; }
figure { margin: 0; min-width: 0; max-width: 480px; }
figure.large { max-width: 900px; margin-top: 12px; }
figcaption { font-size: 0.9rem; color: var(--muted); overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
figure svg { display: block; width: 100%; height: auto; fill: currentColor; stroke-linejoin: round; }
figure svg text { font-family: inherit !important; }
figure svg image { image-rendering: pixelated; }
svg.narrow { display: none; }
ul.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; list-style: none; margin: 4px 0; padding: 0; font-size: 0.9rem; }
ul.legend span { margin-right: 6px; }
.scroll { overflow-x: auto; max-width: 100%; margin: 12px 0; }
.scroll:focus-visible, a:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); padding-bottom: 4px; white-space: nowrap; }
.beside { display: flex; flex-wrap: wrap; gap: 4px 36px; align-items: flex-start; }
.beside > * { min-width: 0; max-width: 100%; }
.beside > figure { width: 480px; margin-top: 12px; }
.beside > figure.large { width: 830px; }
th, td { padding: 4px 14px 4px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; }
td.text, th.text { text-align: left; }
td.long { text-align: left; white-space: normal; min-width: 16em; overflow-wrap: anywhere; }
td.best { font-weight: 700; color: var(--good); }
@media (max-width: 700px) {
  header, main, nav, footer { padding-left: 12px; padding-right: 12px; }
  section { padding: 14px 14px 18px; }
  h1 { font-size: 1.4rem; }
  dl.cards { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  nav ul { gap: 8px 16px; }
  caption { white-space: normal; }
  td.text { white-space: normal; min-width: 7.5em; }
  td.long { min-width: 11em; }
  svg.wide { display: none; }
  svg.narrow { display: block; }
}
@media print {
  @page { margin: 14mm; }
  body { background: none; font-size: 10.5pt; }
  nav { display: none; }
  header, main, footer { max-width: none; padding: 0; }
  section { border: 0; padding: 0; }
  .charts { display: block; }
  .charts > figure { display: inline-block; width: 48%; margin: 0 1% 10px 0; vertical-align: top; }
  dl.cards { grid-template-columns: repeat(4, minmax(0, 1fr)); }
  .scroll { overflow: visible; }
  table { font-size: 8pt; }
  th, td { padding-right: 8px; }
  svg.wide { display: block; }
  svg.narrow { display: none; }
  figure, tr, dl.cards div { break-inside: avoid; }
  h2, h3, section > p, caption { break-after: avoid; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""
