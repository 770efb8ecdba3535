"""What an application is told of the server that it belongs to: its model's name, and how much may be asked for."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for all requests.

    Attributes:
        name: of the policy, by which requests ask for it.
        max_new_tokens: most tokens of a response; also what a chat is given that asks for no number.
        max_prompt_tokens: most tokens of a prompt; None for what the models read.
        max_choices: most responses to one prompt, and most samples of a search.
        max_prompts: most prompts of a request.
        max_documents: most documents, texts or pairs of texts of a request that reads them.
        max_logprobs: most alternatives at a token.
        sessions: file of the app's saved sessions; None keeps them until the server ends.
    """

    name: str
    max_new_tokens: int = 4096
    max_prompt_tokens: int | None = None
    max_choices: int = 128
    max_prompts: int = 256
    max_documents: int = 1024
    max_logprobs: int = 20
    sessions: Path | None = None
