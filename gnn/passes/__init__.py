"""A model's energy and derivatives in compiled passes, without the graph of autograd."""
