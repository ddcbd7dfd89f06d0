from __future__ import annotations

import csv
import io
import json
import re
from xml.etree import ElementTree

import pytest
from PIL import Image

from tlopt.errors import CheckError
from tlopt.reports import Point, Report, number, page, picture
from tlopt.reports.picture import front

ROWS = (
    {"artifact": "a", "backend": "torch:cpu", "p50_ms": 12.3456, "accuracy": 0.9, "low": 0.85, "high": 0.93},
    {"artifact": "b<i>", "backend": "onnxruntime:cpu", "p50_ms": 3.2, "accuracy": 0.88, "low": 0.83, "high": 0.91},
    {"artifact": "engine", "backend": "tensorrt", "skipped": "there is no GPU"},
)


def report(**changes) -> Report:
    fields = {"title": "Speed & accuracy", "rows": ROWS, "conditions": {"processor": "test", "cores": 2}}
    return Report(**{**fields, **changes})


def point(label: str, latency: float, accuracy: float) -> Point:
    return Point(label=label, precision="fp32", runtime="torch", latency_ms=latency, accuracy=accuracy,
                 low=accuracy - 0.02, high=accuracy + 0.02)  # fmt: skip


def test_the_table_is_aligned_and_says_below_what_did_not_run():
    lines = report().table().splitlines()
    assert lines[2].split() == ["artifact", "backend", "p50", "ms", "accuracy", "low", "high"]
    assert len({len(line) for line in lines[2:6]}) == 1
    assert lines[-1] == "engine on tensorrt: not run. there is no GPU"
    assert "skipped" not in lines[2]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (12345.6, "12,346"), (123.456, "123.5"), (12.3456, "12.35"), (0.98765, "0.988"), (0.00123, "0.0012")],
)
def test_numbers_keep_the_digits_that_carry_meaning(value, text):
    assert number(value) == text


def test_a_wide_table_is_split_and_each_part_says_what_its_rows_are_about():
    figures = {f"p{number}_ms": number / 7 for number in range(10, 20)}
    rows = tuple({"artifact": name, "batch": 8, **figures, "host_mb": 1.5} for name in ("fp32", "int8"))
    lines = report(rows=rows).table(width=80).splitlines()
    assert max(map(len, lines)) <= 80
    heads = [line.split() for line in lines if line.startswith("artifact")]
    assert len(heads) == 2
    assert all(head[:2] == ["artifact", "batch"] for head in heads)
    assert " ".join(heads[1]).endswith("host MB")
    assert sum(line.startswith("int8") for line in lines) == 2
    assert len([line for line in report(rows=rows).table().splitlines() if line.startswith("artifact")]) == 1


def test_long_texts_are_wrapped_beside_their_row():
    why, way = "There is no driver here, and " * 3, "python -m pip install something && " * 3
    rows = (
        {"part": "onnxruntime:cuda", "usable": "no", "detail": why, "mend": way},
        {"part": "cores", "usable": "yes", "detail": "2", "mend": ""},
    )
    lines = report(rows=rows).table(width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].split() == ["part", "usable", "detail"]
    assert lines[-1].split() == ["cores", "yes", "2"]
    assert sum("repair: python" in line for line in lines) == 1
    text = " ".join(" ".join(lines).split())
    assert " ".join(way.split()) in text
    assert " ".join(why.split()) in text


def test_csv_and_json_keep_every_digit():
    rows = list(csv.DictReader(io.StringIO(report().to_csv())))
    assert float(rows[0]["p50_ms"]) == 12.3456
    assert json.loads(report().to_json())["rows"][0]["p50_ms"] == 12.3456


def test_a_report_is_rebuilt_from_json():
    full = report(notes=("note",), breaches=("breach",), details={"x": [1]})
    assert Report.from_json(full.to_json()) == full
    with pytest.raises(ValueError, match="not a report of tlopt"):
        Report.from_json("{}")


def test_markdown_is_a_table_with_numbers_to_the_right():
    lines = report().to_markdown().splitlines()
    assert lines[1] == "|---|---|---:|---:|---:|---:|---|"
    assert lines[2].startswith("| a | torch:cpu | 12.35 |")


def test_a_breached_gate_fails_with_exit_code_3():
    report().check()
    with pytest.raises(CheckError, match="too slow") as caught:
        report(breaches=("It is too slow.",)).check()
    assert caught.value.exit_code == 3


def test_the_front_holds_what_nothing_beats_in_both():
    points = [point("slow", 9, 0.9), point("fast", 1, 0.8), point("beaten", 5, 0.79), point("same", 9.5, 0.9)]
    assert [p.label for p in front(points)] == ["fast", "slow"]


def test_the_picture_is_one_element_in_the_colours_of_the_page():
    svg = picture([point("first", 1, 0.8), point("second & third", 9, 0.9)], title='a "title"')
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "height" not in root.attrib
    assert root.attrib["aria-label"] == 'a "title"'
    assert "currentColor" in svg
    assert "#010203" not in svg
    texts = ["".join(element.itertext()).strip() for element in root.iter() if element.tag.endswith("text")]
    assert {"first", "second & third", "Pareto front"} <= set(texts)


def test_the_picture_of_one_point_and_of_equal_points_can_be_drawn():
    assert "only" in picture([point("only", 2, 1.0)])
    assert picture([point("a", 2, 0.5), point("b", 2, 0.5), point("c", 2, 0.5)]).count("<svg") == 1


def test_the_page_escapes_names_and_needs_nothing_from_outside(tmp_path):
    Image.new("RGB", (300, 200), "red").save(tmp_path / "red.png")
    html = page(
        report(notes=("Warning: <script>",)),
        points=[point("b<i>", 3.2, 0.88)],
        images=[{"path": tmp_path / "red.png", "caption": ["red.png", "was <b>"]}, {"path": "gone", "caption": ["x"]}],
    )
    assert "b<i>" not in html
    assert "<script" not in html
    assert "was &lt;b&gt;" in html
    assert "Did not run here: there is no GPU" in html
    assert "90.0 % (85.0–93.0)" in html
    assert "data:image/jpeg;base64," in html
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|<link""", html)


def test_the_page_tells_the_lineage(exported):
    html = page(report(), artifacts=[exported])
    assert "<strong>finetune</strong>" in html
    assert "<strong>export</strong>" in html
    assert exported.digest[:12] in html


def test_what_went_no_further_is_drawn_in_grey_and_is_not_on_the_front():
    aside = Point(label="", precision="fp32", runtime="torch", latency_ms=1.0, accuracy=float("nan"), low=0, high=0,
                  aside=True)  # fmt: skip
    known = point("a", 5.0, 0.9)
    assert front([known, aside]) == [known]
    drawing = picture([known, aside], limit_ms=4.0)
    assert "went no further" in drawing
    assert "limit" in drawing
    assert "went no further" not in picture([known])
    ElementTree.fromstring(drawing)


def test_the_page_shows_further_tables():
    shown = page(report(more=(Report(title="What it cost", rows=({"step": "training", "seconds": 2.0},)),)))
    assert "What it cost" in shown
    assert "training" in shown
