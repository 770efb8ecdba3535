"""How long the app takes to paint 2,000 tokens anew: time of the window's own thread, in headless Chromium.

    python -m bench.app_painting

Needs playwright and a Chromium of the system. The models are tiny and untrained, since only the page's work is timed:
scripts, styles and layout, without what else the machine does meanwhile.
"""

import shutil

from playwright.sync_api import CDPSession, expect, sync_playwright

import tokenq
from bench.app_picture import BROWSERS

WORK = ("ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
TEXT = "It is five. " * 167


def main() -> None:
    """Read a long text in the app, and have each read-out paint it."""
    from tests.tiny import tiny_model, tiny_tokenizer

    pair = tokenq.load(tiny_model("llama", seed=0), tiny_model("llama", seed=1), tokenizer=tiny_tokenizer("bytes"))
    with tokenq.serve(pair, port=0) as server:
        timed(server.url)


def timed(url: str) -> None:
    """Print milliseconds by key."""
    path = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1280, "height": 900})
        view.goto(url)
        view.locator("[aria-busy=true]").wait_for(state="detached")
        view.locator("#prompt-box").fill("the sum of two and three")
        view.locator("#response-box").fill(TEXT)
        view.locator("#read").click()
        expect(view.locator("#status")).to_contain_text("Read:", timeout=120_000)
        view.locator("h1").click()
        tools = view.context.new_cdp_session(view)
        tools.send("Performance.enable", {"timeDomain": "threadTicks"})
        for key in "234234":
            before = worked(tools)
            view.keyboard.press(key)
            view.wait_for_timeout(1000)
            name = view.locator("#caption b").first.inner_text()
            print(f"{len(TEXT) + 1} tokens, {name}: {1000 * (worked(tools) - before):.0f} ms")
        browser.close()


def worked(tools: CDPSession) -> float:
    """Return the seconds that the window's thread has worked."""
    numbers = {one["name"]: one["value"] for one in tools.send("Performance.getMetrics")["metrics"]}
    return float(sum(numbers[name] for name in WORK))


if __name__ == "__main__":
    main()
