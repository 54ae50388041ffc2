import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lightning_gan.artefacts import report
from lightning_gan.errors import UserError
from tests.artefacts.run_folders import make_full_run, make_run
from tests.browser import browser, opened

__all__ = ["browser"]
HOSTILE = "<img src=x onerror=window.hacked=1>"
ATTACK = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"


class TestFile:
    def test_only_an_older_report_is_replaced(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        make_run(tmp_path / "run")
        output = tmp_path / "report.html"
        for _ in range(2):
            report.run([str(tmp_path / "run"), "--output", str(output)])
            assert "1 run in" in capsys.readouterr().out
        output.write_text("<!doctype html> my own page")
        with pytest.raises(UserError, match="exists already, and is not a report"):
            report.run([str(tmp_path / "run"), "--output", str(output)])
        assert output.read_text() == "<!doctype html> my own page"
        with pytest.raises(UserError, match="exists already, and is not a report"):
            report.run([str(tmp_path / "run"), "--output", str(tmp_path)])

    def test_wrong_options_are_told_in_a_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is not a run folder"):
            report.run([str(tmp_path)])
        with pytest.raises(UserError, match="Name the run folders"):
            report.run([])
        with pytest.raises(UserError, match="There is no option --ouptut"):
            report.run([str(tmp_path), "--ouptut", "x.html"])

    def test_a_long_run_is_thinned_and_keeps_its_scores(self, tmp_path: Path) -> None:
        rows = [f"{n},0,0,1,1,{'2.5,0.1,0.1' if n == 4323 else ',,'}\n" for n in range(1, 5001)]
        (run,) = report.page_data([make_run(tmp_path / "run", rows="".join(rows))])["runs"]
        table = run["metrics"]
        assert len(table["images"]) <= report.MOST_ROWS + 2
        assert (table["every"], table["images"][0], table["images"][-1]) == (4, 1, 5000)
        assert table["columns"]["fid_classifier"][table["images"].index(4323)] == 2.5

    def test_there_is_room_for_the_walks_of_two_runs_in_colour(self, tmp_path: Path) -> None:
        runs = [make_full_run(tmp_path / name) for name in "ab"]
        frames = [Image.effect_noise((266, 134), 90) for _ in range(20)]
        frames[0].save(walk := runs[0] / "walks" / "000000400.gif", save_all=True, append_images=frames[1:])
        assert walk.stat().st_size > 700_000  # those of 64 x 64 pixels have 900,000
        assert all(run["walk"] for run in report.page_data(runs)["runs"])

    def test_a_run_that_is_named_twice_is_shown_once(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (make_run(tmp_path / "run") / "x").mkdir()
        report.run([str(tmp_path / "run"), str(tmp_path / "run" / "x" / ".."), "--output", str(tmp_path / "r.html")])
        assert "1 run in" in capsys.readouterr().out


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Make two runs, of which the second does all it can to have its own script run."""
    folder = tmp_path_factory.mktemp("runs")
    hostile = make_full_run(
        folder / HOSTILE, {"name": ATTACK, "seed_everything": ATTACK}, samples=5000, data=ATTACK, device=ATTACK
    )
    with (hostile / "events.jsonl").open("a") as file:
        file.write('{"time": "%s", "images_seen": 100, "kind": "%s", "text": "%s"}\n' % ((ATTACK,) * 3))
    (hostile / "metrics.csv").write_text((hostile / "metrics.csv").read_text().replace("loss/generator", f"loss/{HOSTILE}"))
    (hostile / "checkpoints").mkdir()
    (hostile / "checkpoints" / f"{HOSTILE}.scores.json").write_text((hostile / "scores.json").read_text())
    return [make_full_run(folder / "plain"), hostile]


@pytest.fixture(scope="module")
def page(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("page") / "report.html"
    report.report(folders, output)
    return output


@pytest.fixture(scope="module")
def tab(browser: Any, page: Path) -> Iterator[Any]:
    """Open the page once; tests leave it as they find it. It closes with a failure if there was an error."""
    with opened(browser, page, viewport={"width": 1200, "height": 900}) as tab:
        yield tab


def diagram(tab: Any, title: str) -> list[dict[str, Any]]:
    """Read what a diagram shows, from Plotly."""
    traces: list[dict[str, Any]] = tab.evaluate(
        """title => [...document.querySelectorAll(".panels figure")]
            .find(figure => figure.querySelector("b").textContent === title).querySelector(".plot").data
            .map(({x, y, name, mode, fill}) => ({x, y, name, mode, fill}))""",
        title,
    )
    return traces


def logged(run: Path, column: str) -> tuple[list[float], list[float]]:
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[column]]
    return [float(row["images_seen"]) for row in rows], [float(row[column]) for row in rows]


def test_curves_hold_the_numbers_that_were_logged(tab: Any, folders: list[Path]) -> None:
    fid, loss = diagram(tab, "fid_classifier"), diagram(tab, "Losses")
    for name, run in zip(("plain", "&lt;img src=x onerror=window.hacked=1&gt;"), folders, strict=True):
        (trace,) = [t for t in fid if str(t["name"]).startswith(name) and t["mode"] == "lines+markers"]
        assert (trace["x"], trace["y"]) == logged(run, "fid_classifier")
        (trace,) = [t for t in loss if t["name"] == f"{name}, discriminator"]
        assert (trace["x"], trace["y"]) == logged(run, "loss/discriminator")
    bands = [t for t in fid if t["fill"]]
    assert bands[-1]["y"] == [4.75, 3.625, 4.25, 3.25, 3.375, 4.25]  # 4.5, 3.5 and 3.75, plus and minus their errors
    (floor,) = [t for t in fid if t["name"] == "real images"]
    assert floor["y"] == [0.125, 0.125]


def test_curves_go_over_hours_too(tab: Any) -> None:
    tab.get_by_label("hours of training").check()
    (trace,) = [
        t for t in diagram(tab, "fid_classifier") if t["name"] == "plain, fid_classifier" and t["mode"] == "lines+markers"
    ]
    assert trace["x"] == [0.02, 0.03, 0.04]  # 72, 108 and 144 seconds
    tab.get_by_label("images seen", exact=True).check()
    assert diagram(tab, "Images a second")[0]["x"] == [100, 200, 400]


def test_smoothing_is_an_average_of_what_came_before(tab: Any) -> None:
    def losses() -> list[dict[str, Any]]:
        return [t for t in diagram(tab, "Losses") if t["name"] == "plain, discriminator"]

    tab.locator("#smoothing").fill("50")
    raw, smooth = losses()
    assert raw["y"] == [1.5, 1.25, 1.0, 0.75]
    assert smooth["y"] == pytest.approx(
        [1.5, (0.75 + 1.25) / 1.5, (0.375 + 0.625 + 1.0) / 1.75, (0.1875 + 0.3125 + 0.5 + 0.75) / 1.875]
    )
    assert "are smoothed" in tab.locator("#curves-note").text_content()
    tab.locator("#smoothing").fill("0")
    assert len(losses()) == 1


def test_scores_can_be_on_a_log_scale(tab: Any) -> None:
    axis = '() => document.querySelector("#score-panels .plot").layout.yaxis.type'
    assert tab.evaluate(axis) == "linear"
    tab.get_by_label("Scores on a log scale").check()
    assert tab.evaluate(axis) == "log"
    tab.get_by_label("Scores on a log scale").uncheck()


def test_the_star_is_at_the_best_evaluation(browser: Any, tmp_path: Path) -> None:
    """Its score and that of 200 images look the same in four digits."""
    make_run(tmp_path / "run", rows="200,1,0,,,3.50001,0.1,0.1\n300,2,0,,,3.5,0.1,0.1\n400,3,0,,,4,0.1,0.1\n")
    report.report([tmp_path / "run"], tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html") as tab:
        (star,) = [t for t in diagram(tab, "fid_classifier") if t["mode"] == "markers"]
        assert (star["x"], star["y"]) == ([300], [3.5])


def test_the_slider_changes_the_pictures(tab: Any) -> None:
    def shown() -> list[tuple[str, int]]:
        images = tab.locator(".grid img")
        grey = """async image => {
            await image.decode();
            const context = document.createElement("canvas").getContext("2d");
            context.drawImage(image, 0, 0);
            return context.getImageData(5, 5, 1, 1).data[0];
        }"""
        return [(image.get_attribute("alt"), image.evaluate(grey)) for image in images.all()]

    assert shown()[0] == ("Images generated by plain after 400 images seen", 150)
    tab.locator("#slider").fill("0")
    assert [grey for _, grey in shown()] == [50, 50]
    assert shown()[1][0] == f"Images generated by {HOSTILE} after 200 images seen"
    tab.get_by_role("button", name="Show the grid of plain nearest to its best score").click()
    assert shown()[0] == ("Images generated by plain after 300 images seen", 100)
    tab.locator("#slider").fill("2")


def test_a_run_can_be_left_out(tab: Any) -> None:
    show = tab.get_by_label("Show plain in pictures and curves")
    show.uncheck()
    assert not any(str(t["name"]).startswith("plain") for t in diagram(tab, "fid_classifier"))
    assert tab.locator(".grid:visible").count() == 1
    show.check()
    assert tab.locator(".grid:visible").count() == 2


def test_what_differs_and_what_does_not_compare_is_said(tab: Any) -> None:
    assert tab.locator("#differences tbody th").all_text_contents() == ["seed_everything"]
    assert "different numbers of samples (plain: 1000;" in tab.locator("#warnings").text_content()
    assert "3.75 ± 0.50" in tab.locator("#scores").text_content()
    assert "G has collapsed: <b>see</b>." in tab.locator("#events").text_content()
    assert f"fit -c {tab.evaluate('data.runs[0].folder')}/config.yaml" in tab.locator("#again pre.command").first.text_content()


def test_nothing_in_a_run_becomes_a_part_of_the_page(tab: Any, page: Path) -> None:
    assert tab.title() == f"2 runs: plain, {HOSTILE}"
    for event in (1, 2):
        tab.locator(".plot").first.locator(".annotation-text").nth(event).hover()
    tab.locator("details summary").last.click()
    assert ATTACK in tab.locator("#again pre").last.text_content().replace("\n", "")
    assert tab.evaluate("window.hacked") is None
    assert page.read_text().count("window.hacked=1</script>") == 0


def test_every_picture_and_control_says_what_it_is(tab: Any) -> None:
    assert tab.evaluate('[...document.querySelectorAll("main img")].every(image => image.alt && image.naturalWidth)')
    assert tab.evaluate('[...document.querySelectorAll("main input")].every(input => input.labels.length || input.ariaLabel)')
    labels = tab.locator(".plot").evaluate_all("plots => plots.map(plot => plot.getAttribute('aria-label'))")
    assert labels[0].startswith("Diagram of fid_classifier over images seen: plain  ends at 3.75")


def test_it_fits_a_phone_and_a_run_of_before_needs_nothing(browser: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.csv").unlink()
    for picture in (run / "samples").iterdir():
        picture.unlink()
    other = make_run(tmp_path / "other")
    Image.new("RGB", (530, 530)).save(other / "samples" / "000000400.png")
    report.report([run, other], tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html", viewport={"width": 360, "height": 700}) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") == 360
        assert tab.get_by_label("hours of training").is_disabled()
        assert "no time was noted" in tab.locator("#curves-note").text_content()
        assert tab.locator("#events").text_content() == "No events were noted."
