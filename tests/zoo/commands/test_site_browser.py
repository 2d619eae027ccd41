"""A real Chromium opens a gallery from the disk and uses it.

No network, no complaint, every link, both colours, every width.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from zoo.artifact.folder import read_config
from zoo.models import registry
from zoo.render import raster

NEEDS_CHROMIUM = "needs chromium, chromedriver and selenium"
DIGITS = "s-resnet20-digits"

webdriver = pytest.importorskip("selenium.webdriver", reason=NEEDS_CHROMIUM)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ships, beside a dozen models in all, so that tables and legends are long."""
    from zoo.render import site

    folder = tmp_path_factory.mktemp("gallery")
    source = registry.resolve(DIGITS)
    models = [DIGITS]
    for index in range(11):
        models.append(str(shutil.copytree(source, folder / f"s-resnet{index}-with-a-long-name")))
        config, found = (
            json.loads((folder / Path(models[-1]).name / name).read_text())
            for name in ("config.json", "eval.json")
        )
        config["source"]["sha256"] = f"{index // 2:064d}"
        config["calibration"]["dataset"] = None  # not digits: nothing is run
        found["rows"] = found["rows"][index % 3 :]
        found["config"] = config
        for name, value in (("config.json", config), ("eval.json", found)):
            (Path(models[-1]) / name).write_text(json.dumps(value))
    site.build_site(folder / "site", models)
    return folder / "site"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    from selenium.webdriver.chrome.service import Service

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip(NEEDS_CHROMIUM)
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    profile = tmp_path_factory.mktemp("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")
        running = webdriver.Chrome(options=options, service=Service(driver))
    running.set_page_load_timeout(60)
    yield running
    running.quit()


@pytest.fixture
def opened(browser: webdriver.Chrome, gallery: Path) -> Iterator[webdriver.Chrome]:
    """Open the index, light, 1400 pixels wide; nothing may ask a network or complain."""
    _show(browser, 1400, "light")
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what the browser did when it started
    browser.get((gallery / "index.html").as_uri())
    yield browser
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.startswith("file://") for url in asked)
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []


def _show(browser: webdriver.Chrome, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def _all(browser: webdriver.Chrome, selector: str) -> list[webdriver.remote.webelement.WebElement]:
    return browser.find_elements("css selector", selector)


def _background(browser: webdriver.Chrome) -> tuple[int, ...]:
    shown = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    return tuple(int(part) for part in re.findall(r"\d+", shown))


def test_every_model_is_one_click_away_and_back(opened: webdriver.Chrome) -> None:
    links = _all(opened, ".models a")
    names = [link.text for link in links]
    assert len(names) == 12 and names[0] == DIGITS
    for index, name in enumerate(names):
        _all(opened, ".models a")[index].click()
        assert opened.find_element("css selector", "h1").text == name
        assert opened.title.startswith(name)
        _all(opened, "nav a")[0].click()
        assert opened.find_element("css selector", "h1").text == "Spiking Zoo"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_swap_and_the_choice_goes_along(
    opened: webdriver.Chrome, gallery: Path, scheme: str
) -> None:
    _show(opened, 1400, scheme)
    before = _background(opened)
    assert (min(before) > 200) is (scheme == "light")
    opened.find_element("id", "swap").send_keys(" ")  # by keyboard
    after = _background(opened)
    assert (max(after) < 60) is (scheme == "light")
    _all(opened, ".models a")[1].click()
    assert _background(opened) == after
    _all(opened, "nav a")[0].click()
    assert _background(opened) == after
    opened.find_element("css selector", ".toggle").click()
    assert _background(opened) == before
    _all(opened, ".legend a")[1].click()
    assert _background(opened) == before


def test_light_and_dark_swap_without_a_script(opened: webdriver.Chrome, gallery: Path) -> None:
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened.get((gallery / f"models/{DIGITS}.html").as_uri())
        opened.find_element("id", "swap").click()
        assert not any(button.is_displayed() for button in _all(opened, ".snippet button"))
        assert _all(opened, "pre code")[0].is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert max(_background(opened)) < 60


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "page", ["index.html", f"models/{DIGITS}.html", "models/s-resnet10-with-a-long-name.html"]
)
def test_contrast_of_all_text(
    opened: webdriver.Chrome, gallery: Path, page: str, scheme: str
) -> None:
    _show(opened, 1400, scheme)
    opened.get((gallery / page).as_uri())
    pairs = opened.execute_script(
        """
        const seen = new Set(), parse = c => c.match(/[\\d.]+/g).map(Number);
        const paper = e => { for (; e; e = e.parentElement) {
          const c = parse(getComputedStyle(e).backgroundColor);
          if (c.length < 4 || c[3] === 1) return c; } };
        for (const e of document.querySelectorAll("body *")) {
          if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
          if (e.closest("title, desc, script, .hidden")) continue;
          const style = getComputedStyle(e), guess = e.closest(".guess.right");
          const under = guess ? parse(getComputedStyle(guess.querySelector("rect")).fill)
            : paper(e.closest("svg") || e);
          const ink = parse(e.closest("svg") ? style.fill : style.color);
          seen.add(JSON.stringify([ink.slice(0, 3), under.slice(0, 3)]));
        }
        return [...seen].map(JSON.parse);
        """
    )
    assert len(pairs) >= 3
    assert [(text, under) for text, under in pairs if _contrast(text, under) < 4.5] == []


def _contrast(one: list[float], other: list[float]) -> float:
    """As WCAG 2 defines it."""

    def light(colour: list[float]) -> float:
        parts = [part / 255 for part in colour]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return sum(
            weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
        )

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_no_page_is_wider_than_the_window(
    opened: webdriver.Chrome, gallery: Path, width: int
) -> None:
    _show(opened, width, "light")
    for page in ("index.html", f"models/{DIGITS}.html", "models/s-resnet10-with-a-long-name.html"):
        opened.get((gallery / page).as_uri())
        for detail in _all(opened, "summary"):
            detail.click()
        page_width = (
            "const root = document.documentElement; "
            "return [innerWidth, root.scrollWidth - root.clientWidth]"
        )
        assert opened.execute_script(page_width) == [width, 0]
        sizes = opened.execute_script(
            """
            return [...document.querySelectorAll("svg text")].map(text => {
              const drawn = text.getScreenCTM();
              return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(drawn.a, drawn.b);
            });
            """
        )
        assert len(sizes) > 20 and min(sizes) >= 9


def test_a_page_fits_on_paper(opened: webdriver.Chrome, gallery: Path) -> None:
    _show(opened, 720, "dark")  # A4 less its margins
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    for page in ("index.html", f"models/{DIGITS}.html"):
        opened.get((gallery / page).as_uri())
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 720
        assert (
            opened.execute_script("return getComputedStyle(document.documentElement).colorScheme")
            == "light"
        )
        assert not any(part.is_displayed() for part in _all(opened, ".toggle, .snippet button"))
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_raster_has_a_dot_for_every_spike(opened: webdriver.Chrome) -> None:
    folder = registry.resolve(DIGITS)
    shots = raster.watch(folder)
    _all(opened, ".models a")[0].click()
    drawn = _all(opened, "svg.raster")
    assert len(drawn) == len(shots) == 4
    steps = read_config(folder).timesteps
    for svg, shot in zip(drawn, shots, strict=True):
        assert len(svg.find_elements("css selector", "circle.spike")) == len(shot.spikes) > 100
        assert len(svg.find_elements("css selector", ".guess")) == steps
        right = [found == shot.label for found in shot.predicted]
        assert len(svg.find_elements("css selector", ".guess.right")) == sum(right)
    box = (
        "const a = arguments[0].getBoundingClientRect(); return [a.left, a.right, a.top, a.bottom]"
    )
    left, right_end, top, bottom = opened.execute_script(
        box, drawn[0].find_element("css selector", ".paper")
    )
    for dot in drawn[0].find_elements("css selector", "circle.spike")[::20]:
        a, b, c, d = opened.execute_script(box, dot)
        assert left <= a < b <= right_end and top - 1 <= c < d <= bottom + 1


def test_a_command_is_copied(opened: webdriver.Chrome, gallery: Path) -> None:
    origin = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    opened.execute_cdp_cmd("Browser.grantPermissions", origin)
    opened.get((gallery / f"models/{DIGITS}.html").as_uri())
    from selenium.webdriver.support.wait import WebDriverWait

    code, button = _all(opened, "pre code")[0], _all(opened, ".snippet button")[0]
    button.click()
    WebDriverWait(opened, 10).until(lambda _: button.text == "Copied")
    read = "navigator.clipboard.readText().then(arguments[0], error => arguments[0](String(error)))"
    assert opened.execute_async_script(read) == code.text
    assert code.text == f"zoo pull {DIGITS}"


def test_a_legend_picks_out_its_line(opened: webdriver.Chrome) -> None:
    lines = len(_all(opened, "g[data-series]"))
    assert lines == 2 * 12
    link = _all(opened, ".legend a")[3]
    opened.execute_script("arguments[0].focus()", link)
    assert len(_all(opened, "g.dim")) == lines - 2
    assert not _all(opened, f"g.dim[data-series='{link.text}']")
    opened.execute_script("arguments[0].blur()", link)
    assert not _all(opened, "g.dim")


def test_the_table_is_sorted_and_filtered(opened: webdriver.Chrome) -> None:
    def names() -> list[str]:
        return [a.text for a in _all(opened, ".models tbody tr:not([hidden]) th a")]

    opened.refresh()
    before = names()
    head = next(button for button in _all(opened, "thead button") if button.text == "model")
    assert len(set(before)) > 2
    head.send_keys("\n")  # by keyboard
    ascending = names()
    head.click()
    assert names() == ascending[::-1] and sorted(ascending) == sorted(before)
    assert _all(opened, "thead [aria-sort=descending]")[0].text.startswith("model")
    head.click()
    assert names() == before and not _all(opened, "[aria-sort]")

    field = _all(opened, ".filter input")[0]
    field.send_keys(before[1])
    assert names() == [name for name in before if before[1] in name]
    assert _all(opened, ".filter [role=status]")[0].text == f"{len(names())} of {len(before)}"


def test_script_and_style_move_nothing(opened: webdriver.Chrome) -> None:
    """The browser's own measure of layout shift stays zero while the page loads."""
    shift = (
        "new PerformanceObserver(list => {}).observe({type: 'layout-shift', buffered: true});"
        "const done = arguments[0];"
        "new PerformanceObserver(list => done(list.getEntries().reduce((s, e) => s + e.value, 0)))"
        ".observe({type: 'layout-shift', buffered: true}); setTimeout(() => done(0), 500);"
    )
    opened.refresh()
    assert opened.execute_async_script(shift) == 0
