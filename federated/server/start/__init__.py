"""What happens before the first round: weights, opening questions, the estimate of a dry run."""
