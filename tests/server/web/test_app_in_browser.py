"""The app as somebody meets it in headless Chromium: read, write, click, branch, compare, save, reload, take away.

Every test also sees that the console stays silent and that nothing is asked for but the app's own server.
"""

import json
import os
import re
import subprocess
import sys

import pytest
from web_apps import Process, app_of, served, tiny_reader

api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
expect = api.expect
expect.set_options(timeout=60_000)  # a busy machine writes a token in a tenth of a second

pytestmark = pytest.mark.browser

PROMPT = "the sum of two and three"
HOSTILE = [
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "</textarea><svg onload='window.hacked = 1'>",
    '"><a href="javascript:window.hacked = 1">x</a>',
    "{{ 7 * 7 }} ${7 * 7} <%= 7 * 7 %>",
    "👩‍👩‍👧 שלום עולם 你好，世界 e\u0301 \u202eabc\u202c \u200b\u0007",
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with served(*app_of(tiny_reader(), tmp_path_factory.mktemp("app") / "sessions.sqlite")) as url:
        yield url


@pytest.fixture
def visit(browser):
    """Return a function that opens the app, and see afterwards that nothing went wrong in the window."""
    said, asked, contexts, allowed = [], [], [], []

    def opened(url, place="", *, context=None, quiet=(), **how):
        if context is None:
            context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True, **how)
            contexts.append(context)
        view = context.new_page()
        allowed.extend([url, *quiet])
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.on("request", lambda request: asked.append(request.url))
        view.goto(url + "/" + place)
        view.set_default_timeout(60_000)
        return view

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in said if not any(word in text for word in allowed)] == []
    own = (*(url for url in allowed if url.startswith("http")), "blob:", "data:")
    assert [url for url in asked if not url.startswith(own)] == []


def ready(view):
    view.locator("[aria-busy=true]").wait_for(state="detached")
    return view


def read(view, text, prompt=PROMPT):
    view.locator("#prompt-box").fill(prompt)
    view.locator("#response-box").fill(text)
    view.locator("#read").click()
    expect(view.locator("#status")).to_contain_text("Read:")
    return view


def tokens(view, side=0):
    return view.locator(".response").nth(side).locator(".text .token")


def branches(view):
    return view.locator(".branch:not(.draft)")


def few(view, count=12, **values):
    """Have few tokens written, greedily unless it is said otherwise."""
    for name, value in {"max_new_tokens": count, "temperature": 0, **values}.items():
        view.locator(f"#{name}").evaluate("(node, value) => (node.value = value)", value)


def narrow(view):
    return view.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")


def test_a_response_is_read_pointed_at_and_branched(visit, address):
    view = read(ready(visit(address)), "It is five.")
    expect(tokens(view)).to_have_count(12)  # a byte each, and EOS
    tokens(view).nth(3).click()
    panel = view.locator("#inspector")
    expect(panel).to_contain_text("token 4 of 12")
    row = panel.locator(".takeable tr:not(.said-row)").nth(1)
    expect(row.locator("td")).to_have_count(5)  # token, log π, log π_ref, reward, rank
    expect(panel.locator(".said-row").first).to_contain_text(re.compile(r"id \d+, bytes [0-9a-f ]+, π .*%, π_ref .*%"))
    few(view, 6)
    taken = panel.locator(".takeable button:not(:disabled)").first
    name = taken.inner_text()
    taken.click()
    expect(view.locator("#status")).to_contain_text("Written:")
    expect(branches(view)).to_have_count(2)
    expect(view.locator("#crumbs")).to_contain_text("from token 4")
    expect(view.locator(".branch[aria-selected=true]")).to_contain_text(f"{name} at 4")
    expect(tokens(view)).to_have_count(10)  # three of the parent, the one that was taken, six behind it
    assert "".join(tokens(view).all_text_contents()[:3]) == "It "
    view.locator("#undo").click()
    expect(branches(view)).to_have_count(1)
    expect(tokens(view)).to_have_count(12)


WATCH = """() => {
  const all = (selector) => document.querySelectorAll(selector);
  const note = () => window.seen.push({
    tokens: all(".response .text .token").length,
    coloured: all(".response .token.positive, .response .token.negative").length,
    draft: all(".branch.draft")[0]?.textContent ?? "",
  });
  window.seen = [];
  new MutationObserver(note).observe(document.body, { childList: true, subtree: true });
}"""


def test_what_is_written_comes_token_by_token(visit, address):
    view = ready(visit(address))
    view.locator("#prompt-box").fill(PROMPT)
    few(view, 200)
    view.evaluate(WATCH)
    view.locator("#write").click()
    expect(view.locator("#status")).to_contain_text("Written: 200 tokens")
    expect(tokens(view)).to_have_count(200)
    expect(view.locator(".branch.draft")).to_have_count(0)
    on_the_way = [seen for seen in view.evaluate("() => window.seen") if 0 < seen["tokens"] < 200]
    assert on_the_way
    assert all("being written" in seen["draft"] and 0 < seen["coloured"] <= seen["tokens"] for seen in on_the_way)
    expect(view.locator("#curve svg")).to_be_visible()


def test_writing_stops_and_what_was_written_stays(visit, address):
    view = ready(visit(address))
    view.locator("#prompt-box").fill(PROMPT)
    few(view, 4000)  # greedily this model finds no end
    view.locator("#write").click()
    tokens(view).nth(5).wait_for()
    view.locator("h1").click()
    view.keyboard.press("s")
    expect(branches(view)).to_have_count(1)
    assert 5 < tokens(view).count() < 4000
    expect(branches(view)).to_contain_text("cut")


def test_several_answers_are_ranked_by_reward(visit, address):
    view = ready(visit(address))
    view.locator("#prompt-box").fill(PROMPT)
    few(view, 8, temperature=1, seed=5)
    view.locator("#many").click()
    expect(view.locator("#status")).to_contain_text("has the highest implicit reward")
    rewards = [float(text.replace("−", "-")) for text in branches(view).locator(".number").all_inner_texts()]
    assert len(rewards) == 4
    assert rewards == sorted(rewards, reverse=True)
    expect(branches(view).first).to_have_attribute("aria-selected", "true")


def test_two_branches_are_compared_and_the_better_one_makes_a_pair_that_trains(visit, address, tmp_path):
    view = read(read(ready(visit(address)), "It is five."), "It is six!")
    branches(view).nth(1).click()
    branches(view).nth(0).click(modifiers=["Shift"])
    expect(view.locator(".response")).to_have_count(2)
    expect(view.locator(".token.shared")).to_have_count(12)  # "It is " on both sides
    expect(view.locator("#shares h2")).to_contain_text("What earns the margin")
    view.locator("#verdict button").nth(1).click()
    expect(view.locator("#status")).to_contain_text("pasted 1 is better than pasted 2: a pair to train from, 1")
    expect(branches(view).nth(0)).to_contain_text("★ 1")
    view.locator("#exports summary").click()
    with view.expect_download() as caught:
        view.locator("#export-pairs").click()
    file = tmp_path / "pairs.jsonl"
    caught.value.save_as(file)
    assert json.loads(file.read_text()) == {"prompt": PROMPT, "chosen": "It is five.", "rejected": "It is six!"}
    from tiny import tiny_model, tiny_tokenizer

    tiny_model("llama").save_pretrained(tmp_path / "policy")
    tiny_tokenizer("bytes").save_pretrained(tmp_path / "policy")
    command = [sys.executable, "-m", "tokenq", "train", "--model", "policy", "--data", str(file), "--output", "run"]
    command += ["--max-steps", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_reload_restores_the_tree(visit, address):
    view = read(ready(visit(address)), "It is five.", "reload me")
    tokens(view).nth(2).click()
    few(view, 4)
    view.locator("#inspector .takeable button:not(:disabled)").nth(1).click()
    expect(view.locator("#status")).to_contain_text("Written:")
    before = branches(view).all_inner_texts()
    place = view.evaluate("() => location.hash")
    assert "session=" in place
    view.reload()
    ready(view)
    expect(branches(view)).to_have_count(2)
    assert branches(view).all_inner_texts() == before
    assert view.locator("#prompt-box").input_value() == "reload me"
    other = ready(visit(address, place, context=view.context))
    assert branches(other).all_inner_texts() == before


def test_sessions_are_listed_renamed_and_deleted(visit, address):
    view = read(ready(visit(address)), "five", "a session to delete")
    expect(view.locator("#sessions button[aria-current=true]")).to_contain_text("a session to delete")
    view.locator("#rename").click()
    view.locator("#name-box").fill("soon <b>gone</b>")
    view.keyboard.press("Enter")
    expect(view.locator("#session-name")).to_have_text("soon <b>gone</b>")
    view.locator("#filter").fill("soon")
    expect(view.locator("#sessions button")).to_have_count(1)
    view.locator("#delete-session").click()
    view.locator("#sure-dialog button[value=given]").click()
    expect(view.locator("#status")).to_contain_text("deleted")
    expect(view.locator("#sessions button")).to_have_count(0)


def test_traces_go_out_as_score_writes_them(visit, address, tmp_path):
    view = read(read(ready(visit(address)), "five"), "six")
    view.locator("#exports summary").click()
    with view.expect_download() as caught:
        view.locator("#export-traces").click()
    caught.value.save_as(tmp_path / "traces.jsonl")
    from tokenq.records.trace_files import read_traces

    kept = list(read_traces(tmp_path / "traces.jsonl"))
    assert [one.response for one in kept] == ["five", "six"]
    assert all(one.prompt == PROMPT for one in kept)


def test_a_search_grows_is_stopped_and_gives_branches(visit, address):
    view = ready(visit(address))
    view.locator("#prompt-box").fill(PROMPT)
    view.locator("#search summary").click()
    view.locator("#method").select_option("mcts")
    view.locator("[data-setting=simulations]").fill("5000")
    view.locator("#search_max_new_tokens").fill("8")
    view.locator("#search-start").click()
    expect(view.locator("#search-status")).to_contain_text("looked at so far")
    expect(view.locator("#tree .line[aria-level]").first).to_be_visible()
    view.locator("#search-stop").click()
    expect(view.locator("#search-status")).to_contain_text("ended by you")
    first = view.locator("#candidates li").first
    first.get_by_role("button", name="Keep").click()
    expect(view.locator("#status")).to_contain_text("kept as a branch")
    expect(branches(view)).to_contain_text("mcts 1")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_texts(visit, address, text):
    view = read(ready(visit(address)), text, text)
    assert "".join(tokens(view).all_text_contents()) == text
    assert view.evaluate("() => window.hacked") is None
    view.reload()
    ready(view)
    tokens(view).first.wait_for()
    assert view.evaluate("() => [window.hacked, document.images.length]") == [None, 0]


def test_two_windows_see_one_session(visit, address):
    one = read(ready(visit(address, quiet=["404"])), "five", "two windows")
    other = ready(visit(address, one.evaluate("() => location.hash"), context=one.context))
    expect(branches(other)).to_have_count(1)
    read(other, "six", "two windows")
    expect(branches(one)).to_have_count(2)
    read(one, "seven", "two windows")
    expect(branches(other)).to_have_count(3)
    one.locator("#delete-session").click()
    one.locator("#sure-dialog button[value=given]").click()
    expect(other.locator("#notice")).to_contain_text("deleted in another window")


def test_two_thousand_tokens_are_painted_anew_by_each_read_out(visit, address):
    """What a token is labelled and how deep its colour is; `bench.app_painting` has the time that it takes."""
    view = read(ready(visit(address)), "It is five. " * 167)
    view.locator("h1").click()
    painted = {}
    for key in "1234":
        view.keyboard.press(key)
        name = view.locator("#caption b").first.inner_text()
        of_token = "node => [node.ariaLabel, node.style.getPropertyValue('--share')]"
        said = view.evaluate(f"() => [...document.querySelectorAll('.response .text .token')].map({of_token})")
        assert len(said) == 12 * 167 + 1  # a byte each, and EOS
        assert all(f", {name} " in label for label, _ in said)
        painted[key] = [share for _, share in said]
        assert sum(float(share) > 0 for share in painted[key]) > 1000
    assert all(painted[one] != painted[other] for one in "1234" for other in "1234" if one < other)


def test_everything_is_done_by_keys_alone(visit, address):
    """Prompt, response, token, alternative, branch, beside, better, rename, undo, search: no pointer is used."""
    view = ready(visit(address))
    key = view.keyboard.press
    expect(view.locator("#prompt-box")).to_be_focused()
    view.keyboard.type("keys alone")
    key("Tab")
    view.keyboard.type("It is five.")
    key("Control+Enter")
    expect(view.locator("#status")).to_contain_text("Read:")
    key("Escape")
    few(view, 3)
    for _ in range(3):
        key("ArrowRight")
    key("Enter")
    expect(view.locator("#inspector")).to_contain_text("pinned")
    key("a")
    key("ArrowDown")
    key("Enter")
    expect(view.locator("#status")).to_contain_text("Written:")
    expect(branches(view)).to_have_count(2)
    key("b")
    expect(view.locator(".response")).to_have_count(2)
    key("<")
    expect(view.locator("#status")).to_contain_text("a pair to train from")
    key("u")
    expect(view.locator("#status")).to_contain_text("Undone: which is better")
    key("b")
    expect(view.locator(".response")).to_have_count(1)
    key("r")
    view.keyboard.type("mine")
    key("Enter")
    expect(view.locator(".branch[aria-selected=true]")).to_contain_text("mine")
    key("[")
    expect(view.locator(".branch[aria-selected=true]")).to_contain_text("pasted 1")
    key("g")
    key("ArrowDown")
    key("Enter")
    expect(view.locator(".branch[aria-selected=true]")).to_contain_text("mine")
    key("x")
    expect(branches(view)).to_have_count(1)
    key("u")
    expect(branches(view)).to_have_count(2)
    key("v")
    expect(view.locator("#texts")).to_have_class(re.compile("signs"))
    key("?")
    expect(view.locator("#keys")).to_be_visible()
    key("?")
    key("f")
    expect(view.locator("#method")).to_be_focused()
    key("Escape")


def test_a_key_is_asked_for_and_kept_in_the_window_alone(visit, browser):
    """A server that wants a key, as the guards answer without one."""
    from fastapi.responses import JSONResponse

    app, engine = app_of(tiny_reader())

    @app.middleware("http")
    async def guard(request, call_next):
        is_open = request.url.path in ("/", "/health") or request.url.path.startswith("/static/")
        if is_open or request.headers.get("authorization") == "Bearer right":
            return await call_next(request)
        error = {"message": "The key is not one of this server.", "type": "authentication_error"}
        return JSONResponse({"error": error}, 401)

    with served(app, engine) as url:
        view = visit(url, quiet=["401"])
        dialog = view.locator("#key-dialog")
        expect(dialog).to_be_visible()
        view.locator("#key-box").fill("wrong")
        view.keyboard.press("Enter")
        expect(dialog).to_contain_text("not one of this server")
        view.locator("#key-box").fill("right")
        view.keyboard.press("Enter")
        ready(view)
        read(view, "five")
        kept = view.evaluate("() => [Object.keys(localStorage), document.cookie, Object.keys(sessionStorage)]")
        assert kept == [[], "", ["tokenq.key"]]
        view.context.close()


def test_a_server_that_is_killed_in_the_middle(visit, tmp_path):
    """Kill −9 while it writes: the window says so, keeps the text, saves it when the server is back, and goes on."""
    server = Process(tmp_path / "sessions.sqlite")
    try:
        view = read(ready(visit(server.url, quiet=["ERR_"])), "saved before", "killed")
        few(view, 4000, temperature=1, seed=1)
        view.locator("#write").click()
        tokens(view).nth(20).wait_for()
        server.kill()
        expect(view.locator("#notice")).to_contain_text("is kept in this window")
        count = int(re.search(r"\((\d+) tokens\)", view.locator("#notice").inner_text())[1])
        expect(tokens(view)).to_have_count(count)  # the last of them are painted after the notice
        kept = tokens(view).all_text_contents()
        assert count > 20
        expect(view.locator(".branch.draft")).to_contain_text("not saved")
        server.start()
        expect(view.locator("#notice")).to_contain_text("is saved", timeout=120_000)
        expect(branches(view)).to_have_count(2)
        assert tokens(view).all_text_contents()[:-3] == kept[:-3]  # a character may have stood open at the end
        few(view, 5)
        view.locator("#notice-act").click()
        expect(branches(view)).to_have_count(3)
        expect(tokens(view)).to_have_count(len(kept) + 5)
        view.reload()
        ready(view)
        expect(branches(view)).to_have_count(3)
    finally:
        server.kill()


@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows(visit, address, width, scheme):
    view = ready(visit(address, color_scheme=scheme))
    view.set_viewport_size({"width": width, "height": 844})
    assert narrow(view)
    read(view, "It is five, and a_very_long_word_" + "x" * 80 + " 👩‍👩‍👧 שלום 你好", "a prompt " * 12)
    few(view, 6)
    tokens(view).nth(4).click()
    assert narrow(view)
    view.keyboard.press("a")
    view.keyboard.press("Enter")
    expect(view.locator("#status")).to_contain_text("Written:")
    view.keyboard.press("b")
    expect(view.locator(".response")).to_have_count(2)
    view.keyboard.press("t")
    view.locator("#search").evaluate("node => (node.open = true)")
    view.locator("#settings").evaluate("node => (node.open = true)")
    view.locator("#exports summary").click()
    assert narrow(view)
    if folder := os.environ.get("TOKENQ_SCREENSHOTS"):
        view.locator("#exports summary").click()
        view.screenshot(path=f"{folder}/app-{width}-{scheme}.png", full_page=True)
