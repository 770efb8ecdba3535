"""Networks of transformers, seen as scorers of packed batches; the only room that imports transformers and peft."""
