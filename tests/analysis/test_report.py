import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_compare import COMPLY, ERROR, FLAG, HARMFUL, REFUSE, TWIN, frame, record, save, side

from rfbench.analysis.metrics.row import MetricRow
from rfbench.analysis.report.chart import chart
from rfbench.analysis.report.html import MAX_UNSCORED, render_report
from rfbench.analysis.report.markup import Markup, escape, tag
from rfbench.analysis.run_data import RunData
from rfbench.analysis.section import clean
from rfbench.run.store.reader import load_run

VOID = {"meta"}
TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "dl", "dt", "dd", "div", "table"}
TAGS |= {"caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "details", "summary", "pre"}
TAGS |= {"svg", "desc", "text", "tspan", "line", "circle", "rect"}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\x1b[31m"


class Page(HTMLParser):
    """Elements, attribute names and text of a page; fails where tags do not balance."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.open = set(), set(), []
        self.text, self.folded, self.cells = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.tags.add(name)
        self.attributes |= {key for key, _ in attributes}
        if name not in VOID:
            self.open.append(name)
        if name == "tr":
            self.cells.append([])
        elif name in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        (self.folded if "details" in self.open else self.text).append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data

    def row(self, *start):
        (found,) = [row for row in self.cells if tuple(row[: len(start)]) == start]
        return found


def run_of(records, *, done=1, total=1, **facts):
    provenance = {"configuration": {"suite": {"name": "toy"}}, "plan": [{"key": "u1", "label": "planned"}]}
    return RunData(
        path=Path("results/toy"),
        records=frame(records),
        measures=pd.DataFrame(),
        provenance=provenance | {"versions": {"torch": "2.13.0"}} | facts,
        units_done=done,
        units_total=total,
    )


def toy():
    loaded = {"m": {"flag_token": "<rf>"}}
    fields = {"flag_prob_max": 0.5}
    harmful = [record(f"b{i}", FLAG if i < 6 else COMPLY, category="ab"[i % 2], **fields) for i in range(8)]
    benign = side([COMPLY] * 6 + [REFUSE] * 2, dataset=TWIN, category="a", **fields)
    return run_of([*harmful, *benign], loaded=loaded)


# --- hostile text -------------------------------------------------------------------------------------------------


def test_nothing_that_a_model_or_a_file_says_becomes_markup():
    message = json.dumps([{"role": "user", "content": EVIL}])
    names = {"model": EVIL, "attack": EVIL}
    texts = {"messages": message, "completion": EVIL, "prefill": EVIL, "error": EVIL}
    records = [record(EVIL, FLAG, category=EVIL, **names, **texts), record("b", ERROR, category="x", **names, **texts)]
    records += [record(EVIL, COMPLY, dataset=f"{EVIL}/x", is_harmful=False, **names, **texts)]
    run = run_of(records, loaded={EVIL: {"flag_token": EVIL}}, versions={EVIL: EVIL}, canary_accepted=[EVIL])
    run.provenance["configuration"]["suite"]["name"] = EVIL
    text = render_report(run, include_text=True)
    page = Page(text)
    assert page.tags <= TAGS
    assert not {name for name in page.attributes if name.startswith("on") or name in ("src", "href", "style")}
    assert "\x1b" not in text
    assert clean(EVIL) in "".join(page.folded)
    assert [row for row in page.cells if row[:2] == [clean(EVIL)] * 2]


def test_the_page_needs_no_network_and_no_script():
    text = render_report(toy(), include_text=True)
    assert "default-src &#x27;none&#x27;; style-src &#x27;unsafe-inline&#x27;" in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", text)
    assert text.startswith("<!DOCTYPE html>")


@given(st.text())
def test_text_comes_back_as_it_was_but_for_control_characters(text):
    page = Page(tag("p", text, title=text))
    assert "".join(page.text) == "\n".join(clean(line) for line in text.split("\n")).encode("utf-8", "replace").decode()
    assert page.tags == {"p"}


def test_only_markup_is_believed():
    assert tag("p", "<b>", Markup("<b></b>"), class_="a", aria_label='"') == (
        '<p class="a" aria-label="&quot;">&lt;b&gt;<b></b></p>'
    )
    assert escape("\ud800a") == "?a"


# --- what is said -------------------------------------------------------------------------------------------------


def test_a_report_from_a_folder(tmp_path):
    folder = save(tmp_path / "run", [*side([FLAG] * 3), *side([FLAG] * 3, model="always-flag")])
    text = render_report(load_run(folder))
    assert Page(text).row("m", "direct")[2] == "100 [44, 100]"
    assert text == render_report(load_run(folder))


def test_figures_stand_where_they_belong():
    page = Page(render_report(toy()))
    dsr, false_alarm = page.row("m", "direct", "75 [41, 93]")[2:4]
    assert (dsr, false_alarm) == ("75 [41, 93]", "25 [7, 59]")
    assert page.row("m", "direct", "25 [7, 59]")  # the benign table
    # b0, b2, b4 and b6 are of category a, and b6 complied; b1, b3 and b5 are of category b, and b7 complied.
    assert page.row("m", "a", "dsr") == ["m", "a", "dsr", "75 [30, 95], n 4"]
    assert page.row("m", "b", "dsr") == ["m", "b", "dsr", "75 [30, 95], n 4"]
    assert page.row("m", "a", "false_alarm")[3] == "25 [7, 59], n 8"
    assert page.row("m", "b", "false_alarm")[3] == "not run"
    # Fewer than 4 of 8 flag in 2.7 % of the draws (binomial, 3/4): the upper end has no median.
    assert page.row("m", f"direct / {HARMFUL}")[2:] == ["75", "0 [0, inf]", "0.500", "0.500", "0.500", "8", "0"]
    text = " ".join(page.text)
    assert "m, flag <rf>, flag_bias +0" in text
    assert "torch 2.13.0" in text
    assert "Every sample was scored." in text
    assert "INCOMPLETE" not in text
    assert "planned" not in "".join(page.folded)


def test_the_chart_says_in_words_what_it_shows():
    cell = {"model": "m", "attack_label": "direct"}
    rows = [
        MetricRow(**cell, dataset=HARMFUL, metric="dsr", value=0.75, lo=0.4, hi=0.93, n=8),
        MetricRow(**cell, dataset=TWIN, metric="false_alarm", value=0.25, lo=0.07, hi=0.6, n=8),
    ]
    drawn = chart(rows, HARMFUL)
    page = Page(drawn)
    assert "m under direct: dsr 75 % [40, 93], n 8. m under direct: false_alarm 25 % [7, 60], n 8." in page.text
    assert 'role="img"' in drawn
    assert re.search(r'<line x1="40.00%" x2="93.00%"[^>]*></line><circle cx="75.00%"', drawn)
    assert re.search(r'<line x1="7.00%" x2="60.00%"[^>]*></line><rect x="25.00%"', drawn)
    alone = chart([replace(rows[0], value=float("nan"), n=0)], HARMFUL)
    assert "<circle" not in alone
    assert "false alarms were not run" in alone
    assert "false_alarm not run" in chart([rows[0], replace(rows[1], model="other")], HARMFUL)


def test_marks_cannot_be_missed():
    run = run_of(side([FLAG] * 2), done=1, total=3, canary_accepted=["m"])
    text = " ".join(Page(render_report(run)).text)
    assert "INCOMPLETE 1/3 units" in text
    assert "Canary accepted: a model failed" in text
    assert text.index("INCOMPLETE") < text.index("Results")


def test_a_run_without_results_or_flag_has_a_report():
    empty = run_of([], done=0, total=2)
    assert "No unit is finished yet." in Page(render_report(empty, include_text=True)).text
    plain = render_report(run_of(side([REFUSE] * 3, flag_id=None), loaded={"m": {"flag_token": None}}))
    assert "Red flags" not in plain
    assert "m, no flag" in plain


def test_unscored_samples_are_no_flags_of_harmful_requests_and_alarms_of_benign_ones():
    """6 of 8 scored samples flag, and 2 are lost: 6 to 8 of 10; of the benign ones 1 of 3 flags, and one is lost."""
    harmful = side([FLAG] * 6 + [COMPLY] * 2 + [ERROR] * 2)
    page = Page(render_report(run_of([*harmful, *side([FLAG, COMPLY, COMPLY, ERROR], dataset=TWIN)])))
    row = page.row("m", f"direct / {HARMFUL}")
    assert (row[2], row[-2:]) == ("60 (80)", ["8", "2"])
    row = page.row("m", f"direct / {TWIN}")
    assert (row[2], row[-2:]) == ("50 (25)", ["3", "1"])


def test_unscored_samples_are_listed_with_their_errors():
    records = side([FLAG]) + [record(f"e{i:03}", ERROR, error=f"error {i}") for i in range(MAX_UNSCORED + 5)]
    page = Page(render_report(run_of(records)))
    assert page.row("m", "direct", HARMFUL, "e007")[-1] == "error 7"
    assert not [row for row in page.cells if f"error {MAX_UNSCORED}" in row]
    assert f"{MAX_UNSCORED + 5} samples, the first {MAX_UNSCORED} listed" in " ".join(page.text)


def test_prompts_and_folders_of_the_settings_are_left_out():
    model = {"spec": "/home/me/model", "system": "the-system", "template_args": {"date": "the-date"}, "flag": "<rf>"}
    suite = {"name": "toy", "models": [model], "datasets": [{"path": "/home/me/data.csv", "targets": "/home/me/t.csv"}]}
    text = render_report(run_of(side([FLAG]), configuration={"suite": suite}, loaded={"m": model}))
    assert "&quot;flag&quot;: &quot;&lt;rf&gt;&quot;" in text
    for secret in ("/home/me", "the-system", "the-date"):
        assert secret not in text


# --- texts --------------------------------------------------------------------------------------------------------

SECRETS = {"completion": "the-completion", "prefill": "the-prefill", "suffix": "the-suffix"}
SECRETS |= {"messages": json.dumps([{"role": "user", "content": "the-prompt the-suffix"}])}


@pytest.mark.parametrize("secret", ["the-completion", "the-prefill", "the-suffix", "the-prompt"])
def test_texts_are_left_out_unless_asked_for_and_then_folded_up(secret):
    run = run_of([*side([FLAG, COMPLY], **SECRETS), record("b2", ERROR, **SECRETS)])
    assert secret not in render_report(run)
    page = Page(render_report(run, include_text=True))
    assert secret in "".join(page.folded)
    assert secret not in "".join(page.text)
    assert "Do not publish" in "".join(page.text)


def test_texts_of_controls_and_of_intermediate_steps_are_not_worth_a_page():
    records = [*side([FLAG], model="always-flag", completion="control"), record("b", final=False, completion="step-1")]
    folded = "".join(Page(render_report(run_of([*records, *side([FLAG])]), include_text=True)).folded)
    assert "control" not in folded
    assert "step-1" not in folded
    assert "<b>secret</b>" in folded
