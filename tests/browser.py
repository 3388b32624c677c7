"""A page in a real browser, without network: what it looks like at two widths, in light and in dark, and on paper."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
VIEWS = ((1280, 800, "light"), (1280, 800, "dark"), (390, 844, "light"), (390, 844, "dark"))

OBSERVE = """async () => {
  const shown = (node) => node.getClientRects().length > 0;
  const rgb = (text) => (text.match(/[0-9.]+/g) || []).slice(0, 3).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (a, b) => {
    const [x, y] = [light(rgb(a)), light(rgb(b))];
    return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
  };
  const surface = getComputedStyle(document.querySelector('section')).backgroundColor;
  const charts = [...document.querySelectorAll('svg')].filter(shown);
  const sizes = [];
  for (const image of document.querySelectorAll('svg image')) {
    const copy = new Image();
    copy.src = image.getAttribute('href');
    await copy.decode();
    sizes.push([copy.naturalWidth, copy.naturalHeight]);
  }
  const probe = document.body.appendChild(document.createElement('p'));
  const palette = ['ink', 'muted', 'blue', 'orange', 'green', 'red'].map(name => {
    probe.style.color = `var(--${name})`;
    return [name, contrast(getComputedStyle(probe).color, surface)];
  });
  probe.remove();
  return {
    headings: [...document.querySelectorAll('h1, h2')].filter(shown).map(node => node.textContent),
    scroll_width: document.documentElement.scrollWidth,
    charts: charts.map(svg => ({
      label: svg.getAttribute('aria-label'), width: svg.clientWidth, height: svg.clientHeight,
      right: svg.getBoundingClientRect().right,
      least_text: Math.min(...[...svg.querySelectorAll('text')].map(
        text => parseFloat(getComputedStyle(text).fontSize) * svg.clientWidth / svg.viewBox.baseVal.width)),
      least_contrast: Math.min(...[...svg.querySelectorAll('text')].map(
        text => contrast(getComputedStyle(text).fill, surface))),
      cut: [...svg.querySelectorAll('text')].filter(text => {
        const [inner, outer] = [text.getBoundingClientRect(), svg.getBoundingClientRect()];
        return inner.left < outer.left - 2 || inner.right > outer.right + 2 || inner.top < outer.top - 2
          || inner.bottom > outer.bottom + 2;
      }).map(text => text.textContent),
    })),
    pictures: sizes,
    palette: Object.fromEntries(palette),
    text: document.body.innerText,
    injected: document.querySelectorAll('script, img, iframe, object, embed, [onerror], [onload]').length,
  };
}"""


@dataclass(frozen=True)
class View:
    """A page as it is seen once: window, theme, messages, requests, and what `OBSERVE` finds."""

    width: int
    theme: str
    messages: list[str]
    requests: list[str]
    found: dict[str, Any]


@contextmanager
def browser(directory: Path) -> Iterator[Any]:
    """A headless Chromium with a profile of its own; the test is skipped where there is none."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("no playwright: pip install playwright")
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options: dict[str, Any] = {"executable_path": executable, "args": list(FLAGS), "headless": True, "timeout": 60_000}
        context = playwright.chromium.launch_persistent_context(str(directory / "profile"), **options)
        try:
            yield context
        finally:
            context.close()


def look(path: Path, directory: Path) -> list[View]:
    """The page in all `VIEWS`, after what must hold for each: see `require_readable`."""
    views = []
    with browser(directory) as context:
        for width, height, theme in VIEWS:
            messages: list[str] = []
            requests: list[str] = []
            page = context.new_page()
            page.on("console", lambda message, to=messages: to.append(message.text))
            page.on("pageerror", lambda error, to=messages: to.append(str(error)))
            page.on("request", lambda request, to=requests: to.append(request.url))
            page.set_viewport_size({"width": width, "height": height})
            page.emulate_media(color_scheme=theme)
            page.goto(path.as_uri())
            views.append(View(width, theme, messages, requests, page.evaluate(OBSERVE)))
            page.close()
        page = context.new_page()
        page.goto(path.as_uri())
        assert page.pdf(format="A4").startswith(b"%PDF")
        page.emulate_media(media="print", color_scheme="dark")
        assert not page.locator("nav").is_visible()
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"  # dark ink on paper
    for view in views:
        require_readable(view, path)
    return views


def require_readable(view: View, path: Path) -> None:
    """Nothing failed, nothing was fetched, nothing is cut off, too small or too pale; the same charts in every view."""
    found, where = view.found, f"{view.width} px, {view.theme}"
    assert view.messages == [], where
    assert [url for url in view.requests if not url.startswith("data:")] == [path.as_uri()], where
    assert found["injected"] == 0, where
    assert found["scroll_width"] <= view.width, where
    assert found["charts"], where
    for chart in found["charts"]:
        assert chart["label"], where
        assert chart["width"] > 250, (where, chart)
        assert chart["height"] > 60, (where, chart)
        assert chart["right"] <= view.width, (where, chart)
        assert chart["least_text"] >= 8, (where, chart)
        assert chart["least_contrast"] >= 4.5, (where, chart)  # WCAG 2.2, 1.4.3
        assert chart["cut"] == [], (where, chart)
    assert all(width > 0 and height > 0 for width, height in found["pictures"]), where
    for name, contrast in found["palette"].items():
        assert contrast >= (4.5 if name in ("ink", "muted") else 3), (where, name, contrast)  # WCAG 2.2, 1.4.3 and 1.4.11
