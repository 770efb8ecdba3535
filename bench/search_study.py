"""What search buys in the world of posts: `python -m bench.search_study --run runs/demo/dpo --output runs/search`.

The demonstration's own policy summarises posts that it has never seen; the judge is the true reward of that world, so
nothing is modelled and nothing is asked. Beams with and without length normalisation, best of n, chunks and trees are
put beside greedy decoding and beside samples of the same cost.
"""

import argparse
import json
from pathlib import Path

from tokenq.demo.gold import GOLD
from tokenq.demo.tldr import Post, make_posts
from tokenq.jobs.sweep import sweep
from tokenq.records.results import Candidate, SearchResult
from tokenq.terminal.progress import Progress

SETTINGS = (
    "greedy",
    "sample n=16",
    *(f"best_of_n n={n}" for n in (2, 4, 8, 16)),
    *(f"best_of_n n={n} ranking=mean_likelihood" for n in (4, 16)),
    *(f"best_of_n n={n} ranking=likelihood" for n in (4, 16)),
    *(f"beam width={width}" for width in (2, 3, 5, 10, 20)),
    *(f"beam width={width} length_penalty=0" for width in (2, 3, 5, 10, 20)),
    *(f"beam width={width} objective=reward" for width in (2, 5)),
    "chunk_beam width=4",
    *(f"lookahead width=1 lookahead_weight={weight}" for weight in ("1", "5")),
    *(f"mcts simulations={count}" for count in (4, 16)),
    *(f"mcts simulations={count} tree_rule=gumbel" for count in (4, 16)),
    *(f"mcts simulations={count} objective=reward" for count in (4, 16)),
)


def main() -> None:
    """Write the prompts, and sweep them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="a finished run of tokenq demo: runs/demo/dpo")
    parser.add_argument("--output", required=True, help="folder")
    parser.add_argument("--posts", type=int, default=300)
    parser.add_argument("--seed", type=int, default=20_000, help="of the posts: none that the demonstration has seen")
    parser.add_argument("--settings", nargs="*", default=SETTINGS)
    asked = parser.parse_args()
    posts = {str(number): post for number, post in enumerate(make_posts(asked.posts, seed=asked.seed), 1)}
    folder = Path(asked.output)
    folder.mkdir(parents=True, exist_ok=True)
    prompts = folder / "posts.jsonl"
    rows = [json.dumps({"id": number, "prompt": post.prompt}) for number, post in posts.items()]
    prompts.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    with Progress(1) as progress:
        sweep(
            run=asked.run,
            prompts=prompts,
            settings=asked.settings,
            output=folder,
            quality=lambda result, candidate: quality(posts, result, candidate),
            listener=progress,
            max_new_tokens=48,
            batch_size=32,
            device="cpu",
        )


def quality(posts: dict[str, Post], result: SearchResult, candidate: Candidate) -> float:
    """Return the true reward of a summary of the result's post."""
    return GOLD(posts[result.id], candidate.text)


if __name__ == "__main__":
    main()
