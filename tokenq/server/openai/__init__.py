"""The endpoints that every client speaks: models, completions and chat, with what two models say of each token."""
