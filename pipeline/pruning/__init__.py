"""What the six prune scripts share: judge, plan, cut, measure, fine-tune, save."""
