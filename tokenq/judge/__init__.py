"""What says how good a response is: true answers, verifiers, reward models, and models that are asked."""
