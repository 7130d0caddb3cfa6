"""Parts that several estimators share: masked copies, references, statistics of logits."""
