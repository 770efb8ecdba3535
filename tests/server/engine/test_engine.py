"""The engine's thread: what it refuses, how it ends, searches and other jobs beside it, other models in its place."""

import queue
import threading
import time

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

import tokenq
from tokenq.data.prompts import given_prompts
from tokenq.errors import UserError
from tokenq.server.engine.engine import Engine
from tokenq.server.engine.request import Closed, Full, Generation

PROMPT = (5, 9, 4, 200, 31)
WAIT = 60


def reader_of(seed=0):
    tokenizer = tiny_tokenizer("bytes")
    return tokenq.load((tiny_model("llama", seed=seed), tokenizer), (tiny_model("llama", seed=seed + 1), tokenizer))


@pytest.fixture(scope="module")
def reader():
    return reader_of()


@pytest.fixture
def engine(reader):
    engine = Engine(reader, max_running=4, max_waiting=3)
    yield engine
    engine.close()


def asked(tokens=5, **options):
    return Generation(**{"prompt": PROMPT, "temperature": 0, "max_new_tokens": tokens, "eos": frozenset(), **options})


def answer(engine, one, client=""):
    """Return everything that is delivered, up to its end."""
    delivered = queue.Queue()
    engine.generate(one, delivered.put, client)
    return list(iter(lambda: delivered.get(timeout=WAIT), None))


def ids(delivered):
    return [one.id for one in delivered]


class Gate:
    """A job that holds the engine's thread until it is opened."""

    def __init__(self, engine):
        self._open, inside = threading.Event(), threading.Event()
        self.done = engine.run(lambda _: (inside.set(), self._open.wait(WAIT)))
        assert inside.wait(WAIT)

    def open(self):
        self._open.set()
        self.done.result(WAIT)


def test_many_threads_are_answered_as_decode_answers(engine):
    expected = engine.reader.decode("ab", method="greedy", max_new_tokens=6)
    prompt = tuple(engine.reader.tokenizer("ab").input_ids)
    eos = frozenset({engine.reader.tokenizer.eos_token_id})
    found = {}

    def one(number):
        found[number] = answer(engine, asked(6, prompt=prompt, eos=eos), client=str(number))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    (candidate,) = expected[0].candidates
    for delivered in found.values():
        assert ids(delivered) == list(candidate.token_ids)
        assert [token.logp for token in delivered] == pytest.approx(candidate.logps, abs=1e-5)
    assert len(found) == 3


def test_no_more_wait_than_may(engine):
    gate = Gate(engine)
    delivered = queue.Queue()
    for _ in range(3):
        engine.generate(asked(), delivered.put)
    with pytest.raises(Full):
        engine.generate(asked(), delivered.put)
    assert engine.stats()["waiting"] == 3
    assert engine.stats()["refused"] == 1
    gate.open()
    ends = 0
    while ends < 3:
        ends += delivered.get(timeout=WAIT) is None
    engine.drain()
    assert engine.stats()["ended"] == {"done": 3, "cancelled": 0, "failed": 0}
    assert engine.stats()["tokens_written"] == 15
    assert engine.stats()["bytes_running"] == 0


def test_what_was_called_off_is_delivered_no_more(engine):
    gate = Gate(engine)
    delivered = queue.Queue()
    engine.generate(asked(), delivered.put).cancel()
    gate.open()
    assert delivered.get(timeout=WAIT) is None
    tokens = queue.Queue()
    ticket = engine.generate(asked(200), lambda one: (tokens.put(one), ticket.cancel()))
    assert tokens.get(timeout=WAIT).id >= 0
    assert tokens.get(timeout=WAIT) is None
    engine.drain()
    assert tokens.empty()
    assert engine.stats()["ended"]["cancelled"] == 2


def test_a_receiver_that_is_gone_ends_its_request_alone(engine):
    def gone(_):
        raise RuntimeError("the connection is closed")

    engine.generate(asked(200), gone)
    assert len(answer(engine, asked())) == 5
    engine.drain()
    assert engine.stats()["ended"]["cancelled"] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": ()}, "no tokens"),
        ({"prompt": (5, 288)}, "The prompt has token 288, and the embedding of .* has 288 rows"),
        ({"prompt": (5, -1)}, "token -1"),
        ({"prompt": (5,) * 256}, "256 tokens leaves no room in the model's context of 256"),
        ({"n": 5}, "5 choices are more than the 4"),
        ({"n": 0}, "0 choices"),
        ({"top_p": 0.0}, "leaves nothing to draw"),
        ({"temperature": float("nan")}, "nan"),
        ({"logit_bias": {400: 1.0}}, "The bias has token 400"),
        ({"max_new_tokens": 0}, "Nothing is asked for"),
    ],
)
def test_what_cannot_be_answered_is_refused_at_once(engine, options, said):
    with pytest.raises(UserError, match=said):
        engine.generate(asked(**options), print)


def test_a_choice_ends_where_the_context_is_full(engine):
    delivered = answer(engine, asked(50, prompt=(5,) * 250))
    assert len(delivered) == 6
    assert delivered[-1].finish == "length"


def test_a_job_fails_alone(engine):
    with pytest.raises(ZeroDivisionError):
        engine.run(lambda _: 1 / 0).result(WAIT)
    assert engine.run(lambda reader: reader.score("ab", "c").tokens[0].id).result(WAIT) > 0


@pytest.mark.integration
@pytest.mark.parametrize(
    "own", [{"method": "beam", "width": 2}, {"method": "best_of_n", "n": 2}, {"method": "mcts", "simulations": 6}]
)
def test_a_search_beside_streams_finds_what_it_finds_alone(engine, own):
    settings = {"max_new_tokens": 5, "seed": 1, **own}
    expected = engine.reader.decode("ab", **settings)[0]
    told, delivered = [], queue.Queue()
    engine.generate(asked(100), delivered.put)
    search = engine.search(given_prompts("ab", chat=False), settings, progress=lambda *far: told.append(far))
    (found,) = search.future.result(WAIT)
    assert [one.token_ids for one in found.candidates] == [one.token_ids for one in expected.candidates]
    assert [one.score for one in found.candidates] == pytest.approx(
        [one.score for one in expected.candidates], abs=1e-5
    )
    assert told[-1] == (1000, 1000)
    assert len(list(iter(lambda: delivered.get(timeout=WAIT), None))) == 100


def test_a_search_is_called_off_with_what_it_has(engine):
    def over(*_):
        search.cancel()

    gate = Gate(engine)
    settings = {"method": "sample", "n": 1, "max_new_tokens": 200, "seed": 1, "eos": ()}
    search = engine.search(given_prompts("ab", chat=False), settings, progress=over)
    gate.open()
    (found,) = search.future.result(WAIT)
    assert found.stopped == "interrupted"
    assert len(found.candidates[0].token_ids) < 10


def test_a_proxy_steers_as_in_a_search_of_its_own(engine):
    from tokenq.models.forward.proof import fastest_exact

    pair = [fastest_exact(tiny_model("llama", seed=seed))[0] for seed in (5, 6)]
    steered = Engine(engine.reader, proxies={"small": ((*pair, 0.5),)})
    settings = {"method": "greedy", "max_new_tokens": 6}
    prompts = given_prompts("ab", chat=False)
    (found,) = steered.search(prompts, settings, proxy="small").future.result(WAIT)
    with pytest.raises(UserError, match="smal"):
        steered.search(prompts, settings, proxy="smal")
    steered.close()
    logps, models = [], [tiny_model("llama", seed=seed) for seed in (0, 5, 6)]
    text = [*engine.reader.tokenizer("ab").input_ids]
    with torch.no_grad():
        for token in found.candidates[0].token_ids:
            rows = [model(input_ids=torch.tensor([text])).logits[0, -1].log_softmax(-1) for model in models]
            large, tuned, untuned = rows
            whole = (large + 0.5 * (tuned - untuned)).log_softmax(-1)
            assert int(whole.argmax()) == token
            logps.append(float(whole[token]))
            text.append(token)
    assert found.candidates[0].logps == pytest.approx(logps, abs=1e-4)


def test_other_models_take_over_between_requests(engine):
    before, other = answer(engine, asked()), reader_of(seed=3)
    gate = Gate(engine)
    running = queue.Queue()
    engine.generate(asked(40), running.put)
    gate.open()
    first = running.get(timeout=WAIT)
    swapped = engine.reload(lambda _: other)
    after = answer(engine, asked())
    assert swapped.result(WAIT) is other
    old = [first, *iter(lambda: running.get(timeout=WAIT), None)]
    assert ids(old)[:5] == ids(before)
    assert len(old) == 40
    expected = Engine(other)
    assert ids(after) == ids(answer(expected, asked())) != ids(before)
    expected.close()


def test_weights_written_in_place_take_no_old_keys():
    engine = Engine(reader_of())
    answer(engine, asked(prompt=(*PROMPT, 8)))

    def write(reader):
        with torch.no_grad():
            reader.pair.models.policy.lm.get_input_embeddings().weight.mul_(0.5)
        return reader

    assert engine.stats()["texts_kept"] > 0
    engine.reload(write).result(WAIT)
    assert engine.stats()["texts_kept"] == 0
    fresh = Engine(engine.reader)
    assert ids(answer(engine, asked(prompt=(*PROMPT, 8)))) == ids(answer(fresh, asked(prompt=(*PROMPT, 8))))
    fresh.close()
    engine.close()


def test_a_reload_that_fails_leaves_the_models(engine):
    with pytest.raises(ZeroDivisionError):
        engine.reload(lambda _: 1 / 0).result(WAIT)
    assert len(answer(engine, asked())) == 5


def test_drained_it_takes_nothing_and_ends_what_it_has(engine):
    delivered = queue.Queue()
    engine.generate(asked(30), delivered.put)
    engine.drain()
    assert len(list(iter(delivered.get_nowait, None))) == 30
    with pytest.raises(Closed):
        engine.generate(asked(), delivered.put)
    with pytest.raises(Closed):
        engine.search(given_prompts("ab", chat=False), {"method": "greedy"})


def test_closed_it_ends_everything(reader):
    engine = Engine(reader, max_running=1)
    delivered, waiting = queue.Queue(), queue.Queue()
    engine.generate(asked(200), delivered.put)
    engine.generate(asked(200), waiting.put)
    delivered.get(timeout=WAIT)
    engine.close()
    for one in (delivered, waiting):
        everything = list(iter(lambda one=one: one.get(timeout=WAIT), None))
        assert isinstance(everything[-1], Closed)
    with pytest.raises(Closed):
        engine.run(lambda _: None)


def test_memory_is_flat_over_many_requests(reader):
    """Bytes that run are none between requests; what is kept stays below its limit."""
    engine = Engine(reader, most_kept=40 * 384)
    sizes = []
    for number in range(12):
        answer(engine, asked(4, prompt=(number, *PROMPT), n=2, seed=number))
        engine.run(lambda _: None).result(WAIT)
        sizes.append(engine.stats())
    engine.close()
    assert {one["bytes_running"] for one in sizes} == {0}
    assert 0 < max(one["bytes_kept"] for one in sizes) <= 40 * 384


def test_streams_go_on_while_a_search_runs(engine):
    """The tokens of a stream come between the steps of a search, not behind it."""
    order, delivered = [], queue.Queue()
    settings = {"method": "sample", "n": 1, "max_new_tokens": 40, "seed": 1}
    search = engine.search(given_prompts("ab", chat=False), settings, progress=lambda *_: order.append("search"))
    engine.generate(asked(20), lambda one: (order.append("stream"), delivered.put(one)))
    search.future.result(WAIT)
    begin = time.monotonic()
    while delivered.get(timeout=WAIT) is not None:
        assert time.monotonic() - begin < WAIT
    last = len(order) - 1 - order[::-1].index("search")
    assert "stream" in order[:last]
