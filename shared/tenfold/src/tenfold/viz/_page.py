"""Style sheet and script of the report page."""

CSS = """
:root{color-scheme:light dark;--paper:#f5f6f9;--card:#fff;--ink:#1c2330;--soft:#5d687a;--line:#dde1e9;
--accent:#2f5fd0;
--good:#1a7f54;--good-back:#e0f4ea;--bad:#b3261e;--bad-back:#fde7e5;--quick:#8a5200;--quick-back:#fff0d9}
@media (prefers-color-scheme:dark){:root{--paper:#12151b;--card:#1a1f28;--ink:#e6e9ef;--soft:#9aa5b8;
--line:#303846;
--accent:#8fb0ff;--good:#6fd6a3;--good-back:#173427;--bad:#ff9d92;--bad-back:#42201d;--quick:#f0bd6c;--quick-back:#3c2e16}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);line-height:1.5;overflow-wrap:break-word;
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
header,main,footer{max-width:1240px;margin:0 auto;padding:0 16px}
header{padding-top:32px}h1{font-size:1.9rem;line-height:1.2;margin:0 0 8px}
h2{font-size:1.35rem;line-height:1.3;margin:40px 0 8px}h3{font-size:1.1rem;line-height:1.3;margin:0}
p{margin:8px 0;max-width:76ch}a{color:var(--accent)}.soft{color:var(--soft)}
.bar{display:flex;flex-wrap:wrap;gap:8px 12px;align-items:center;margin:16px 0}
.bar a{text-decoration:none}.bar a:hover{text-decoration:underline}
button{font:inherit;color:inherit}
.tool{border:1px solid var(--line);border-radius:6px;background:var(--card);padding:2px 10px;cursor:pointer}
.cards{display:grid;gap:16px;grid-template-columns:repeat(auto-fill,minmax(min(100%,350px),1fr));
align-items:start;margin:16px 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px;min-width:0}
.card.wide{grid-column:1/-1}
.title{display:flex;flex-wrap:wrap;gap:6px 8px;align-items:center;justify-content:space-between}
.badge{display:inline-block;border-radius:99px;padding:1px 10px;font-size:.8rem;font-weight:600;
white-space:nowrap}
.badge.ok{color:var(--good);background:var(--good-back)}.badge.failed{color:var(--bad);
background:var(--bad-back)}
.badge.quick{color:var(--quick);background:var(--quick-back)}
.number{font-size:1.6rem;font-weight:650;line-height:1.25;margin:10px 0 2px;font-variant-numeric:tabular-nums}
.claim{color:var(--soft);font-size:.95rem}.control{font-size:.92rem}.control b{font-weight:600}
figure{margin:12px 0}figcaption,caption{color:var(--soft);font-size:.88rem;text-align:left;padding:4px 0}
img{display:block;max-width:100%;height:auto;border-radius:6px}
.scroll{overflow-x:auto;max-width:100%;margin:12px 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;min-width:100%}
th,td{padding:5px 10px;border-bottom:1px solid var(--line);text-align:left;vertical-align:top;
white-space:nowrap}
td.wrap{white-space:normal;min-width:16em}
th{font-weight:600;border-bottom-width:2px}.right{text-align:right}
th button{border:0;background:none;padding:0;font-weight:600;cursor:pointer;white-space:nowrap}
th button::after{content:" ↕";color:var(--soft);font-size:.8em}
th[aria-sort=ascending] button::after{content:" ↑"}th[aria-sort=descending] button::after{content:" ↓"}
td.good{color:var(--good)}td.bad{color:var(--bad)}td.weak{color:var(--quick)}
details{border-top:1px solid var(--line);margin:12px 0 0;padding-top:8px}summary{cursor:pointer;
font-weight:600}
pre{overflow-x:auto;background:var(--paper);border-radius:6px;padding:10px;font-size:.85rem;margin:8px 0}
svg.tf-chart{display:block;max-width:100%}
footer{padding-top:24px;padding-bottom:32px;color:var(--soft);font-size:.88rem}
footer dl{display:flex;flex-wrap:wrap;gap:2px 20px;margin:0}footer dl div{display:flex;gap:6px;min-width:0}
dt{font-weight:600}dd{margin:0;min-width:0}
@media print{.tool{display:none}.card{break-inside:avoid}}
"""

# Sorting keeps equal rows in their order; cells without a sort key go last in both directions.
SCRIPT = """
"use strict";
function sortKey(row, column) {
  const text = row.cells[column].dataset.sort;
  if (text === undefined) return null;
  const number = Number(text);
  return text.trim() !== "" && !Number.isNaN(number) ? number : text;
}
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b));
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const rows = Array.from(body.rows);
    rows.sort((a, b) => compare(sortKey(a, head.cellIndex), sortKey(b, head.cellIndex), ascending ? 1 : -1));
    body.append(...rows);
  });
}
const toggle = document.getElementById("toggle-details");
if (toggle) {
  toggle.addEventListener("click", () => {
    const open = toggle.getAttribute("aria-pressed") !== "true";
    for (const part of document.querySelectorAll("details")) part.open = open;
    toggle.setAttribute("aria-pressed", String(open));
    toggle.textContent = open ? "Hide all details" : "Show all details";
  });
}
"""
