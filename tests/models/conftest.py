"""What is tested here is how models are proven: no test knows what another has found."""

import pytest


@pytest.fixture(scope="session")
def _shared_proofs() -> None:
    return None
