"""A run of two rounds, written by hand, with texts that a page must show and never run."""

from hand_made_runs import write_lines, write_provenance, write_rounds
from hand_made_traces import HOSTILE

from tokenq.records.rollouts import Rollout
from tokenq.report.rounds.page import LONGEST


def response(name, number, reward, text, **more):
    told = {"prompt": f"What is {name}? {HOSTILE[0]}", "prompt_ids": (1,), "token_ids": (5, 2), "logps": (-0.5, -1.5)}
    told |= {"kept_mass": None, "finish": "stop", "writer": "policy", "version": 2, "sampling": {}, "engine": ""}
    return Rollout(id=name, number=number, response=text, use="compared", reward=reward, **told | more).to_dict()


def hand_made_rounds(folder):
    """Write two rounds of three, the last of which compared a hostile response and a long one; return the folder."""
    evaluations = [{}, {"reward": 0.5}, {"reward": 0.7}]
    write_rounds(folder, [{}, {"reward": 0.6}], evaluations, rounds=3, judge="reward_model")
    made = {"command": ["tokenq", "online", "--model", "start"], "versions": {"tokenq": "0.1.0"}}
    write_provenance(folder, data=None, eval_data=None, **made)
    place = folder / "rounds" / "0002"
    place.mkdir(parents=True)
    rows = [response("7", 0, 0.0, "x" * 2 * LONGEST), response("7", 1, 1.0, HOSTILE[1]), response("8", 0, None, "")]
    write_lines(place / "rollouts.jsonl", rows)
    write_lines(place / "pairs.jsonl", [{"id": "7", "chosen_number": 1, "rejected_number": 0}])
    for number, text in ((0, "before"), (2, HOSTILE[2])):
        (folder / "rounds" / f"{number:04d}").mkdir(exist_ok=True)
        write_lines(folder / "rounds" / f"{number:04d}" / "eval.jsonl", [response("eval 1", 0, 0.25, text)])
    return folder
