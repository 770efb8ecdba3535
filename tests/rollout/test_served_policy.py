"""A server that misbehaves is caught, with the cause by its name, and an honest one is left alone."""

from dataclasses import dataclass, field

import pytest
import torch
from accelerate import Accelerator
from rollout.stub_engine import Behaviour, StubEngine, opened
from tiny import tiny_model, tiny_tokenizer

import tokenq.jobs.rollout.served as served
from tokenq.judge.endpoint import Endpoint
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.proof_cache import proven
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.writer_checks import WriterError
from tokenq.search.branches import Limits
from tokenq.search.settings import Sampling

pytestmark = pytest.mark.integration

PROMPTS = [[7, 11, 40, 50, 60], [8, 9, 10, 70], [5, 6, 90, 33, 34, 35]]
PLAIN = Sampling()
TOKENIZER = tiny_tokenizer("bpe")


class Told:
    """A listener that keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    def __call__(self, event):
        pass


@dataclass
class Pair:
    """A policy and the server that writes for it."""

    lm: PackedLM
    engine: StubEngine
    policy: served.ServedPolicy
    told: Told
    version: int = 0
    began: list[torch.Tensor] = field(default_factory=list)

    def learn(self, size=0.05):
        """Move every trained weight from where it began, as some updates would."""
        self.version += 1
        generator = torch.Generator().manual_seed(self.version)
        trained = [one for one in self.lm.model.parameters() if one.requires_grad]
        self.began = self.began or [one.detach().clone() for one in trained]
        with torch.no_grad():
            for one, before in zip(trained, self.began, strict=True):
                one.copy_(before + size * torch.randn(one.shape, generator=generator))

    def round(self, seed, sampling=PLAIN):
        """Publish and write, and return what came back."""
        self.policy.refresh(self.version)
        return self.policy.write(PROMPTS, 2, sampling, seed)

    def caught(self, seed, sampling=PLAIN):
        """Return the name of the fault that a round ends in, None for none."""
        try:
            self.round(seed, sampling)
        except WriterError as problem:
            return problem.fault.name
        return None

    def mend(self):
        """Make the server honest again, with the weights of now."""
        self.engine.behaviour = Behaviour()
        self.policy.remote.published = None
        self.round(0)


@pytest.fixture(autouse=True)
def state():
    """What accelerate knows of the process, which is forgotten after every test."""
    return Accelerator(cpu=True)


def pair_of(tmp_path, monkeypatch, *, rank=0, **more):
    patient = Endpoint("", role="writer", key_variable="VLLM_API_KEY", attempts=2, backoff=0.001)
    monkeypatch.setattr(served, "PATIENCE", patient)
    model = tiny_model("llama", layers=1)
    model.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    engine = StubEngine(str(tmp_path / "model"))
    if rank:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    lm, told = proven(model, max_length=64, known=False), Told()
    config = OnlineConfig(
        model=str(tmp_path / "model"),
        output=str(tmp_path / "run"),
        prompts=["p"],
        writer=engine.url,
        lora_rank=rank,
        **more,
    )
    policy = served.served_policy(config, lm, TOKENIZER, Limits((2,), 12), PROMPTS, Accelerator(cpu=True), told)
    return Pair(lm, engine, policy, told)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A policy whose weights are all trained, and read from a folder."""
    with pytest.MonkeyPatch.context() as patch:
        pair = pair_of(tmp_path_factory.mktemp("whole"), patch)
        assert pair.caught(0) is None
        yield pair
    pair.engine.close()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A policy with an adapter, which goes out under a new name every time."""
    with pytest.MonkeyPatch.context() as patch:
        pair = pair_of(tmp_path_factory.mktemp("adapter"), patch, rank=4)
        assert pair.caught(0) is None
        yield pair
    pair.engine.close()


def recoded(ids):
    """Return what the tokenizer makes of the text, with the end where it was."""
    said = TOKENIZER.decode(ids, skip_special_tokens=True)
    return [*TOKENIZER.encode(said, add_special_tokens=False), *([2] if ids[-1] == 2 else [])]


OF_WEIGHTS = {
    "withheld sync": ({"syncs": False}, "stale-weights"),
    "cache not reset": ({"resets": False}, "cache-not-reset"),
    "re-tokenised text": ({"recoded": recoded}, "retokenised"),
    "top-p": ({"own": Sampling(top_p=0.8), "processed": True}, "top-p"),
    "temperature": ({"own": Sampling(temperature=0.7), "processed": True}, "temperature"),
    "text only": ({"text_only": True}, "text-only"),
}


def misbehaving(pair, how, seed):
    """Return what is caught of a server that misbehaves after an honest start; it is honest again afterwards."""
    pair.learn()
    pair.engine.behaviour = Behaviour(**how)
    found = pair.caught(seed)
    pair.mend()
    return found


def counts(whole, adapter, times, names=tuple(OF_WEIGHTS)):
    """Return, by misbehaviour, which faults were found."""
    found = {name: [misbehaving(whole, OF_WEIGHTS[name][0], n) for n in range(times)] for name in names}
    other = opened(adapter.engine.base)
    with torch.no_grad():
        for one in other.model.parameters():
            one.add_(0.05 * torch.randn(one.shape, generator=torch.Generator().manual_seed(1)))
    found["wrong adapter"] = [misbehaving(adapter, {"other_adapter": other}, n) for n in range(times)]
    if times > 1:
        found["never takes an adapter"] = [misbehaving(adapter, {"syncs": False}, n) for n in range(times)]
    return found


def test_what_an_adapter_writes_is_off_for_the_reason_that_there_is(adapter):
    """An engine is asked for no log-probs of a prompt under an adapter, so all it says is what it writes."""
    how = {name: OF_WEIGHTS[name] for name in ("top-p", "temperature", "text only")}
    found = {name: misbehaving(adapter, said, 0) for name, (said, _) in how.items()}
    assert found == {name: fault for name, (_, fault) in how.items()}


EXPECTED = {name: fault for name, (_, fault) in OF_WEIGHTS.items()}
EXPECTED |= {"wrong adapter": "other-weights", "never takes an adapter": "other-weights"}


def test_each_misbehaviour_is_caught_by_its_name(whole, adapter):
    found = counts(whole, adapter, 1, ("withheld sync", "cache not reset", "re-tokenised text"))
    assert len(found) == 4
    assert {name: some[0] for name, some in found.items()} == {name: EXPECTED[name] for name in found}


def test_honest_rounds_raise_no_alarm(whole, adapter):
    for pair in (whole, adapter):
        pair.learn(0.01)
        assert pair.caught(1) is None
    assert not [one for one in whole.told.said if "warning" in one]


@pytest.mark.slow
def test_twenty_of_twenty_and_no_false_alarm_in_a_hundred(whole, adapter):
    found = counts(whole, adapter, 20)
    caught = {name: sum(one == EXPECTED[name] for one in some) for name, some in found.items()}
    alarms = 0
    for seed in range(100):
        pair = (whole, adapter)[seed % 2]
        pair.learn(10 ** -(1 + seed % 5))  # from a great step to one that rounding hides
        alarms += pair.caught(seed, Sampling(temperature=(1.0, 0.7)[seed % 3 == 0])) is not None
    print({**caught, "false alarms of 100": alarms})  # noqa: T201 (with -s: the counts)
    assert caught == dict.fromkeys(EXPECTED, 20)
    assert alarms == 0
