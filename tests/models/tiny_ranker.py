"""A tiny pairwise ranker in the form of a PairRM checkpoint, and what it says, computed by hand."""

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_tokenizer
from transformers import DebertaV2Config, DebertaV2Model

from tokenq.models.forward.pair_ranker import MARKS

WORDS = ("What is and ? 0 1 2 3 4 5 6 7 8 9 .",)


def write_ranker(folder):
    """Write an encoder below `pretrained_model`, a head, and the ids of the marks, with seeded weights."""
    tokenizer = tiny_tokenizer("words", texts=WORDS)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    tokenizer.save_pretrained(folder)
    ids = {name: tokenizer.convert_tokens_to_ids(mark) for mark, name in MARKS.items()}
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    own = {**ids, "n_tasks": 3, "drop_out": 0.1, "architectures": ["DebertaV2PairRM"], "max_position_embeddings": 64}
    config = DebertaV2Config(vocab_size=len(tokenizer), initializer_range=0.5, **size, **relative, **own)
    config.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = {f"pretrained_model.{name}": one for name, one in DebertaV2Model(config).state_dict().items()}
        for name, shape in {"1.weight": (16, 32), "1.bias": (16,), "4.weight": (3, 16), "4.bias": (3,)}.items():
            weights[f"head_layer.{name}"] = torch.randn(shape)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def by_hand(folder, prompt, first, second):
    """s(h_s, h_1) − s(h_s, h_2) in numpy, from the encoder's last states at the marks of a row put together here."""
    tokenizer = tiny_tokenizer("words", texts=WORDS)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    weights = {name: one for name, one in load_file(folder / "model.safetensors").items()}
    encoder = DebertaV2Model(DebertaV2Config.from_pretrained(folder)).eval()
    own = {name.removeprefix("pretrained_model."): one for name, one in weights.items() if "pretrained" in name}
    encoder.load_state_dict(own)
    parts = [mark + text for mark, text in zip(MARKS, (prompt, first, second), strict=True)]
    ids = [number for part in parts for number in tokenizer(part)["input_ids"]]
    with torch.no_grad():
        states = encoder(input_ids=torch.tensor([ids])).last_hidden_state[0].double().numpy()
    source, *candidates = (states[ids.index(tokenizer.convert_tokens_to_ids(mark))] for mark in MARKS)
    named = ("1.weight", "1.bias", "4.weight", "4.bias")
    w1, b1, w4, b4 = (weights[f"head_layer.{name}"].double().numpy() for name in named)
    one, two = ((w4 @ np.tanh(w1 @ np.concatenate((source, each)) + b1) + b4).mean() for each in candidates)
    return one - two
