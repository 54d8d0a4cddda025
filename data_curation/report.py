"""report.html of a curation: what went in, what came out and why, how it was tagged, and what the rows look like."""

from __future__ import annotations

import base64
from collections import Counter

import jinja2
import pyarrow as pa
import pyarrow.compute as pc

from data_curation.publish import Published

PAGE = jinja2.Template(
    """<!doctype html><html lang="en"><meta charset="utf-8"><title>Curation</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .8rem;border-bottom:1px solid #8884;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}img{width:120px;image-rendering:pixelated;border-radius:4px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(16rem,1fr));gap:1rem}
.card{border:1px solid #8884;border-radius:8px;padding:.8rem;font-size:.85rem}
.warn{background:#c00;color:#fff;padding:.8rem;border-radius:8px}
</style><h1>Curation</h1>{% if warning %}<p class="warn">{{ warning }}</p>{% endif %}
<h2>Funnel</h2><table><tr><th>step<th>rows</tr><tr><td>drawn<td class="n">{{ drawn }}</tr>
{% for reason, n in rejects.items() %}<tr><td>rejected: {{ reason }}<td class="n">{{ n }}</tr>{% endfor %}
{% for split, n in rows.items() %}<tr><td>published: {{ split }}<td class="n">{{ n }}</tr>{% endfor %}
{% for name, n in formats.items() %}<tr><td>train rows as {{ name }}<td class="n">{{ n }}</tr>{% endfor %}</table>
{% if tags %}<h2>Tags of the train questions</h2><table><tr><th>family<th>level{% for m in modes %}<th>{{ m }}{% endfor %}</tr>
{% for key, counts in table %}<tr><td>{{ key[0] }}<td>{{ key[1] }}
{% for m in modes %}<td class="n">{{ counts.get(m, 0) }}{% endfor %}</tr>
{% endfor %}</table>{% endif %}<h2>Samples</h2><div class="cards">{% for s in samples %}<div class="card">
{% for i in s.images %}<img alt="" src="data:image/png;base64,{{ i }}">{% endfor %}
<p><b>{{ s.mode }}</b> · {{ s.task }} · {{ s.level }}
{% if s.n %}· direct {{ s.direct }}/{{ s.n }}, thinking {{ s.think }}/{{ s.n }}{% endif %}
<p>{{ s.question }}<p>answer: {{ s.answer }}
<p><small>{{ s.trace }}</small></div>{% endfor %}</div></html>
""",
    autoescape=True,
)
MODES = ("thinking", "either", "non_thinking")
LEVELS = ("easy", "mid", "hard")


def warn_about_share(published: Published) -> str:
    """One loud line if the reasoning share is outside 20-60 %, else an empty string (R-4B's own is 34 %)."""
    share = published.reasoning_share
    if share is None or 0.2 <= share <= 0.6:
        return ""
    return (
        f"WARNING: {share:.0%} of the tagged train questions are reasoning, outside 20-60 %: "
        "change curate.level_weights, or check that the tagging model can answer at all"
    )


def render(candidates: pa.Table, published: Published) -> str:
    """The page."""
    alive = candidates.filter(pc.equal(candidates["reason"], ""))
    train = alive.filter(pc.equal(alive["split"], "train"))
    rows = train.select(["task", "level", "mode"]).to_pylist()
    counts: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        counts.setdefault((row["task"], row["level"]), Counter())[row["mode"]] += 1
    table = sorted(counts.items(), key=lambda item: (item[0][0], LEVELS.index(item[0][1])))
    picked = [i for mode in MODES for i in [k for k, row in enumerate(rows) if row["mode"] == mode][:6]]
    samples = [
        {
            "images": [base64.b64encode(image["bytes"]).decode() for image in row["images"]],
            "mode": row["mode"], "task": row["task"], "level": row["level"], "n": row["n_rollouts"],
            "direct": row["n_pass_direct"], "think": row["n_pass_think"], "question": row["prompt"][-1]["content"],
            "answer": row["answer"], "trace": row["trace"],
        }
        for row in train.take(picked).to_pylist()
    ]  # fmt: skip
    return PAGE.render(
        warning=warn_about_share(published), drawn=candidates.num_rows, rejects=published.rejects, rows=published.rows,
        formats=published.formats, tags=published.tags, modes=MODES, table=table, samples=samples,
    )  # fmt: skip
