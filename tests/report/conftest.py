"""What the tests of pages share: a way to open a file in a browser that sees what goes wrong, and its exports."""

import pytest


@pytest.fixture
def open_page(browser):
    """Return a function that opens a page from disk.

    Afterwards, see that the console stayed silent and that nothing was asked for but the files that were opened.
    """
    said, asked, opened = [], [], set()
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="light", accept_downloads=True)

    def open_file(path, address=""):
        view = context.new_page()
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.on("dialog", lambda dialog: said.append(dialog.message))
        view.on("request", lambda request: asked.append(request.url))
        opened.add(path.as_uri())
        view.goto(path.as_uri() + address)
        view.locator("[aria-busy=true]").wait_for(state="detached")
        return view

    yield open_file
    context.close()
    assert said == []
    own = ("blob:file", "blob:null", "data:")  # what a page makes by itself, to be taken away
    assert [url for url in asked if url.split("#")[0] not in opened and not url.startswith(own)] == []


@pytest.fixture
def taken_away(tmp_path):
    """Return a function that clicks every export of a page, and gives the files by their kind."""

    def clicked(view):
        files = {}
        for name in ("json", "csv", "svg"):
            with view.expect_download() as caught:
                view.locator(f"#export-{name}").click()
            files[name] = tmp_path / caught.value.suggested_filename
            caught.value.save_as(files[name])
        return files

    return clicked
