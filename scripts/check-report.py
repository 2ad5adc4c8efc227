"""Opens reports in headless Chromium and checks what a reader would stumble over.

usage: check-report.py REPORT.html... [SCREENSHOTS]

SCREENSHOTS is the folder for pictures, tokenlab-screenshots among the temporary files unless told otherwise.

At desktop and phone width, light and dark: overflow, tables that scroll sideways on a phone, requests that leave the page, console messages, text contrast,
texts of plots on each other, sorting, values of plots by keyboard. Then the page without scripts, and printed. Keeps a screenshot of each state.
"""

import pathlib
import shutil
import sys
import tempfile

from playwright.sync_api import sync_playwright

WIDTHS = [1280, 390]
CONTRAST_MIN = 4.5
BROWSERS = ["chromium", "chromium-browser", "google-chrome"]
CHECKS = pathlib.Path(__file__).with_suffix(".js").read_text()


def main(arguments):
    reports = [pathlib.Path(argument) for argument in arguments]
    shots = pathlib.Path(tempfile.gettempdir(), "tokenlab-screenshots")
    if reports and reports[-1].suffix != ".html":
        shots = reports.pop()
    if not reports:
        sys.exit(__doc__)
    missing = [str(report) for report in reports if not report.is_file()]
    if missing:
        sys.exit(f"no such report: {', '.join(missing)}")
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is installed: sudo apt-get install chromium")
    shots.mkdir(parents=True, exist_ok=True)
    failures = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for report in reports:
            failures += check_states(browser, report.resolve(), shots)
        browser.close()
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    print(f"{len(reports)} reports, {len(failures)} failures, screenshots in {shots}")
    sys.exit(1 if failures else 0)


def check_states(browser, report, shots):
    """All states of one report."""
    failures = []
    for width in WIDTHS:
        for scheme in ["light", "dark"]:
            options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
            failures += check(browser, report, shots, f"{width}-{scheme}", options)
    wide = {"viewport": {"width": 1280, "height": 900}}
    failures += check(browser, report, shots, "no-script", wide | {"java_script_enabled": False})
    failures += check(browser, report, shots, "print", {"viewport": {"width": 760, "height": 1000}})
    return failures


def check(browser, report, shots, state, options):
    """One state of one report: opens it, looks, and keeps pictures."""
    name = f"{report.parent.name}-{state}"
    found = []
    context = browser.new_context(**options)
    page = context.new_page()
    page.on("console", lambda message: found.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: found.append(f"error in the page: {error}"))
    page.on("request", lambda request: found.extend(leaving(request.url, report)))
    page.goto(report.as_uri())
    if state == "print":
        page.emulate_media(media="print")
    page.screenshot(path=shots / f"{name}.png", full_page=True)
    if state == "no-script":
        if page.locator("section").count() == 0:
            found.append("nothing to read without scripts")
    else:
        ask = lambda call: found.extend(page.evaluate(f"() => {{ {CHECKS}\nreturn {call}; }}"))
        ask("sortTables()")
        page.evaluate("() => document.querySelectorAll('details').forEach((d) => (d.open = true))")
        ask("overflow()")
        if options["viewport"]["width"] == min(WIDTHS):
            ask("sideways()")
        if state != "print":
            ask("readPlots()")
        ask("plotTexts()")
        if state == "print":
            page.pdf(path=shots / f"{name}.pdf", format="A4")
        else:
            ask(f"contrast({CONTRAST_MIN})")
        page.screenshot(path=shots / f"{name}-open.png", full_page=True)
    context.close()
    return [f"{name}: {what}" for what in found]


def leaving(url, report):
    """A request, unless it is for the report itself or for data inside it."""
    return [] if url == report.as_uri() or url.startswith("data:") else [f"request to {url}"]


if __name__ == "__main__":
    main(sys.argv[1:])
