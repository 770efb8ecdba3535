"""Search results whose numbers were worked out by hand, and trees made by rule."""

from hand_made_traces import FOREIGN, HOSTILE

from tokenq.records.examples import Message
from tokenq.records.results import Candidate, Cost, SearchResult, SearchTree

EOS = 2


def cost(policy, reference=0, value=0, seconds=1.0, memory=0):
    return Cost(
        policy_tokens=policy, reference_tokens=reference, value_tokens=value, seconds=seconds, peak_memory=memory
    )


def beam_tree():
    """Return a tree of eight tokens: "It is", and behind it " Paris." to its end and " Rome!"; and "No", given up."""
    return SearchTree(
        parents=(-1, 0, 1, 2, 2, 3, 5, 4, 0),
        token_ids=(-1, 10, 11, 12, 14, 13, EOS, 15, 16),
        texts=("", "It", " is", " Paris", " Rome", ".", "", "!", "No"),
        logps=(0.0, -0.5, -0.25, -1.0, -2.0, -0.125, -0.25, -0.5, -3.0),
        scores=(0.0, -0.5, -0.75, -1.75, -2.75, -1.875, -2.125, -3.25, -3.0),
        ends=(False, False, False, False, False, False, True, False, False),
    )


def beam_result(name="1", **given):
    """Return the result of two beams; the second, cut, has the first two tokens of the best."""
    paris = Candidate(
        text="It is Paris.",
        token_ids=(10, 11, 12, 13, EOS),
        score=-0.425,  # −2.125 / 5
        logps=(-0.5, -0.25, -1.0, -0.125, -0.25),
        ref_logps=(-0.5, -0.75, -2.0, -0.125, -0.25),
        terminal=True,
        answer="Paris",
        pieces=("It", " is", " Paris", ".", ""),
    )
    rome = Candidate(
        text="It is Rome!",
        token_ids=(10, 11, 14, 15),
        score=-0.8125,  # −3.25 / 4
        logps=(-0.5, -0.25, -2.0, -0.5),
        ref_logps=(-0.5, -0.75, -1.0, -0.25),
        terminal=False,
        pieces=("It", " is", " Rome", "!"),
    )
    fields = {
        "id": name,
        "prompt": "Where is it?",
        "method": "beam",
        "objective": "likelihood",
        "candidates": (paris, rome),
        "cost": cost(1200, 34, seconds=0.5, memory=2_345_000_000),
        "tree": beam_tree(),
    }
    return SearchResult(**fields | given)


def drawn_result(name="drawn"):
    """Return three samples of an older schema, without tree, reference and pieces, in the order of drawing."""
    return SearchResult(
        id=name,
        prompt=(Message("system", "Be brief."), Message("user", "How many\nbirds?")),
        method="sample",
        objective="likelihood",
        candidates=(
            Candidate("Two birds.", (20, 21, EOS), -4.0, (-1.0, -2.0, -1.0), None, terminal=True),
            Candidate("Two bees.", (20, 22, EOS), -3.0, (-1.0, -1.5, -0.5), None, terminal=True),
            Candidate("A", (23,), -5.0, (-5.0,), None, terminal=False),
        ),
        cost=cost(30, seconds=2.25),
    )


def empty_result(name="empty"):
    """Return what an interrupted search leaves: nothing."""
    return SearchResult(name, "Why?", "beam", "likelihood", (), cost(5), stopped="interrupted")


def wide_result(name="wide", siblings=120):
    """Return a tree search: token i of many behind the prompt has i visits and value −i; two ends behind the last."""
    last = siblings
    count = siblings + 3
    return SearchResult(
        id=name,
        prompt="Choose.",
        method="mcts",
        objective="reward",
        candidates=(
            Candidate(
                f" w{last} end", (last, 900), 1.0, (-1.0, -0.5), (-1.5, -0.5), False, None, (f" w{last}", " end")
            ),
            Candidate(
                f" w{last} stop", (last, 901), 0.5, (-1.0, -1.5), (-1.5, -0.5), False, None, (f" w{last}", " stop")
            ),
        ),
        cost=cost(500, 500, 77),
        tree=SearchTree(
            parents=(-1, *[0] * siblings, last, last),
            token_ids=(-1, *range(1, siblings + 1), 900, 901),
            texts=("", *(f" w{number}" for number in range(1, siblings + 1)), " end", " stop"),
            logps=(0.0, *[-1.0] * siblings, -0.5, -1.5),
            scores=(0.0, *[0.25] * siblings, 1.0, 0.5),
            ends=(*[False] * (siblings + 1), True, True),
            visits=(count, *range(1, siblings + 1), 2, 1),
            values=(0.0, *(float(-number) for number in range(1, siblings + 1)), 1.0, 0.5),
        ),
        stopped="budget",
    )


def large_result(nodes=10_000, branching=10, name="large"):
    """Return a tree of so many nodes, each with as many children; the best candidate goes along the first of them."""
    parents = (-1, *((node - 1) // branching for node in range(1, nodes)))
    path, node = [], 0
    while node * branching + 1 < nodes:
        node = node * branching + 1
        path.append(node)
    logps = tuple(-1.0 - (number * 37 % 100) / 50 for number in path)
    pieces = tuple(f" t{n}" for n in path)
    best = Candidate("".join(pieces), tuple(path), 1.0, logps, None, terminal=False, pieces=pieces)
    tree = SearchTree(
        parents=parents,
        token_ids=(-1, *range(1, nodes)),
        texts=("", *(f" t{number}" for number in range(1, nodes))),
        logps=(0.0, *(-1.0 - (number * 37 % 100) / 50 for number in range(1, nodes))),
        scores=(0.0,) * nodes,
        ends=(False,) * nodes,
        visits=tuple(range(nodes, 0, -1)),
        values=(0.5,) * nodes,
    )
    return SearchResult(name, "Grow.", "mcts", "reward", (best,), cost(nodes), tree)


def hostile_result(name="<b>1</b>"):
    """Return a result of texts that try to break out of a page, or are hard to show, with and without their tree."""
    pieces = (*HOSTILE, *FOREIGN)
    count = len(pieces)
    ids, logps = tuple(range(1, count + 1)), (-1.0,) * count
    text = "".join(pieces)
    return SearchResult(
        id=name,
        prompt=text,
        method=HOSTILE[0],
        objective=HOSTILE[1],
        candidates=(
            Candidate(text, ids, 0.0, logps, logps, terminal=False, answer=HOSTILE[1], pieces=pieces),
            Candidate(text + HOSTILE[0], (*ids[:-1], 99), -1.0, logps, logps, terminal=False, answer=HOSTILE[0]),
        ),
        cost=cost(1, 1),
        tree=SearchTree(
            parents=(-1, *range(count)),
            token_ids=(-1, *ids),
            texts=("", *pieces),
            logps=(0.0, *logps),
            scores=(0.0, *logps),
            ends=(False,) * (count + 1),
        ),
        stopped=HOSTILE[1],
    )
