"""Check the training code of a study with three short training runs."""
