"""What a check observes in a training process: gradients, inputs and outputs."""
