"""lm-eval through a server and in one process: `python -m bench.lm_eval_parity --model FOLDER --rows FILE.jsonl.gz`.

The same tasks over the same rows go to `tokenq serve` by lm-eval's client for completions (echo with log-probs, which
few servers have), and to lm-eval's own backend of transformers. Rows have a question and an answer that ends in a
number (`#### n`, or the number alone); four tasks ask for log-probs of answers, of a choice among numbers, of whole
texts and for written answers. The difference of each score is printed.
"""

import argparse
import gzip
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.serving import markdown

TASKS = {
    "choice": """
output_type: multiple_choice
doc_to_text: "{{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: 0
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "answer": """
output_type: loglikelihood
doc_to_text: "{{question}}\\nAnswer:"
doc_to_target: " {{answer}}"
metric_list: [{metric: perplexity}, {metric: acc}]
""",
    "text": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{answer}}"
metric_list: [{metric: bits_per_byte}, {metric: byte_perplexity}]
""",
    "written": """
output_type: generate_until
doc_to_text: "{{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 16, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}
"""What is asked of every row, as lm-eval's own files say it."""


def rows_of(path: Path, count: int) -> list[dict[str, Any]]:
    """Return rows with a question, an answer and four numbers to choose from, the right one first."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    read = [json.loads(line) for line in text.decode("utf-8").splitlines()[:count]]
    found = []
    for row in read:
        number = re.findall(r"-?\d+", row["answer"].replace(",", ""))[-1]
        choices = [f" {int(number) + off}" for off in (0, 1, 10, -3)]
        found.append({"question": row["question"], "answer": number, "choices": choices})
    return found


def scores(rows: Sequence[Mapping[str, Any]], model: str, given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what lm-eval reports of every task.

    Args:
        rows: with a question, an answer and choices.
        model: a backend of lm-eval.
        given: its arguments.
        folder: for the files of tasks and rows.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import lm_eval
    from lm_eval.tasks import TaskManager

    data, tasks = folder / "rows.jsonl", folder / "tasks"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tasks.mkdir(exist_ok=True)
    for name, says in TASKS.items():
        where = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
        (tasks / f"{name}.yaml").write_text(f"task: own_{name}\n{where}{says}", encoding="utf-8")
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=model,
        model_args=dict(given),
        tasks=[f"own_{name}" for name in TASKS],
        task_manager=manager,
        batch_size=1,
        bootstrap_iters=0,
    )
    return {
        f"{name} {metric.removesuffix(',none')}": float(value)
        for name in TASKS
        for metric, value in found["results"][f"own_{name}"].items()
        if metric.endswith(",none") and "stderr" not in metric
    }


def through_server(rows: Sequence[Mapping[str, Any]], url: str, name: str, model: str, longest: int) -> dict[str, Any]:
    """Return what lm-eval reports through a server.

    Args:
        rows: what is asked.
        url: of the server.
        name: of the model there.
        model: folder of its tokenizer.
        longest: most tokens that it reads.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = {"model": name, "base_url": f"{url}/v1/completions", "tokenizer": model, "max_length": longest}
        given |= {"tokenizer_backend": "huggingface", "num_concurrent": 4, "add_bos_token": True, "max_retries": 1}
        return scores(rows, "local-completions", given, Path(folder))


def in_process(rows: Sequence[Mapping[str, Any]], model: str, longest: int, dtype: str) -> dict[str, Any]:
    """Return what lm-eval reports with transformers in this process.

    Args:
        rows: what is asked.
        model: folder.
        longest: most tokens that it reads.
        dtype: of its weights.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = {"pretrained": model, "device": "cpu", "dtype": dtype, "add_bos_token": True, "max_length": longest}
        return scores(rows, "hf", given, Path(folder))


def main() -> None:
    """Run both and print every score."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import tokenq

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    asked = parser.parse_args()
    rows = rows_of(asked.rows, asked.count)
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=getattr(torch, asked.dtype))
    both = (model, AutoTokenizer.from_pretrained(asked.model))
    session = tokenq.load(both, both, device="cpu")
    with tokenq.serve(session, port=0, model_name="model") as server:
        served = through_server(rows, server.url, "model", asked.model, asked.longest)
    own = in_process(rows, asked.model, asked.longest, asked.dtype)
    lines = [[name, f"{served[name]:.9g}", f"{own[name]:.9g}", f"{abs(served[name] - own[name]):.1e}"] for name in own]
    print(markdown(["score", "tokenq serve", "hf in process", "difference"], lines))


if __name__ == "__main__":
    main()
