"""The page of episodes: which turn is marked, what is said of it, and that texts stay texts."""

from dataclasses import replace

from hand_made_episodes import FAILED, LOST, UNREAD, WON

from tokenq.report.episodes.page import SHOWN, episode_page
from tokenq.report.episodes.view import LostTurn, episode_view, lost_turn


def test_the_turn_that_lost_is_the_largest_fall():
    """The values by turn are 0, .75, −.5, −.875: the second turn takes 1.25."""
    assert lost_turn(LOST) == LostTurn(1, "implicit value", 1.25)
    assert lost_turn(WON) is None
    assert lost_turn(FAILED) is None


def test_without_a_reference_it_is_the_most_surprising_action():
    """Actions have −log π of .75, 1.75 and 2.75."""
    assert lost_turn(UNREAD) == LostTurn(2, "surprisal", 2.75)


def test_what_is_shown_of_an_episode():
    view = episode_view(LOST, 0)
    marked = [one["lost"] for one in view["turns"]]
    assert marked == [None, "lost here: largest fall of the implicit value, −1.25", None]
    assert [one["marks"] for one in view["turns"]] == [[], ["invalid"], []]
    (figure,) = view["figures"]  # nothing was ever rewarded
    assert (figure.title, figure.low, figure.high, len(figure.marks)) == ("implicit value so far", "−0.875", "0.75", 1)
    shades = [[token["classes"] for token in one["tokens"]] for one in view["turns"]]
    assert shades[1] == ["token negative s20", "token positive s3"]  # of 1.5, the deepest: 1, and a sixth
    assert view["turns"][0]["notes"] == ["implicit reward 0.75", "log π −0.75"]
    assert [one.title for one in episode_view(WON, 1)["figures"]] == ["implicit value so far", "return so far"]
    assert [one.title for one in episode_view(UNREAD, 1)["figures"]] == ["surprisal so far"]


def test_messages_are_shown_with_their_roles_and_calls():
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    said = ({"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "<i>4</i>"})
    asked = replace(LOST, turns=(replace(LOST.turns[0], observation=said),), tools=(call,))
    view = episode_view(asked, 0)
    assert view["turns"][0]["said"] == [("assistant", "calls add"), ("tool", "<i>4</i>")]
    assert view["tools"] == ["add"]
    assert "&lt;i&gt;4&lt;/i&gt;" in episode_page([asked])


def test_the_page():
    page = episode_page([LOST, WON, FAILED], title="textworld <played>")
    assert page.startswith("<!doctype html>")
    assert "textworld &lt;played&gt;" in page
    assert "&lt;b&gt;Exits&lt;/b&gt;" in page
    assert "<b>Exits" not in page
    assert "<script" not in page
    assert page.count('class="lost"') == 1
    assert "no answer within 60 s" in page
    assert "0.333" in page  # of three one has succeeded
    assert "No reference was read" not in page
    assert "No reference was read" in episode_page([UNREAD])


def test_of_many_episodes_the_first_are_shown():
    page = episode_page([LOST] * (SHOWN + 3))
    assert page.count('<details class="episode"') == SHOWN
    assert "3 episodes more are in the file" in page
