"""What a checkpoint says of an example: embeddings, outputs, projected gradients, preconditioned rows."""
