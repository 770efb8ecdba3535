"""The picture of the app in the README: two answers of a run's policy side by side, in headless Chromium.

    python -m bench.app_picture --run runs/demo/dpo --data runs/demo/data/held_out.jsonl --row 3 --output docs/app.png

The prompt and the rejected answer are those of the row; the policy writes the other one by itself, takes another token
where its own was the most negative one, and writes on. Needs playwright and a Chromium of the system.
"""

import argparse
import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import tokenq

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def main() -> None:
    """Serve a run, use the app as a reader would, and take a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="folder of a run that trained a policy")
    parser.add_argument("--data", required=True, help="JSON lines with prompt, chosen and rejected")
    parser.add_argument("--row", type=int, default=0, help="which of them")
    parser.add_argument("--output", required=True, help="the picture, .png")
    parser.add_argument("--width", type=int, default=1280, help="of the window")
    parser.add_argument("--height", type=int, default=1000, help="of the window")
    parser.add_argument("--scheme", default="light", choices=("light", "dark"), help="light or dark")
    asked = parser.parse_args()
    with Path(asked.data).open(encoding="utf-8") as lines:
        row = json.loads(next(islice(lines, asked.row, None)))
    with tokenq.serve(tokenq.load(asked.run), port=0) as server:
        photographed(server.url, row, asked)


def photographed(url: str, row: dict[str, Any], asked: argparse.Namespace) -> None:
    """Use the app at an address, and write its picture."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=120_000)
    path = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        size = {"width": asked.width, "height": asked.height}
        view = browser.new_page(viewport=size, color_scheme=asked.scheme)
        view.goto(url)
        view.locator("[aria-busy=true]").wait_for(state="detached")
        view.locator("#prompt-box").fill(row["prompt"])
        view.locator("#response-box").fill(row["rejected"])
        view.locator("#read").click()
        expect(view.locator("#status")).to_contain_text("Read:")
        view.locator("#temperature").evaluate("node => (node.value = 0)")
        view.keyboard.press("Escape")
        view.locator("#write").click()
        expect(view.locator("#status")).to_contain_text("Written:")
        view.locator(".branch").first.click()
        expect(view.locator(".branch").first).to_have_attribute("aria-selected", "true")
        view.keyboard.press("n")
        view.keyboard.press("a")
        view.keyboard.press("Enter")
        expect(view.locator(".branch:not(.draft)")).to_have_count(3)
        expect(view.locator("#status")).to_contain_text("Written:")
        view.keyboard.press("b")
        expect(view.locator(".response")).to_have_count(2)
        view.keyboard.press("<")
        expect(view.locator("#status")).to_contain_text("a pair to train from")
        view.locator(".response").nth(1).locator(".token.parting").click()
        view.evaluate("() => window.scrollTo(0, 0)")
        view.screenshot(path=asked.output, full_page=asked.width < 600)
        browser.close()


if __name__ == "__main__":
    main()
