"""A real browser for tests of pages: `from tests.browser import browser, opened` in a test module gives it the fixture."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip(f"there is no browser ({', '.join(NAMES)})")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=QUIET)
        yield chromium
        chromium.close()


@contextmanager
def opened(browser: Any, page: Path | str, **context: Any) -> Iterator[Any]:
    """Open a page without any network, and fail if it reports an error.

    Args:
        page: a file, or an address.
        context: of Playwright's `new_context`, such as `viewport`.
    """
    errors: list[str] = []
    session = browser.new_context(offline=isinstance(page, Path), **context)
    tab = session.new_page()
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    try:
        tab.goto(page.absolute().as_uri() if isinstance(page, Path) else page)
        yield tab
        assert not errors, errors
    finally:
        session.close()
