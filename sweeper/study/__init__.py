"""Studies: study files, search space, plan, sampler, trials and results."""
