"""What becomes of the benchmark's results: tables, pictures, the page in a browser, comparisons, the command line."""

from __future__ import annotations

import copy
import html
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numba
import pytest

from fastce import __main__ as cli
from fastce.bench import cases, command, compare, measurements, page, plots, report, run, svg, tables, timing, variants
from fastce.bench.cases import PROVIDERS

ROOT = Path(__file__).parent.parent
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def hurry(monkeypatch):
    """Make laps of single calls, without pauses."""
    monkeypatch.setattr(timing, "PAUSE", 0.0)
    monkeypatch.setattr(timing, "LAP", 0.0)


def times_of(**seconds):
    return {name: run.summary([s * factor for factor in (1, 1.1, 0.9)], 1) for name, s in seconds.items()}


def a_record(measurement="speed", function="gradient", shape=(8192, 1000), times=(), values=(), dtype="float32"):
    return run.Record(
        measurement=measurement,
        function=function,
        dtype=dtype,
        n_rows=shape[0],
        n_classes=shape[1],
        bytes_moved=10**6,
        times=dict(times),
        values=dict(values),
    )


def some_results(left_out=None):
    """Give a few numbers of every measurement."""
    times = times_of(**{"fastce": 1e-3, "fastce-in-place": 9e-4, "numpy": 8e-3, "torch": 5e-4, "copy": 6e-4})
    forward = {name: times[name] for name in ("fastce", "numpy", "torch", "copy")} | times_of(read=4e-4)
    errors = {"loss": 0.25, "median": 0.5, "p99": 2.0, "max": 123456.0}
    records = [
        a_record(function="forward", times=forward),
        a_record(times=times),
        a_record(shape=(32, 10), times=times_of(fastce=2e-6, numpy=2e-5, torch=5e-5, copy=1e-6)),
        a_record(function="softmax", times=times_of(fastce=1e-3, scipy=9.5e-3, copy=6e-4)),
        a_record("accuracy", values={"fastce": errors, "numpy": errors}),
        a_record("threads", times=times_of(**{"1 thread": 3e-3, "2 threads": 1.6e-3})),
        *(a_record("sweep", shape=(2**20 // c, c), times=times_of(fastce=c * 1e-6)) for c in (1, 2, 3)),
        a_record("options", times=times_of(plain=1e-3, softcap=2e-3)),
        a_record("allocation", times=times_of(given=1e-3, new=1.5e-3)),
        a_record("memory", values={"fastce": {"bytes": 32e6, "logits": 1.0}, "torch": {"bytes": 96e6, "logits": 3.0}}),
    ]
    return run.Results(
        command="python -m fastce bench",
        date="2026-01-02",
        machine={"processor": "P <&>"},
        versions={"fastce": "1"},
        left_out=left_out or {},
        records=records,
    )


# --- tables


def test_table_has_times_ratios_and_share_of_copy():
    (key, records), (other, _), _ = tables.groups(tables.select(some_results(), "speed")).items()
    assert key == ("gradient", "float32")
    assert other == ("forward", "float32")
    header, row, small = tables.speed_table(records)
    cell = dict(zip(header, row, strict=True))
    assert cell["rows x classes"] == "8,192 x 1,000"
    assert cell["fastce"] == "1 ms"
    assert cell["fastce in place"] == "900 us"
    assert cell["over NumPy"].startswith("8.0 (")
    assert cell["over the best peer"].startswith("0.50 (")
    assert cell["over the best peer"].endswith(") PyTorch")
    assert cell["of copy speed"].startswith("0.60 (")
    assert cell["GB/s"] == "1.00"
    cell = dict(zip(header, small, strict=True))
    assert cell["fastce in place"] == ""  # not timed there
    assert cell["over the best peer"].endswith(") NumPy")


def test_forward_has_its_share_of_read_speed():
    header, row = tables.tables(some_results())["Forward, float32"]
    assert dict(zip(header, row, strict=True))["of read speed"].startswith("0.40 (")


def test_tables_of_the_other_measurements():
    found = tables.tables(some_results())
    of = {name.partition(":")[0]: rows for name, rows in found.items() if ":" in name}
    assert len(of) == len(measurements.MEASUREMENTS) - 1
    assert of["Accuracy"][1] == ["8,192 x 1,000", "fastce", "0.25", "0.5", "2", "123,000"]
    assert of["Thread scaling"][0][1:] == ["1 thread", "speed-up on 2 threads"]
    assert of["Thread scaling"][1][2].startswith("1.88 (")
    assert of["Cost of options"][0][1:] == ["plain", "softcap"]
    assert of["Cost of options"][1][2].startswith("2.0 (")
    assert of["Cost of a new gradient"][1][2].startswith("1.50 (")
    assert of["Peak memory"][2] == ["8,192 x 1,000", "PyTorch", "96.0", "3.00"]
    costs = [row[1:] for row in of["Cost per element"][1:]]
    assert costs == [["0.001", "0.50"], ["0.002", "2.00"], ["0.003", "1.50"]]


def test_report_says_where_it_loses_and_what_was_left_out():
    text = report.to_text(some_results({"torch": "torch is not installed", "peak memory": "only Linux tells it"}))
    assert "Left out: PyTorch (torch is not installed)." in text
    assert "Left out: peak memory (only Linux tells it)." in text
    assert "Faster than fastce: PyTorch at 8,192 x 1,000" in text
    assert "NumPy at" not in text
    assert not re.search(r"\d \([\d.]+ to [\d.]+\)", text)  # the terminal's lines are long enough


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5e-6, "2.5 us"), (999.6e-6, "1 ms"), (0.0123456, "12.3 ms"), (0.99951, "1 s"), (12.345, "12.3 s")],
)
def test_durations(seconds, text):
    assert tables.duration(seconds) == text


def test_table_without_fastce_has_times_alone():
    records = some_results()["records"][:1]
    del records[0]["times"]["fastce"]
    assert tables.speed_table(records)[0] == ["rows x classes", "NumPy", "PyTorch", "copy", "read"]


def test_results_survive_json(tmp_path):
    path = tmp_path / "new folder" / "some.json"
    report.save(some_results(), path)
    assert report.load(path) == some_results()


def test_readme_is_rewritten_between_the_markers_only(tmp_path):
    readme, json_path = tmp_path / "README.md", tmp_path / "results" / "some.json"
    readme.write_text(f"before\n{report.START}\nold\n{report.END}\nafter × \n", encoding="utf-8")
    report.save(some_results(), json_path)
    report.main([str(json_path), "--readme", str(readme)])
    once = readme.read_text(encoding="utf-8")
    assert once.startswith("before\n" + report.START)
    assert once.endswith(report.END + "\nafter × \n")
    assert "old" not in once
    assert "| 8,192 x 1,000 |" in once
    links = re.findall(r"\(results/(some-[\w-]+\.svg)\)", once)
    assert sorted(links) == sorted(path.name for path in json_path.parent.glob("*.svg"))
    assert len(links) == len(plots.SECTIONS) + 1  # of the speed-ups two
    report.main([str(json_path), "--readme", str(readme)])
    assert readme.read_text(encoding="utf-8") == once


def test_another_section_of_the_readme_has_no_pictures(tmp_path):
    readme, json_path = tmp_path / "README.md", tmp_path / "some.json"
    first = f"{report.START}\nfirst\n{report.END}\n"
    readme.write_text(f"{first}<!-- other:start -->\nold\n<!-- other:end -->\n", encoding="utf-8")
    report.save(some_results(), json_path)
    report.main([str(json_path), "--readme", str(readme), "--section", "other"])
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(first + "<!-- other:start -->")
    assert "| 8,192 x 1,000 |" in text
    assert "old" not in text
    assert ".svg" not in text
    assert not list(tmp_path.glob("*.svg"))


@pytest.mark.parametrize(
    ("path", "section", "name"),
    [
        ("README.md", "benchmark", "quick"),
        ("bench/RESULTS.md", "rocketlake", "quick"),
        ("bench/RESULTS.md", "emeraldrapids", "quick-emeraldrapids"),
        ("bench/RESULTS.md", "zen4", "quick-zen4"),
        ("bench/RESULTS.md", "avx2", "quick-avx2"),
    ],
)
def test_the_tables_and_pictures_are_those_of_the_saved_results(tmp_path, path, section, name):
    shutil.copytree(ROOT / "bench" / "results", tmp_path / "bench" / "results")
    pictures = sorted(tmp_path.glob("bench/results/quick-*.svg"))
    for picture in pictures if section == "benchmark" else ():
        picture.unlink()
    text, start = (ROOT / path).read_text(encoding="utf-8"), f"<!-- {section}:start -->"
    end = start.replace("start", "end")
    (tmp_path / path).write_text(text.split(start)[0] + start + end + text.split(end)[1], encoding="utf-8")
    saved = tmp_path / "bench" / "results" / f"{name}.json"
    report.main([str(saved), "--readme", str(tmp_path / path), "--section", section])
    assert (tmp_path / path).read_text(encoding="utf-8") == text
    assert sorted(tmp_path.glob("bench/results/quick-*.svg")) == pictures != []
    for picture in pictures:
        assert picture.read_bytes() == (ROOT / "bench" / "results" / picture.name).read_bytes()


@pytest.mark.parametrize("text", ["", report.START, report.END + report.START, report.START * 2 + report.END])
def test_readme_without_markers_is_refused(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="needs the lines"):
        report.write_between_markers(path, "new")
    assert path.read_text() == text


# --- pictures


def texts_of(figure):
    return [element.text for element in ElementTree.fromstring(figure).iter(f"{SVG}text")]


def test_grid_shows_every_ratio():
    cells = {(1, 10): 0.5, (32, 10): 7.31, (32, 1000): 41.2}
    figure = svg.grid({key: svg.Mark(0, value, "a < b", 3) for key, value in cells.items()}, ("rows", "classes"))
    assert {"0.50×", "7.3×", "41×", "1,000", "32", "rows", "classes"} <= set(texts_of(figure))
    parsed = ElementTree.fromstring(figure)
    classes = [element.get("class") for element in parsed.iter(f"{SVG}rect")]
    assert sorted(classes) == ["empty", "fast", "fast", "slow"]
    assert [title.text for title in parsed.iter(f"{SVG}title")] == ["a < b"] * 3


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("points", [[(8, 3.0)], [(1, 0.01), (4096, 9.0)], [(1, 1.0), (2, 1.1), (1 << 30, 900.0)]])
def test_chart_keeps_its_marks_inside(points, log_y):
    marks = [svg.Mark(x, y, "", i) for i, (x, y) in enumerate(points)]
    series = [svg.Series("one", "fastce", marks, line=True), svg.Series("other", "numpy", marks[:1])]
    parsed = ElementTree.fromstring(svg.chart(series, "x", "y", log_y=log_y))
    _, _, width, height = map(float, parsed.get("viewBox").split())
    circles = [group.find(f"{SVG}circle") for group in parsed.iter(f"{SVG}g")]
    assert len(circles) == len(points) + 1
    places = [(float(circle.get("cx")), float(circle.get("cy"))) for circle in circles]
    assert all(0 < x < width and 0 < y < height for x, y in places)
    ordered = places[1:]  # the first series is drawn last, on top
    assert ordered == sorted(ordered)
    assert [y for _, y in ordered] == sorted((y for _, y in ordered), reverse=True)  # more is higher


def test_bars_are_as_long_as_their_values():
    group = [svg.Bar(name, "fastce", value, f"{value}", 0) for name, value in (("a", 1.0), ("b", 4.0))]
    widths = [
        float(rect.get("width")) for rect in ElementTree.fromstring(svg.bars({"": group}, "x")).iter(f"{SVG}rect")
    ]
    assert widths[1] == pytest.approx(4 * widths[0], rel=1e-2)


def test_every_section_is_drawn_and_is_a_file_of_its_own():
    figures = list(plots.figures(some_results()))
    assert {f.section for f in figures} == set(plots.SECTIONS)
    assert {f.peer for f in figures if f.section == "speedup"} == {plots.BEST, "numpy", "torch", "scipy"}
    for heading, picture in plots.pictures(some_results()).values():
        assert texts_of(picture)[0] == heading
        assert "prefers-color-scheme: dark" in picture


def test_every_colour_is_in_the_style():
    for name in (*PROVIDERS, "other"):
        assert f".{name} {{ color: var(--{name});" in svg.STYLE
        assert svg.STYLE.count(f"--{name}: #") == 2  # light and dark


# --- the page


def test_page_needs_nothing_else():
    text = page.to_html(some_results())
    assert not re.search(r"<link|<img|@import|url\(|<script[^>]+src", text)
    links = set(re.findall(r"https?://[^\"' ]+", text))
    assert links == {"http://www.w3.org/2000/svg"}
    assert "<!--" not in text  # every part of the template is filled
    assert "P &lt;&amp;&gt;" in text


def test_page_of_little():
    results = some_results()
    results["records"] = results["records"][6:7]
    text = page.to_html(results)
    assert text.count("<figure") == 1
    results["records"] = []
    assert page.to_html(results).count("<figure") == 0


def test_data_cannot_end_its_element():
    results = some_results()
    results["command"] = "</script><!--"
    data = re.search(r'id="data">(.*?)</script>', page.to_html(results), re.DOTALL).group(1)
    assert json.loads(data)["command"] == "</script><!--"


class Page:
    """The page in a headless browser: its DOM, after a script of the test ran at its end."""

    def __init__(self, folder, results):
        self.folder, self.text, self.count = folder, page.to_html(results), 0

    def __call__(self, address="", script=""):
        self.count += 1
        path = self.folder / f"page{self.count}.html"
        errors = "<script>onerror = (message) => { document.title = message; };</script>"
        probe = f"<script>{{ {script} }}</script>"
        path.write_text(
            self.text.replace("<style>", errors + "<style>", 1).replace("</body>", probe + "</body>"), encoding="utf-8"
        )
        done = subprocess.run(
            [
                BROWSER,
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                f"--user-data-dir={self.folder / f'browser{self.count}'}",
                "--dump-dom",
                f"{path.as_uri()}{address}",
            ],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "<title>fastce benchmark</title>" in done.stdout  # no error of the script
        return done.stdout


@pytest.fixture
def in_browser(tmp_path):
    if BROWSER is None:
        pytest.skip("no Chromium here to show the page in")
    return Page(tmp_path, some_results())


def shown(dom):
    """Give section and data of the figures that are not hidden."""
    found = []
    for name, section in re.findall(r'<section id="(\w+)" class="figures"[^>]*>(.*?)</section>', dom, re.DOTALL):
        for attributes in re.findall(r"<figure([^>]*)>", section):
            if "hidden" not in attributes:
                found.append((name, *re.findall(r'data-\w+="([^"]*)"', attributes)))
    return found


def test_page_shows_one_choice(in_browser):
    dom = in_browser()
    first = ("gradient", "float32")
    assert shown(dom) == [(name, *first, plots.BEST if name == "speedup" else "") for name in plots.SECTIONS]
    assert re.search(r'<p id="none" hidden', dom)


def test_address_chooses_what_the_page_shows(in_browser):
    dom = in_browser("#function=softmax&dtype=float32&peer=scipy")
    choice = ("softmax", "float32")
    assert shown(dom) == [("speedup", *choice, "scipy"), ("roofline", *choice, "")]
    assert "Not measured for this choice: cost of an element; threads;" in dom
    assert shown(in_browser("#function=nonsense&peer=numpy"))[0] == ("speedup", "gradient", "float32", "numpy")


def test_controls_choose_what_the_page_shows(in_browser):
    dom = in_browser(
        script="""
        for (const [id, value] of [["function", "forward"], ["peer", "torch"]]) {
          const control = document.getElementById(id);
          control.value = value;
          control.dispatchEvent(new Event("change"));
        }
        document.body.dataset.address = location.hash;
        """
    )
    choice = ("forward", "float32")
    assert shown(dom) == [("speedup", *choice, "torch"), ("roofline", *choice, "")]
    address = html.unescape(re.search(r'data-address="([^"]*)"', dom).group(1))
    assert address == "#function=forward&dtype=float32&peer=torch"
    assert shown(in_browser(address)) == shown(dom)


def test_numbers_of_the_page_are_those_of_the_results(in_browser):
    results = some_results()
    dom = in_browser(
        script="""
        const told = [...document.querySelectorAll(".mark")].map((mark) => {
          mark.dispatchEvent(new PointerEvent("pointermove", { clientX: 5, clientY: 5 }));
          const tip = document.getElementById("tip");
          if (tip.hidden) throw new Error("nothing is told");
          const lines = [...tip.querySelectorAll("tr")].map((row) => [...row.cells].map((cell) => cell.textContent));
          mark.dispatchEvent(new PointerEvent("pointerleave"));
          if (!tip.hidden) throw new Error("the panel stays");
          return [+mark.dataset.record, mark.closest("figure").dataset.peer, mark.textContent, lines];
        });
        document.body.append(Object.assign(document.createElement("pre"),
          { id: "told", textContent: JSON.stringify(told) }));
        """
    )
    told = json.loads(html.unescape(re.search(r'<pre id="told">(.*?)</pre>', dom, re.DOTALL).group(1)))
    assert {index for index, *_ in told} == set(range(len(results["records"])))
    for index, peer, text, lines in told:
        r = results["records"][index]
        if peer:
            against = tables.best_peer(r) if peer == plots.BEST else peer
            assert text == svg.times(tables.ratio(r, against, "fastce")[0])
        titles = {
            measurements.title_of(n, r["measurement"]) if r["measurement"] != "sweep" else n: t
            for n, t in r["times"].items()
        }
        medians = {line[0]: line[1] for line in lines if line[0] in titles}
        assert medians == {title: tables.duration(t["median"]) for title, t in titles.items()}
        for name, values in r["values"].items():
            line = next(line for line in lines if line[0] == PROVIDERS[name].title)
            assert [float(cell.split()[1]) for cell in line[1:]] == [float(f"{v:.3g}") for v in values.values()]
    data = json.loads(re.search(r'id="data">(.*?)</script>', dom, re.DOTALL).group(1))
    for embedded, r in zip(data["records"], results["records"], strict=True):
        assert embedded["values"] == r["values"]
        for name, times in r["times"].items():
            assert {key: times[key] for key in embedded["times"][name]} == embedded["times"][name]


# --- comparisons


def changed(factor, *, of="fastce", spread=1.0):
    """Give the results with one time multiplied, and its rounds spread about its median."""
    results = copy.deepcopy(some_results())
    times = results["records"][1]["times"]
    rounds = [factor * times[of]["median"] * (1 + spread * d) for d in (-0.01, 0, 0.01)]
    times[of] = run.summary(rounds, 1)
    return results


@pytest.mark.parametrize(
    ("factor", "spread", "verdict"),
    [
        (1.0, 1, ""),
        (1.25, 1, "Slower"),
        (0.75, 1, "Faster"),
        (1.03, 1, ""),  # less than what runs differ by
        (1.25, 20, ""),  # less than the noise
    ],
)
def test_comparison_counts_what_is_more_than_noise(factor, spread, verdict):
    found = compare.compare(changed(1.0), changed(factor, spread=spread))
    assert found.slower == (verdict == "Slower")
    counts = dict(re.findall(r"^(Slower|Faster): (\d+) of", found.text, re.MULTILINE))
    assert counts == {"Slower": str(int(verdict == "Slower")), "Faster": str(int(verdict == "Faster"))}
    if verdict:
        assert f"{factor:5.2f} times  Loss with gradient, float32, 8,192 x 1,000, fastce: 1 ms -> " in found.text


def test_a_slower_peer_is_not_our_change():
    found = compare.compare(some_results(), changed(3.0, of="numpy"))
    assert not found.slower
    assert "Peers and yardsticks took 1.00 times as long in the median" in found.text


def test_comparison_says_what_differs():
    old, new = some_results(), some_results()
    new["machine"] = {"processor": "Q"}
    new["versions"] = {"fastce": "2", "jax": "3"}
    del new["records"][0]
    text = compare.compare(old, new).text
    assert "Not the same machine: processor P <&> -> Q." in text
    assert "Not the same version: fastce 1 -> 2." in text
    assert "Not the same version: jax - -> 3." in text
    assert "In the first run alone: 5 times." in text


def test_comparison_of_nothing_in_common():
    old, new = some_results(), some_results()
    new["records"] = []
    with pytest.raises(ValueError, match="no cell in common"):
        compare.compare(old, new)


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (0.5, 0), (2.0, 1)])
def test_exit_status_of_a_comparison(factor, status, tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    report.save(changed(1.0), old)
    report.save(changed(factor), new)
    assert cli.main(["bench", "--compare", str(old), str(new)]) == status
    assert "Slower: " in capsys.readouterr().out


@pytest.mark.parametrize("text", [None, "", "[]", '{"records": [{}]}'])
def test_comparison_of_no_results_is_a_wrong_command_line(text, tmp_path, capsys):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    assert cli.main(["bench", "--compare", str(path), str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("python -m fastce bench: error: ")
    assert str(path) in err


# --- command line


def test_command_line_checks_times_prints_and_saves(hurry, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cases, "QUICK", {("gradient", "float32"): [(32, 10)], ("forward", "float32"): [(32, 10)]})
    path, html_path = tmp_path / "new" / "some.json", tmp_path / "some.html"
    arguments = ["bench", "--measure", "speed", "--peers", "numpy", "--json", str(path), "--html", str(html_path)]
    assert cli.main(arguments) == 0
    results = report.load(path)
    assert [r["function"] for r in results["records"]] == ["gradient", "forward"]
    assert [set(r["times"]) - {"fastce-in-place", "read"} for r in results["records"]] == [
        {"fastce", "numpy", "copy"}
    ] * 2
    assert all(t["count"] >= 9 and t["min"] > 0 for r in results["records"] for t in r["times"].values())
    assert {"fastce", "numpy", "numba", "python"} <= results["versions"].keys()
    assert results["command"].startswith("python -m fastce bench --measure speed --peers numpy --json ")
    out, err = capsys.readouterr()
    assert "over NumPy" in out
    assert [line for line in err.splitlines() if line[0] == "["] == [
        "[0/2] speed: loss with gradient, float32, 32 x 10",
        "[1/2] speed: forward, float32, 32 x 10",
    ]
    assert html_path.read_text(encoding="utf-8") == page.to_html(results)


def test_slow_starters_are_left_out_of_the_quick_choice_and_named(monkeypatch):
    monkeypatch.setattr(cases, "find_spec", lambda name: object())
    parser = cli._parser(["bench"])
    choice, left_out = command.choose(parser.parse_args(["bench"]))
    assert "torch" in choice.providers
    assert list(left_out) == ["torch-compile"]
    for arguments in (["--full"], ["--peers", "torch-compile"]):
        choice, left_out = command.choose(parser.parse_args(["bench", *arguments]))
        assert "torch-compile" in choice.providers
        assert left_out == {}
    choice, _ = command.choose(parser.parse_args(["bench", "--peers"]))
    assert choice.providers == ["fastce", "fastce-in-place", "copy", "read"]


def test_a_wrong_contender_ends_the_run(hurry, monkeypatch, capsys):
    builders = {
        "gradient": lambda problem: (
            PROVIDERS["numpy"].builders["gradient"](problem)._replace(read=lambda _: (1.0, None))
        )
    }
    monkeypatch.setitem(PROVIDERS, "fastce", PROVIDERS["fastce"]._replace(builders=builders))
    arguments = ["--measure", "speed", "--peers", "--rows", "32", "--classes", "10", "--function", "gradient"]
    assert cli.main(["bench", *arguments]) == 1
    out, err = capsys.readouterr()
    assert "wrong result: fastce, loss with gradient, float32, 32 x 10: loss 1.0" in err
    assert out == ""


@pytest.mark.parametrize("after", [0, 1])
def test_an_interrupted_run_gives_what_it_has(after, hurry, monkeypatch, tmp_path, capsys):
    def interrupted():
        raise KeyboardInterrupt

    def steps(name, choice):
        first, second = all_steps(name, choice)
        return [first, second._replace(run=interrupted)][1 - after :]

    all_steps = command.steps
    monkeypatch.setattr(cases, "QUICK", {("gradient", "float32"): [(32, 10)], ("forward", "float32"): [(32, 10)]})
    monkeypatch.setattr(command, "steps", steps)
    path, html_path = tmp_path / "some.json", tmp_path / "some.html"
    arguments = ["bench", "--measure", "speed", "--peers", "numpy", "--json", str(path), "--html", str(html_path)]
    assert cli.main(arguments) == 130
    out, err = capsys.readouterr()
    if not after:  # nothing to give
        assert (out, list(tmp_path.iterdir())) == ("", [])
        assert err.endswith("fastce: interrupted\n")
        return
    results = report.load(path)
    assert [r["function"] for r in results["records"]] == ["gradient"]
    assert results["left_out"] == {"all that was to come": "interrupted after 1 of 2 measurements"}
    assert "Left out: all that was to come (interrupted after 1 of 2 measurements)." in out
    assert "interrupted after 1 of 2 measurements" in html_path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtype", "int8"], "int8"),
        (["--peers", "fastce"], "fastce"),
        (["--measure", "luck"], "luck"),
        (["--rows", "0"], "must be 1 or more"),
        (["--classes", "1"], "must be 2 or more"),
        (["--threads", "two"], "invalid number value: 'two'"),
        (["--quick", "--full"], "not allowed with"),
        (["--compare", "a"], "--compare"),
    ],
)
def test_wrong_command_lines(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told_before_the_run(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["bench", "--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "file" / "a.html")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # no empty a.json
    assert capsys.readouterr().err.startswith("python -m fastce bench: error: ")


def test_number_of_threads(capsys):
    assert cli.main(["bench", "--threads", "100000"]) == 2
    assert "error" in capsys.readouterr().err
    code = """
import os
import numba
from fastce.bench import command, variants
command._use_threads(1)
assert numba.get_num_threads() == 1
assert variants.thread_counts() == [1]
assert not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) == 1
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_thread_counts(monkeypatch):
    for most, counts in ((1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])):
        monkeypatch.setattr(numba, "get_num_threads", lambda most=most: most)
        assert variants.thread_counts() == counts


def test_benchmark_runs_with_nothing_but_numpy_and_numba():
    code = """
import sys
for name in ("ml_dtypes", "torch", "jax", "optax", "scipy", "sklearn", "matplotlib", "pytest"):
    sys.modules[name] = None
from fastce.__main__ import main
what = ["--measure", "speed", "accuracy", "--function", "gradient", "--dtype", "float32", "bfloat16"]
sys.exit(main(["bench", *what, "--rows", "32", "--classes", "10"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Left out: bfloat16 (ml_dtypes is not installed)." in done.stdout
    assert "Left out: PyTorch (torch is not installed)." in done.stdout
    assert "Loss with gradient, float32" in done.stdout
