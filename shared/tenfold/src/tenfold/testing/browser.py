"""Open a page in a headless browser without a network, and tell what went wrong in it."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tenfold.testing.data import require


@dataclass
class Page:
    """What a browser made of a page.

    Attributes:
        title: of the document.
        text: visible text of the body.
        errors: messages on the console at level error, and exceptions that nothing caught.
        failed_requests: addresses that could not be loaded, with the reason.
        outside_requests: addresses that are not of this file or inside the page; a self-contained report has
            none.
        scroll_width: width of the content in pixels; larger than the window means sideways scrolling.
    """

    title: str = ""
    text: str = ""
    errors: list[str] = field(default_factory=list)
    failed_requests: list[str] = field(default_factory=list)
    outside_requests: list[str] = field(default_factory=list)
    scroll_width: int = 0


def open_page(
    html_path: str | os.PathLike[str],
    *,
    width: int = 1280,
    height: int = 800,
    screenshot: str | os.PathLike[str] | None = None,
    dark: bool = False,
    timeout: float = 30,
) -> Page:
    """Open an HTML file in headless Chromium, offline, and wait until it has loaded.

    Skips the test where chromium or playwright is absent (see `require`).

    Args:
        html_path: the file.
        width: of the window in pixels.
        height: of the window in pixels.
        screenshot: where to write a picture of the whole page.
        dark: ask for the dark colour scheme.
        timeout: seconds for each step.

    Returns:
        Title, text, errors and requests.

    Example:
        >>> page = open_page("build/report/index.html", width=390)  # doctest: +SKIP
        >>> assert not page.errors and not page.outside_requests  # doctest: +SKIP
    """
    program = require("chromium")
    require("playwright")
    from playwright.sync_api import sync_playwright

    page = Page()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(program), args=["--no-sandbox"])
        try:
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
                offline=True,
            )
            tab = context.new_page()
            tab.set_default_timeout(timeout * 1000)
            tab.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)
            tab.on("pageerror", lambda error: page.errors.append(str(error)))
            tab.on("requestfailed", lambda r: page.failed_requests.append(f"{r.url}: {r.failure}"))
            tab.on("request", lambda r: _note_outside(page, r.url))
            tab.goto(Path(html_path).resolve().as_uri(), wait_until="load")
            page.title = tab.title()
            page.text = tab.inner_text("body")
            page.scroll_width = tab.evaluate("document.documentElement.scrollWidth")
            if screenshot is not None:
                tab.screenshot(path=os.fspath(screenshot), full_page=True)
        finally:
            browser.close()
    return page


def _note_outside(page: Page, url: str) -> None:
    if not url.startswith(("file:", "data:", "blob:", "about:")):
        page.outside_requests.append(url)
